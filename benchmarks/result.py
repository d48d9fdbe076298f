"""The schema of a measured run: the measurements, the measured files, the machine and the command.

Version 2 (benchmarks.md 2.6). Numbers are finite; an unbounded end of an interval is null. The times of the blocks are
stored, so that the ratio between any two stages can be computed again. Version 1 can be read too; it had only
wall-clock times, and a zero for an unbounded lower end.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from ..core.errors import ArtifactError, MissingFileError
from ..core.options.stage_options import MetricName
from ..core.options.value_faults import faults_in
from ..core.system.atomic_files import write_atomically
from .device_entries import LongTiming, StartEntry
from .latency_entries import LatencyEntry as LatencyEntry
from .latency_entries import LatencyRun as LatencyRun
from .latency_entries import NoiseEntry as NoiseEntry
from .latency_entries import PercentileEntry as PercentileEntry
from .latency_entries import SpikesEntry as SpikesEntry
from .schema_descriptions import described
from .schema_versions import raise_if_newer
from .spreads import Entry
from .spreads import Spread as Spread
from .stage_details import StageDetails

SCHEMA: Literal["retort.result/2"] = "retort.result/2"
OLDER = "retort.result/1"
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class MetricEntry(Spread):
    """The task metric on ``n`` test samples."""

    name: MetricName
    n: int = Field(ge=1)


class ClassEntry(Entry):
    """The accuracy of one class."""

    name: str
    n: int = Field(ge=1, description="number of its samples; of positions, if each has a class")
    share: Spread = Field(description="share of them that is predicted right, which is the recall")
    precision: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="share of its predictions that are right; null if it is never predicted",
    )
    f1: float | None = Field(default=None, ge=0, le=1, description="harmonic mean of precision and recall")


class MemoryEntry(Entry):
    """Memory of a new process that loads and runs the model."""

    peak_bytes: int = Field(ge=0)
    baseline_bytes: int = Field(ge=0)
    model_bytes: int = Field(ge=0)
    batch: int = Field(ge=1)


class EnergyEntry(Entry):
    """Energy of one sample on a device, in millijoules."""

    net_mj: float = Field(description="without what the device uses anyway; median over the turns")
    low_mj: float = Field(description="smallest net value of the turns")
    high_mj: float = Field(description="largest net value of the turns")
    gross_mj: float
    watts: float
    idle_watts: float
    source: str = Field(description="what counted")
    turns: int = Field(ge=1)
    per_second: float = Field(ge=0, description="readings per second; 0 for a counter")
    remark: str = ""


class StageEntry(Entry):
    """The measurements of one stage's artifact."""

    stage: str = Field(min_length=1)
    sha256: Sha256 = Field(description="hash of the measured file")
    key: str = Field(default="", description="key of the stage's artifact")
    kind: str
    file: str
    size_bytes: int = Field(ge=0)
    gzip_bytes: int | None = Field(default=None, ge=0)
    parameters: int | None = Field(default=None, ge=0)
    macs: int | None = Field(default=None, ge=0, description="multiply-accumulates for one sample")
    metric: MetricEntry | None = None
    drop: Spread | None = Field(default=None, description="loss against the reference stage; positive is worse")
    agreement: Spread | None = None
    sqnr_db: float | None = None
    classes: tuple[ClassEntry, ...] = Field(default=(), description="accuracy by class, if the classes have names")
    confusion: tuple[tuple[int, ...], ...] = Field(
        default=(), description="how often each class (row) is predicted as each class (column), up to 50 named classes"
    )
    latency: dict[int, LatencyEntry] = Field(default_factory=dict, description="by batch size")
    memory: MemoryEntry | None = None
    energy: EnergyEntry | None = None
    start: StartEntry | None = Field(default=None, description="the start of new processes with the model")
    runtime: str = Field(default="", description="what ran the file, such as ONNX Runtime on the CPU; empty if not run")
    seconds: float | None = Field(default=None, ge=0, description="duration of the stage")
    history: tuple[dict[str, float], ...] = Field(default=(), description="one entry per epoch")
    notes: tuple[str, ...] = ()


class GateEntry(Entry):
    """One gate and its verdict."""

    stage: str
    kind: Literal["accuracy_drop", "speedup", "size_ratio"]
    bound: float
    value: float | None
    low: float | None
    high: float | None
    confidence: float
    against: str
    verdict: Literal["passed", "failed", "cannot tell"]
    passed: bool
    sentence: str
    batch_size: int | None = Field(default=None, ge=1, description="batch size of a speedup; null in older files")


