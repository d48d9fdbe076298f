"""What a run found besides latency and accuracy: starts, memory, outputs beside this machine's, heat and energy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import Any

import numpy as np

from . import throttling
from .energy import total_domains, total_rails
from .outputs_here import sentence
from .pulled_results import Part, Pulled

STEADY = 1.1
"""A call is steady when it takes no longer than this many times the median of the last calls."""
_LAST = 10


@dataclass(frozen=True)
class ColdStart:
    """The medians over the starts of new processes, in seconds.

    Attributes:
        import_s: import of the runtime, with the start of Python's own modules.
        load_s: opening of the model.
        first_s: first inference.
        steady_s: from the start of the process until an inference took as long as later ones.
        cold_file_load_s: opening where the file was not in the page cache; None if no start was so.
        starts: number of starts.
    """

    import_s: float
    load_s: float
    first_s: float
    steady_s: float
    cold_file_load_s: float | None
    starts: int


def cold_start(pulled: Pulled, name: str) -> ColdStart | None:
    """The starts of a candidate; None if none was measured."""
    starts = [part.said for part in pulled.of_kind("cold") if part.said["candidate"] == name and not part.error]
    if not starts:
        return None
    warm = [one for one in starts if not one["drop_cache"]] or starts
    cold = [float(one["load_s"]) for one in starts if one["drop_cache"]]
    found = {key: median(float(one[key]) for one in warm) for key in ("import_s", "load_s", "first_s")}
    return ColdStart(
        **found,
        steady_s=median(_steady_s(one) for one in warm),
        cold_file_load_s=median(cold) if cold else None,
        starts=len(starts),
    )


def _steady_s(start: Mapping[str, Any]) -> float:
    """Seconds from the start of a process to the end of the first call that is as short as the last ones."""
    calls = [float(value) for value in start["calls_s"]]
    limit = STEADY * median(calls[-_LAST:])
    before = sum(float(start[key]) for key in ("start_s", "import_s", "load_s"))
    for number, value in enumerate(calls):
        if value <= limit:
            return before + sum(calls[: number + 1])
    return before + sum(calls)


def rows_of_models(pulled: Pulled) -> list[tuple[str, ...]]:
    """A line of a table for each candidate: its start, its memory, and its outputs beside this machine's."""
    rows = []
    for candidate in pulled.described["candidates"]:
        name = str(candidate["name"])
        start = cold_start(pulled, name)
        cells = ["–"] * 5
        if start is not None:
            cold = "" if start.cold_file_load_s is None else f" ({1000 * start.cold_file_load_s:.0f})"
            cells = [f"{1000 * start.import_s:.0f}", f"{1000 * start.load_s:.0f}{cold}", f"{1000 * start.first_s:.1f}"]
            cells += [f"{1000 * start.steady_s:.0f}", _memory(pulled, name)]
        rows.append((name, *cells, sentence(pulled, name)))
    return rows


COLUMNS = (
    "model",
    "import ms",
    "load ms (cold file)",
    "first ms",
    "steady after ms",
    "memory MB",
    "outputs",
)


def _memory(pulled: Pulled, name: str) -> str:
    peaks = [
        int(part.said["peak_bytes"])
        for part in pulled.of_kind("cold")
        if part.said["candidate"] == name and part.said.get("peak_bytes")
    ]
    return f"{median(peaks) / 1e6:.0f}" if peaks else "–"


def lines_of_device(pulled: Pulled) -> list[str]:
    """What the device said of itself during the timings, in sentences."""
    timed = [part for part in pulled.of_kind("latency") if not part.error]
    readings = [one for part in timed for one in pulled.during(part.name)]
    told = [_heat(readings), _energy(pulled, timed), throttling.short_events(readings)]
    if not throttling.signals(readings, pulled.device.get("limits", {})):
        told.append("nothing on this device says whether it was throttled")
    return [one for one in told if one]


def _heat(readings: Sequence[Mapping[str, Any]]) -> str:
    hottest = [max(one["celsius"].values()) for one in readings if one.get("celsius")]
    clocks = [max(one["mhz"].values()) for one in readings if one.get("mhz")]
    parts = [f"{hottest[0]:.0f} °C at first and at most {max(hottest):.0f} °C"] if hottest else []
    parts += [f"{min(clocks):.0f} to {max(clocks):.0f} MHz"] if clocks else []
    return "; ".join(parts)


def _energy(pulled: Pulled, timed: Sequence[Part]) -> str:
    """Mean power of the timings, from counters or from rails; "unavailable" where there is neither."""
    wraps = dict(pulled.device.get("limits", {}).get("microjoules_wrap", {}))
    watts = [value for part in timed if (value := _watts(pulled.during(part.name), wraps)) is not None]
    return f"{median(watts):.1f} W on average during the timings" if watts else "energy: unavailable on this device"


def _watts(readings: Sequence[Mapping[str, Any]], wraps: Mapping[str, int]) -> float | None:
    """Mean power between the first and the last reading.

    Counters may wrap between two readings; those that contain others count, as do rails that feed others.
    """
    counted = [one for one in readings if one.get("microjoules")]
    if len(counted) > 1 and counted[-1]["t"] > counted[0]["t"]:
        used = 0.0
        names = total_domains(counted[0]["microjoules"])
        for before, after in pairwise(counted):
            for name in names:
                value = after["microjoules"].get(name, 0)
                step = value - before["microjoules"].get(name, value)
                used += step if step >= 0 else step + wraps.get(name, 0)
        return used / 1e6 / float(counted[-1]["t"] - counted[0]["t"])
    powered = [one["watts"] for one in readings if one.get("watts")]
    rails = [sum(one.get(name, 0.0) for name in total_rails(powered[0])) for one in powered]
    return float(np.mean(rails)) if rails else None
