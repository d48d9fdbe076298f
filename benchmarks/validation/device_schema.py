"""The schema of what a device writes: ``result.json``, and each part of a run beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ...core.options.value_faults import faults_told
from ...core.system.owned_folders import sha256_file
from ..result import Sha256

_LISTED = {"device.json", "sensors.jsonl"}


class _Written(BaseModel):
    model_config = ConfigDict(frozen=True, extra="allow", allow_inf_nan=False)


class PlanOfDevice(_Written):
    """How often a model was called in a slot and in a block."""

    calls: int = Field(ge=1, description="calls between two readings of the clock")
    samples: int = Field(ge=1, description="slots per block")
    groups: int = Field(ge=1, description="readings per slot")
    call_ns: float = Field(ge=0, description="duration of a call in the calibration, in nanoseconds")


class SpanEnd(_Written):
    """One end of a span of time in which energy was counted."""

    t: float = Field(description="seconds of the monotonic clock of the device")
    unix_s: float = Field(description="seconds since 1970")
    microjoules: dict[str, int] = Field(description="the energy counters of the device by name; empty without any")


class DevicePart(_Written):
    """One part of a run: ``NAME.json``; the raw numbers are in ``NAME.npz`` beside it."""

    kind: Literal["latency", "accuracy", "cold", "energy", "idle"] = Field(description="what was measured")
    name: str = Field(default="", description="name of the part; missing in older results")
    error: str = Field(default="", description="why the part failed; empty if it did not")
    seed: int = Field(description="seed of the order of blocks")
    manifest: Sha256 = Field(description="SHA-256 of the description of the bundle")
    threads: int = Field(default=0, ge=0, description="threads of the runtime")
    candidate: str = Field(default="", description="the model of a start or of an accuracy")
    candidates: dict[str, str] | tuple[str, ...] = Field(
        default=(), description="the models of a timing by the names in its raw numbers; a list in older results"
    )
    reference: str = Field(default="", description="the reference of a timing")
    batch: int = Field(default=1, ge=1, description="rows per call")
    batches: tuple[int, ...] = Field(default=(), description="rows per call that an accuracy tries, the largest first")
    pinned: bool = Field(default=False, description="whether the threads stay on the cores of a kind")
    needs_power: bool = Field(default=False, description="whether an energy is left out where nothing counts it")
    cores: str = Field(default="all", description="kind of cores of a timing: all, big or little")
    clock: Literal["thread", "wall"] = Field(default="wall", description="the clock of a timing that decides")
    plans: dict[str, PlanOfDevice] = Field(default={}, description="how each model was timed")
    rounds: int = Field(default=0, ge=0, description="number of rounds of a timing")
    turns: tuple[int, ...] = Field(default=(), description="rounds at which sessions were opened again")
    stopped: str = Field(default="", description="why a timing was enough: precise, or time")
    step_ns: int = Field(default=0, ge=0, description="smallest step of the clock, in nanoseconds")
    seconds_used: float = Field(default=0.0, ge=0, description="duration of a timing")
    rows: int = Field(default=0, ge=0, description="computed samples of an accuracy; rows per call of an energy")
    calls: int = Field(default=0, ge=0, description="calls of an energy; most calls of a start")
    turn: int = Field(default=0, ge=0, description="the turn of an energy")
    begun: SpanEnd | None = Field(default=None, description="beginning of an energy or of a pause")
    ended: SpanEnd | None = Field(default=None, description="end of an energy or of a pause")
    import_s: float | None = Field(default=None, description="start: import of the runtime, in seconds")
    load_s: float | None = Field(default=None, description="start: opening of the model, in seconds")
    first_s: float | None = Field(default=None, description="start: first inference, in seconds")
    calls_s: tuple[float, ...] = Field(default=(), description="start: the following inferences, in seconds")
    peak_bytes: int | None = Field(default=None, description="start: largest resident memory of the process")
    baseline_bytes: int | None = Field(default=None, description="start: memory before the model was opened")


class DeviceResult(_Written):
    """``result.json``: what a device wrote in a run, with the checksum of every file."""

    schema_: Literal["retort.edge/1"] = Field(alias="schema", description="name and version of the form")
    manifest: Sha256 = Field(description="SHA-256 of the description of the bundle that was measured")
    state: Literal["finished", "failed", "ended"] = Field(description="how the run ended; failed: a part of it")
    why: str = Field(description="why it was ended; empty if it was not")
    files: dict[str, Sha256] = Field(description="SHA-256 of every file beside it")
    parts: tuple[str, ...] = Field(description="names of all parts, in order; a part of this list may be missing")


def device_json_schema() -> dict[str, Any]:
    """The JSON Schema of ``result.json``, with that of its parts below ``$defs``."""
    made = DeviceResult.model_json_schema(by_alias=True)
    part = DevicePart.model_json_schema(by_alias=True)
    inner = part.pop("$defs", {})
    made["$defs"] = {**made.get("$defs", {}), **inner, "DevicePart": part}
    return made


def device_faults(raw: Any, path: Path) -> tuple[list[str], int]:
    """Every fault of a device's result with its key path, and the number of compared checksums.

    Args:
        path: ``result.json``; the files that it lists lie beside it.
    """
    try:
        result = DeviceResult.model_validate(raw)
    except ValidationError as error:
        return faults_told(error, ""), 0
    faults = [f"files: {name} is not listed" for name in sorted(_LISTED - result.files.keys())]
    compared = 0
    for name, wanted in result.files.items():
        beside = path.parent / name
        if Path(name).name != name:
            faults.append(f"files.{name}: it is no file beside the result")
        elif not beside.is_file():
            faults.append(f"files.{name}: {beside} is missing")
        else:
            compared += 1
            found = sha256_file(beside)
            if found != wanted:
                faults.append(f"files.{name}: {beside} has SHA-256 {found[:12]}…, and was written as {wanted[:12]}…")
            elif name.removesuffix(".json") in result.parts:
                faults += _part_faults(beside, result.manifest)
    return faults, compared


def _part_faults(path: Path, manifest: str) -> list[str]:
    try:
        part = DevicePart.model_validate_json(path.read_bytes())
    except ValidationError as error:
        return faults_told(error, f"{path.name}: ")
    return [] if part.manifest == manifest else [f"{path.name}: manifest: it belongs to another bundle"]
