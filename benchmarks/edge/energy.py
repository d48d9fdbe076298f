"""Energy of an inference on a device: from its counters, its power rails, or a meter of the user's; never a guess.

Energy per inference = (energy of the span - idle power · seconds) / inferences, with the idle power measured before and
after. The gross value is that without the subtraction (MLPerf Power reports this one).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Any

import numpy as np

from .meter import Meter
from .pulled_results import Part, Pulled

STEADY_PERCENT = 5.0
"""Spread of the turns above which an energy is called unsteady."""
_FEWEST = 3
"""Readings of power that a span needs."""
_INPUT = re.compile(r"(?i)(^|:|_)(v?in|vdd_in|pom_5v_in|vdd_5v_in|5v_in)$")
"""Rails of a Jetson through which the whole module is fed."""
_WITHIN = {"VDDQ_VDD2_1V8AO": "VIN_SYS_5V0"}
"""Rails of a Jetson AGX Orin that another one feeds."""
_PACKAGES = re.compile(r"^(package|psys|dram|energy)")


@dataclass(frozen=True)
class Energy:
    """The energy of one inference of a candidate, in millijoules per sample; medians over the turns.

    Attributes:
        gross_mj: with what the device uses anyway.
        net_mj: without it.
        low_mj: smallest net value of the turns.
        high_mj: largest one.
        watts: power while it computed.
        idle_watts: power while nothing was computed.
        source: what counted, in words.
        turns: number of measurements.
        per_second: readings per second; 0 for a counter, which needs none.
        remark: why the value is not steady; empty if it is.
    """

    name: str
    gross_mj: float
    net_mj: float
    low_mj: float
    high_mj: float
    watts: float
    idle_watts: float
    source: str
    turns: int
    per_second: float
    remark: str = ""


@dataclass(frozen=True)
class _Span:
    """Energy in joules, seconds, what counted, and readings per second."""

    joules: float
    seconds: float
    source: str
    per_second: float


def energies(pulled: Pulled, meter: Meter | None = None) -> list[Energy]:
    """The energy of each candidate, in order; empty where nothing measured it.

    Args:
        meter: readings of a meter in the time of the device, instead of the device's own sensors.
    """
    idle = {part.name: _span(pulled, part, meter) for part in pulled.of_kind("idle") if not part.error}
    found = []
    for candidate in pulled.described["candidates"]:
        parts = [one for one in pulled.of_kind("energy") if one.said["candidate"] == candidate["name"]]
        turns = [(part, _span(pulled, part, meter)) for part in parts if not part.error and part.said["calls"]]
        known = [(part, span, watts) for part, span in turns if span and (watts := _idle_watts(idle, part)) is not None]
        if known:
            found.append(_energy(str(candidate["name"]), known))
    return found


def _idle_watts(idle: Mapping[str, _Span | None], part: Part) -> float | None:
    """Mean power of the pauses before and after the turn of a part."""
    turn = int(part.said["turn"])
    spans = [idle.get(f"idle-{number}") for number in (turn, turn + 1)]
    watts = [span.joules / span.seconds for span in spans if span is not None]
    return fmean(watts) if watts else None


def _energy(name: str, turns: Sequence[tuple[Part, _Span, float]]) -> Energy:
    gross, net = [], []
    for part, span, idle in turns:
        samples = int(part.said["calls"]) * int(part.said["rows"])
        gross.append(1e3 * span.joules / samples)
        net.append(1e3 * (span.joules - idle * span.seconds) / samples)
    middle, (_, first, _) = median(net), turns[0]
    spread = 100 * (max(net) - min(net)) / middle if middle > 0 else float("inf")
    remark = "" if spread <= STEADY_PERCENT else f"its turns differ by {spread:.0f} %"
    if middle <= 0:
        remark = "the device uses no more than when it is idle"
    return Energy(
        name,
        median(gross),
        middle,
        min(net),
        max(net),
        median(span.joules / span.seconds for _, span, _ in turns),
        median(idle for _, _, idle in turns),
        first.source,
        len(turns),
        median(span.per_second for _, span, _ in turns),
        remark,
    )


def _span(pulled: Pulled, part: Part, meter: Meter | None) -> _Span | None:
    """The energy between the beginning and the end of a part's work; None if nothing measured it."""
    begun, ended = part.said["begun"], part.said["ended"]
    seconds = float(ended["t"]) - float(begun["t"])
    if seconds <= 0:
        return None
    if meter is not None:
        watts = meter.between(float(begun["t"]), float(ended["t"]))
        return _of_power(watts, seconds, meter.name)
    used = _counted(begun["microjoules"], ended["microjoules"], pulled.device.get("limits", {}))
    if used is not None:
        return _Span(used[0], seconds, used[1], 0.0)
    readings = [one for one in pulled.during(part.name) if begun["t"] <= one["t"] <= ended["t"] and one.get("watts")]
    if not readings:
        return None
    rails = total_rails(readings[0]["watts"])
    return _of_power([sum(one["watts"].get(name, 0.0) for name in rails) for one in readings], seconds, listed(rails))


def _of_power(watts: Sequence[float], seconds: float, source: str) -> _Span | None:
    if len(watts) < _FEWEST:
        return None
    return _Span(float(np.mean(watts)) * seconds, seconds, source, len(watts) / seconds)


def _counted(
    before: Mapping[str, int], after: Mapping[str, int], limits: Mapping[str, Any]
) -> tuple[float, str] | None:
    """Joules between two readings of the counters, which may have begun again at 0, and the domains."""
    names = total_domains(before)
    if not names or not set(names) <= after.keys():
        return None
    used = 0.0
    for name in names:
        step = after[name] - before[name]
        used += step if step >= 0 else step + int(limits.get("microjoules_wrap", {}).get(name, 0))
    return used / 1e6, listed(names)


def total_domains(found: Iterable[str]) -> list[str]:
    """The domains of energy counters that contain all others: the platform, or else all packages and their memory."""
    found = list(found)
    platform = [name for name in found if name.startswith("psys")]
    return platform or [name for name in found if _PACKAGES.match(name)] or found


def total_rails(found: Mapping[str, float]) -> list[str]:
    """The rails that feed the whole device: an input, or else a power chip, or else all of one sensor chip."""
    inputs = [name for name in found if _INPUT.search(name)]
    chip = [name for name in found if name == "pmic"]
    several = [name for name in found if name.startswith("ina") and not _is_fed(name, found)]
    return inputs[:1] or chip or several or [max(found, key=lambda name: found[name])]


def _is_fed(name: str, found: Iterable[str]) -> bool:
    feeder = _WITHIN.get(name.rpartition(":")[2])
    return feeder is not None and any(other.endswith(f":{feeder}") for other in found)


def listed(names: Sequence[str]) -> str:
    """Names of domains or rails as one text."""
    return " + ".join(names)


def rows_of_energy(found: Sequence[Energy]) -> list[tuple[str, ...]]:
    """A line of a table for each candidate."""
    return [
        (
            one.name,
            f"{one.net_mj:.3g} [{one.low_mj:.3g}, {one.high_mj:.3g}]",
            f"{one.gross_mj:.3g}",
            f"{one.watts:.2f}",
            f"{one.idle_watts:.2f}",
            one.source + (f", {one.per_second:.0f} readings/s" if one.per_second else ""),
            one.remark or "–",
        )
        for one in found
    ]


COLUMNS = ("model", "mJ per sample, net [turns]", "gross", "watts", "idle watts", "measured by", "remark")
