"""The schema of a measurement under load: scenarios, cold starts, sweeps and long measurements (benchmarks.md 2.6).

It stands beside ``retort.result/2``, whose entries it uses. All times of the queries are stored, so that every figure
can be computed again.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, model_validator

from ...core.errors import ArtifactError
from ...core.metrics.intervals import Floats
from ...core.options.value_faults import faults_in
from ...core.system.atomic_files import write_atomically
from ..raw_times import decoded, encoded
from ..result import PercentileEntry
from ..schema_versions import read_schema
from ..spreads import Entry, RatioEntry, Spread

LOAD_SCHEMA: Literal["retort.load/1"] = "retort.load/1"
Measurement = Literal["single-stream", "multi-stream", "server", "offline", "cold", "sweep", "sustain"]
LoadStatus = Literal["VALID", "NOISY", "INVALID"]
CandidateKind = Literal["program", "graph", "engine", "endpoint"]
_Hash = Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")]


class QueryTimes(Entry):
    """The latency of every answered query in nanoseconds, in the order of their begin, window after window."""

    encoding: Literal["delta-varint-deflate-base64"] = Field(
        default="delta-varint-deflate-base64", description="how the text holds whole numbers"
    )
    count: int = Field(ge=0, description="number of queries")
    data: str

    @staticmethod
    def of(times_ns: Floats) -> QueryTimes:
        """Times as text."""
        return QueryTimes(count=len(times_ns), data=encoded(np.rint(times_ns).astype(np.int64)))

    def times_ns(self) -> Floats:
        """Inverse of :meth:`of`.

        Raises:
            ArtifactError: the text was altered.
        """
        if not self.count:
            return np.zeros(0)
        found = decoded(self.data, self.count)
        if len(found) != self.count:
            raise ArtifactError(f"{len(found)} times are stored, not {self.count}", "measure again")
        return found.astype(np.float64)


class WindowEntry(Entry):
    """One window of one candidate."""

    round: int = Field(ge=0)
    place: int = Field(ge=0, description="place within the round, whose order is random")
    began_s: float = Field(ge=0, description="seconds since the first window")
    seconds: float = Field(ge=0)
    queries: int = Field(ge=0, description="answered queries")
    failed: int = Field(ge=0)
    median_ms: float | None = Field(description="null if no query was answered")


class TrialEntry(Entry):
    """One trial of the search for the highest rate."""

    rate: float = Field(gt=0, description="queries per second")
    bound_ms: float | None = Field(description="upper bound of the 99th percentile; null without one")
    kept: bool
    queries: int = Field(ge=0)
    failed: int = Field(ge=0)


class StageSplitEntry(Entry):
    """Medians of the stages of a query, outside of the timed ones; null where the runtime does not show it apart."""

    prepare_ms: float = Field(ge=0, description="reading, decoding and arranging the samples")
    copy_in_ms: float | None = Field(ge=0)
    run_ms: float = Field(ge=0, description="the model; for an endpoint the whole request")
    copy_out_ms: float | None = Field(ge=0)


class StartEntry(Entry):
    """One new process; milliseconds since its start, or of a step."""

    page_cache: Literal["warm", "dropped"]
    cached_percent: float | None = Field(description="share of the file that was in it; null if unknown")
    import_ms: float = Field(ge=0, description="from the start of the process until the runtime is imported")
    load_ms: float = Field(ge=0, description="opening the model")
    first_ms: float = Field(ge=0, description="the first call")
    steady_ms: float = Field(ge=0, description="from the start of the process until the times of calls are steady")
    calls_ms: tuple[float, ...]
    peak_bytes: int = Field(ge=0)


class ColdEntry(Entry):
    """The starts of one candidate with one state of the page cache."""

    page_cache: Literal["warm", "dropped"]
    import_ms: Spread
    load_ms: Spread
    first_ms: Spread
    steady_ms: Spread


class LoadEntry(Entry):
    """The measurements of one candidate."""

    name: str = Field(min_length=1)
    where: str = Field(description="path of the file, or address")
    kind: CandidateKind
    runtime: str
    sha256: _Hash = Field(default="", description="hash of the file; empty for an endpoint")
    size_bytes: int = Field(default=0, ge=0)
    threads: int = Field(default=0, ge=0, description="threads of the runtime; 0 for an endpoint")
    per_query: int = Field(default=1, ge=1, description="samples in one query")
    clients: int = Field(default=1, ge=1, description="queries that could be open at once")
    queries: int = Field(default=0, ge=0, description="answered queries")
    failed: int = Field(default=0, ge=0)
    rate: float | None = Field(default=None, description="queries per second that were sent; null if not scheduled")
    trials: tuple[TrialEntry, ...] = ()
    median_ms: Spread | None = Field(default=None, description="median of the medians of the windows")
    mean_ms: float | None = None
    percentiles: tuple[PercentileEntry, ...] = ()
    rows_per_second: Spread | None = None
    ratio: RatioEntry | None = Field(default=None, description="times faster than the first candidate")
    late_p99_ms: float | None = Field(default=None, description="how late the 99th of 100 scheduled queries was sent")
    warmup_ms: tuple[float, ...] = Field(default=(), description="median of each block of the warm-up")
    windows: tuple[WindowEntry, ...] = ()
    stages: StageSplitEntry | None = None
    raw: QueryTimes | None = None
    pareto: bool | None = Field(default=None, description="whether nothing else has lower latency and more throughput")
    first_minute_ms: float | None = None
    last_minute_ms: float | None = None
    cold: tuple[ColdEntry, ...] = ()
    starts: tuple[StartEntry, ...] = ()


class LoadResult(Entry):
    """A measurement under load."""

    schema_: Literal["retort.load/1"] = Field(default=LOAD_SCHEMA, alias="schema")
    id: str
    started: str = Field(description="ISO 8601, UTC")
    seconds: float = Field(ge=0)
    measurement: Measurement
    title: str
    command: str
    tool: dict[str, str]
    env: dict[str, Any]
    data: dict[str, Any] = Field(default_factory=dict)
    options: dict[str, Any] = Field(default_factory=dict)
    candidates: tuple[LoadEntry, ...] = Field(min_length=1)
    pressure_percent: float | None = Field(default=None, description="time in which processes waited for a CPU")
    steal_percent: float | None = Field(default=None, description="CPU time that the hypervisor took")
    notes: tuple[str, ...] = ()
    status: LoadStatus | None = Field(
        default=None, description="whether decisions can be based on it; null in results of earlier versions"
    )
    reasons: tuple[str, ...] = Field(default=(), description="why not")
    interrupted: bool = Field(default=False, description="whether Ctrl-C ended it early; what was complete is here")

    @model_validator(mode="after")
    def _consistent(self) -> LoadResult:
        keys = [(one.name, one.threads, one.per_query) for one in self.candidates]
        if len(set(keys)) != len(keys):
            raise ValueError("two candidates have the same name, threads and samples per query")
        for one in self.candidates:
            if one.raw is not None and one.raw.count != one.queries:
                raise ValueError(f"'{one.name}' has {one.queries} queries and {one.raw.count} stored times")
        return self


def load_faults(raw: Any) -> list[str]:
    """Every fault as ``key.path: message``; empty for a valid result."""
    return faults_in(LoadResult, raw)


def load_json_schema() -> dict[str, Any]:
    """The JSON Schema of a measurement under load, for editors and other tools."""
    return LoadResult.model_json_schema(by_alias=True)


def read_load(path: Path) -> LoadResult:
    """Read a result file.

    Raises:
        MissingFileError: the file does not exist.
        ArtifactError: it is not a result of a load, or was altered; the message lists every fault.
    """
    raw = read_schema(path, LOAD_SCHEMA, "result of a load", "retort bench load")
    faults = load_faults(raw)
    if faults:
        raise ArtifactError(f"{path.name} does not follow {LOAD_SCHEMA}: {'; '.join(faults)}", "measure again")
    return LoadResult.model_validate(raw)


def write_load(result: LoadResult, path: Path) -> None:
    """Write a result atomically.

    Raises:
        StorageError: the disk is full or not writable.
    """
    write_atomically(path, (result.model_dump_json(by_alias=True, indent=1) + "\n").encode())


def brief(result: LoadResult) -> dict[str, Any]:
    """A result as JSON-ready values without the single times, for one line of output."""
    return result.model_dump(
        mode="json", by_alias=True, exclude={"candidates": {"__all__": {"raw", "windows"}}, "env": True}
    )
