"""The schema of an imported result: the figures and series of another tool, and its file bit for bit.

``retort.peer/1``. Numbers keep the peer's names and units; :class:`Summary` has those that every tool reports, in
milliseconds, so that results of different tools can stand in one table.
"""

from __future__ import annotations

import base64
import hashlib
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, model_validator

from ...core.errors import ArtifactError
from ...core.options.value_faults import faults_in
from ...core.system.atomic_files import write_atomically
from ..result import PercentileEntry
from ..schema_versions import read_schema
from ..spreads import Entry
from ..timing.statistics import percentile_interval, samples_needed

PEER_SCHEMA: Literal["retort.peer/1"] = "retort.peer/1"
PERCENTILES = (50.0, 90.0, 95.0, 99.0, 99.9)
MS = {"ns": 1e-6, "us": 1e-3, "µs": 1e-3, "usec": 1e-3, "ms": 1.0, "s": 1e3, "second": 1e3, "sec": 1e3}
"""Milliseconds in one unit of time."""
Number = int | float


class FigureEntry(Entry):
    """One number, under the peer's name and in the peer's unit."""

    name: str
    value: Number
    unit: str = ""


class SeriesEntry(Entry):
    """Numbers that belong together, such as the time of every run, in order."""

    name: str
    values: tuple[Number, ...]
    unit: str = ""


class Summary(Entry):
    """What most tools report; null for what this one does not."""

    n: int | None = Field(default=None, ge=0, description="number of timed calls or queries")
    mean_ms: float | None = None
    low_ms: float | None = Field(default=None, description="the shortest")
    high_ms: float | None = Field(default=None, description="the longest")
    percentiles: tuple[PercentileEntry, ...] = Field(
        default=(), description="with intervals if the peer wrote single times; otherwise its own values without"
    )
    per_second: float | None = Field(default=None, description="calls, queries or samples per second")


class PeerRun(Entry):
    """One measurement in a file: a command, a model, a scenario or a concurrency."""

    name: str = Field(min_length=1)
    figures: tuple[FigureEntry, ...] = ()
    series: tuple[SeriesEntry, ...] = ()
    texts: dict[str, str] = Field(default_factory=dict, description="what is not a number, and lines of free text")
    summary: Summary = Summary()

    def figure(self, name: str) -> Number | None:
        """The value under a name; None if there is none."""
        return next((one.value for one in self.figures if one.name == name), None)


class PeerResult(Entry):
    """An imported file."""

    schema_: Literal["retort.peer/1"] = Field(default=PEER_SCHEMA, alias="schema")
    tool: str = Field(description="the peer that wrote the file")
    version: str = Field(default="", description="its version; empty if the file does not tell")
    file: str
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    runs: tuple[PeerRun, ...] = Field(min_length=1)
    original: str = Field(description="the file itself: zlib, then base64")

    @model_validator(mode="after")
    def _unaltered(self) -> PeerResult:
        if hashlib.sha256(self.original_bytes()).hexdigest() != self.sha256:
            raise ValueError("the original file does not have the SHA-256 that stands here")
        return self

    def original_bytes(self) -> bytes:
        """The imported file, bit for bit."""
        try:
            return zlib.decompress(base64.b64decode(self.original, validate=True))
        except (ValueError, zlib.error) as error:
            raise ValueError(f"the original file cannot be read: {error}") from error


def packed(content: bytes) -> str:
    """A file as text for :attr:`PeerResult.original`."""
    return base64.b64encode(zlib.compress(content, 9)).decode()


def of_times(values: Sequence[Number], unit: str, per_second: float | None = None) -> Summary:
    """The summary of single times, whose percentiles have intervals."""
    times = np.asarray(values, np.float64) * MS[unit]
    return Summary(
        n=len(times),
        mean_ms=float(times.mean()),
        low_ms=float(times.min()),
        high_ms=float(times.max()),
        percentiles=tuple(PercentileEntry.of(percentile_interval(times, percent)) for percent in PERCENTILES),
        per_second=per_second,
    )


def told(percent: float, value_ms: float, n: int | None) -> PercentileEntry:
    """A percentile that the peer tells, without an interval."""
    return PercentileEntry(
        percentile=percent, value_ms=value_ms, low_ms=None, high_ms=None, n=n or 0, needed=samples_needed(percent)
    )


def peer_faults(raw: Any) -> list[str]:
    """Every fault as ``key.path: message``; empty for a valid imported result."""
    return faults_in(PeerResult, raw)


def peer_json_schema() -> dict[str, Any]:
    """The JSON Schema of an imported result, for editors and other tools."""
    return PeerResult.model_json_schema(by_alias=True)


def read_peer(path: Path) -> PeerResult:
    """Read an imported result.

    Raises:
        MissingFileError: the file does not exist.
        ArtifactError: it is no imported result, or was altered.
    """
    raw = read_schema(path, PEER_SCHEMA, "imported result", "retort bench import")
    if faults := peer_faults(raw):
        raise ArtifactError(f"{path.name}: {'; '.join(faults)}", "import the peer's file again")
    return PeerResult.model_validate(raw)


def write_peer(result: PeerResult, path: Path) -> None:
    """Write an imported result atomically.

    Raises:
        StorageError: the disk is full or not writable.
    """
    write_atomically(path, (result.model_dump_json(by_alias=True, indent=1) + "\n").encode())