class ShipEntry(Entry):
    """The file that a run recommends."""

    stage: str
    file: str = Field(description="path of the file")
    sentence: str


class Result(Entry):
    """A measured run."""

    schema_: Literal["retort.result/2"] = Field(default=SCHEMA, alias="schema")
    id: str
    started: str = Field(description="ISO 8601, UTC")
    seconds: float | None = None
    title: str
    command: str
    tool: dict[str, str]
    env: dict[str, Any]
    data: dict[str, Any] = Field(default_factory=dict, description="fingerprint and sample count of the test split")
    reference: str = Field(description="the reference stage of drops and ratios")
    stages: tuple[StageEntry, ...] = Field(min_length=1)
    runs: tuple[LatencyRun, ...] = ()
    sustained: LongTiming | None = Field(default=None, description="a timing of minutes without a break on a device")
    gates: tuple[GateEntry, ...] = ()
    ship: ShipEntry | None = None
    details: tuple[StageDetails, ...] = Field(default=(), description="what each stage of a run did")
    recipe: str = Field(default="", description="text of the recipe of a run")
    notes: tuple[str, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _older(cls, raw: Any) -> Any:
        """Read version 1 as version 2; the fields that it lacks have defaults."""
        return {**raw, "schema": SCHEMA} if isinstance(raw, dict) and raw.get("schema") == OLDER else raw

    @model_validator(mode="after")
    def _consistent(self) -> Result:
        names = [stage.stage for stage in self.stages]
        if len(set(names)) != len(names):
            raise ValueError("two stages have the same name")
        if self.reference not in names:
            raise ValueError(f"the reference '{self.reference}' is not a stage")
        timed, run = {batch for stage in self.stages for batch in stage.latency}, {run.batch for run in self.runs}
        if timed - run:
            raise ValueError(f"latencies at batch {sorted(timed - run)} have no run")
        return self

    def stage(self, name: str) -> StageEntry:
        """The entry of a stage.

        Raises:
            KeyError: there is no stage with that name.
        """
        return {stage.stage: stage for stage in self.stages}[name]


def to_json(result: Result) -> str:
    """The result as indented JSON text."""
    return result.model_dump_json(by_alias=True, indent=1) + "\n"


def from_json(text: str | bytes, where: str = "the result") -> Result:
    """Inverse of :func:`to_json`.

    Raises:
        ArtifactError: the text is not a valid result; the message lists every fault with its key path.
    """
    try:
        raw = json.loads(text)
    except UnicodeDecodeError as error:
        remedy = "give the .json file that `retort bench` wrote"
        raise ArtifactError(f"{where} is a binary file, and no result of Retort", remedy) from error
    except ValueError as error:
        raise ArtifactError(f"{where} is not JSON: {error}", "measure again with `retort bench`") from error
    raise_if_newer(raw, where, SCHEMA)
    faults = validate(raw)
    if faults and not (isinstance(raw, dict) and {"schema", "stages"} & set(raw)):
        raise ArtifactError(
            f"{where} is JSON, but no result of Retort", "give the .json file that `retort bench` wrote"
        )
    if faults:
        raise ArtifactError(
            f"{where} does not follow {SCHEMA}: {'; '.join(faults)}", "measure again with `retort bench`"
        )
    return Result.model_validate(raw)


def validate(raw: Mapping[str, Any] | Any) -> list[str]:
    """Every fault as ``key.path: message``; empty for a valid result."""
    return faults_in(Result, raw)


def json_schema() -> dict[str, Any]:
    """The JSON Schema of a result, for editors and other tools."""
    return described(Result.model_json_schema(by_alias=True))


def save_result(result: Result, path: Path) -> None:
    """Write a result atomically.

    Raises:
        StorageError: the disk is full or not writable.
    """
    write_atomically(path, to_json(result).encode())


def load_result(path: Path) -> Result:
    """Read a result file.

    Raises:
        MissingFileError: the file does not exist.
        ArtifactError: the file is not a result; the message lists every fault.
    """
    if not path.is_file():
        raise MissingFileError(f"no such result: {path}", "measure with `retort bench`")
    return from_json(path.read_bytes(), path.name)
