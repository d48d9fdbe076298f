"""What came home from a device beside its times, added to a result: sensors over time, starts, and the long timing."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from .device_entries import MOST, LongTiming, SensorSeries, StartEntry
from .edge import sustained, throttling
from .edge.device_summary import cold_start
from .edge.pulled_results import Part, Pulled
from .edge.throttling import Reading
from .latency_entries import LatencyRun
from .result import Result, StageEntry

DIGITS = 6
"""Digits of times."""


def with_evidence(result: Result, pulled: Pulled) -> Result:
    """A result of a device with the start of each model, the sensors of each timing, and the long timing.

    Args:
        result: one of those that were made of the same run.
    """
    return result.model_copy(
        update={
            "stages": tuple(_with_start(stage, pulled) for stage in result.stages),
            "runs": tuple(_with_sensors(run, str(result.data.get("cores", "all")), pulled) for run in result.runs),
            "sustained": _long_timing(pulled),
        }
    )


def _with_start(stage: StageEntry, pulled: Pulled) -> StageEntry:
    found = cold_start(pulled, stage.stage)
    if found is None:
        return stage
    told = {name: getattr(found, name) for name in StartEntry.model_fields}
    return stage.model_copy(update={"start": StartEntry(**told)})


def _with_sensors(run: LatencyRun, cores: str, pulled: Pulled) -> LatencyRun:
    wanted = {"cores": cores, "threads": run.threads, "batch": run.batch}
    for part in pulled.of_kind("latency"):
        if part.name != sustained.PART and not part.error and wanted.items() <= part.said.items():
            return run.model_copy(update={"sensors": _sensors(part, pulled)})
    return run


def _long_timing(pulled: Pulled) -> LongTiming | None:
    part, ranked = pulled.parts.get(sustained.PART), sustained.sustained(pulled)
    if part is None or not ranked:
        return None
    moments = part.arrays["moments"] - part.arrays["moments"][0]
    spans = _spans(len(moments))
    times = {one.name: np.median(part.arrays[f"spent:{one.name}"].astype(np.float64), axis=1) / 1e6 for one in ranked}
    return LongTiming(
        threads=int(part.said["threads"]),
        batch=int(part.said["batch"]),
        moments_s=tuple(_short(float(np.mean(moments[span]))) for span in spans),
        times_ms={name: tuple(_short(float(np.median(own[span]))) for span in spans) for name, own in times.items()},
        first_ms={one.name: one.first_ms for one in ranked},
        last_ms={one.name: one.last_ms for one in ranked},
        sensors=_sensors(part, pulled),
    )


def _sensors(part: Part, pulled: Pulled) -> SensorSeries | None:
    """The sensors during a part; None if they told nothing that belongs into a figure."""
    readings = pulled.during(part.name)
    if "moments" not in part.arrays or not len(part.arrays["moments"]) or not readings:
        return None
    origin = float(part.arrays["moments"][0])
    limits = pulled.device.get("limits", {})
    throttled = [_short(moment - origin) for moment in throttled_at(readings, limits)]
    spans = _spans(len(readings))
    series = {
        "celsius": _series(readings, spans, "celsius", max),
        "mhz": _series(readings, spans, "mhz", min),
        "watts": _series(readings, spans, "watts", max),
    }
    if not throttled and not any(series.values()):
        return None
    moments = tuple(_short(float(np.mean([one["t"] for one in readings[span]])) - origin) for span in spans)
    kept = throttled[:: max(1, -(-len(throttled) // MOST))]
    return SensorSeries(moments_s=moments, throttled_s=tuple(kept), **series)


def _series(
    readings: Sequence[Reading], spans: Sequence[slice], kind: str, choose: Callable[[Sequence[float]], float]
) -> tuple[float | None, ...]:
    """The largest value of each reading (hottest zone, fastest core, largest rail), one of them for each span."""
    found = []
    for span in spans:
        values = [max(map(float, one[kind].values())) for one in readings[span] if one.get(kind)]
        found.append(_short(choose(values)) if values else None)
    return () if all(value is None for value in found) else tuple(found)


def throttled_at(readings: Sequence[Reading], limits: Mapping[str, Any]) -> list[float]:
    """Moments at which a device was throttled, if the verdict on the whole timing is that it was.

    A moment is one whose reading says so by itself, or beside the one before it, such as by a counter that grew. Where
    only the frequency tells, it is each reading with a low one.

    Args:
        limits: see :func:`.edge.throttling.reasons`.
    """
    if not throttling.reasons(readings, limits):
        return []
    says = [bool(throttling.reasons((one,), limits)) for one in readings]
    for number in range(1, len(readings)):
        if not says[number] and not says[number - 1]:
            says[number] = bool(throttling.reasons(readings[number - 1 : number + 1], limits))
    if not any(says):
        clocks = [max(one["mhz"].values()) if one.get("mhz") else math.inf for one in readings]
        fastest = max((clock for clock in clocks if math.isfinite(clock)), default=0.0)
        says = [clock < throttling.CLOCK_SHARE * fastest for clock in clocks]
    return [float(one["t"]) for one, told in zip(readings, says, strict=True) if told]


def _spans(count: int) -> list[slice]:
    """At most :data:`MOST` spans of equal length that cover so many values."""
    ends = np.linspace(0, count, min(count, MOST) + 1).round().astype(int)
    return [slice(int(start), int(stop)) for start, stop in pairwise(ends)]


def _short(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")
