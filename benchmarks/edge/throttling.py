"""Whether a device was slowed down or disturbed during a part, from what its sensors said."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .runner.sensors import THROTTLED

CLOCK_SHARE = 0.9
"""Share of the highest frequency of the part below which a processor was slowed down."""
SLOW_READINGS = 0.2
"""Share of the readings in which it was."""
FEWEST = 5
"""Number of readings below which nothing is said of frequencies."""
_OCCURRED = 16
"""Distance of the bits that stay set to those that are true now."""
Reading = Mapping[str, Any]


def reasons(readings: Sequence[Reading], trips: Mapping[str, float]) -> list[str]:
    """Why the part was throttled, in words; empty if nothing says so.

    Args:
        trips: temperature in °C from which a zone slows the processor down, by zone.
    """
    return [*_firmware(readings), *_counted(readings), *_slowed(readings, trips)]


def signals(readings: Sequence[Reading]) -> list[str]:
    """What of the device could have told that it was throttled; empty if nothing can be known."""
    kinds = {"firmware": "firmware", "throttle_counts": "throttle counters", "over_current": "over-current events"}
    kinds |= {"mhz": "frequencies"}
    return [told for kind, told in kinds.items() if any(one.get(kind) is not None for one in readings)]


def _firmware(readings: Sequence[Reading]) -> list[str]:
    """Bits of a Raspberry Pi: true in a reading, or set since the first one."""
    found = [int(one["firmware"]) for one in readings if one.get("firmware") is not None]
    if not found:
        return []
    now, since = 0, 0
    for bits in found:
        now |= bits & 0xF
        since |= bits & ~found[0]
    raised = now | (since >> _OCCURRED & 0xF)
    return [f"the firmware says that {told}" for bit, told in THROTTLED.items() if raised >> bit & 1]


def _counted(readings: Sequence[Reading]) -> list[str]:
    """Counters of the kernel that grew."""
    told = []
    for kind, what in (("throttle_counts", "thermal throttling"), ("over_current", "an over-current event")):
        counts = [one[kind] for one in readings if one.get(kind)]
        grown = sum(counts[-1].get(name, 0) - value for name, value in counts[0].items()) if counts else 0
        if grown > 0:
            told.append(f"the kernel counted {what} {grown} {'time' if grown == 1 else 'times'}")
    return told


def _slowed(readings: Sequence[Reading], trips: Mapping[str, float]) -> list[str]:
    """A frequency that fell for a good part of the time while a zone was at its limit."""
    clocks = [max(one["mhz"].values()) for one in readings if one.get("mhz")]
    seen = [(zone, value) for one in readings for zone, value in (one.get("celsius") or {}).items()]
    hot = [value for zone, value in seen if zone in trips and value >= trips[zone]]
    if len(clocks) < FEWEST or not hot:
        return []
    low = sum(value < CLOCK_SHARE * max(clocks) for value in clocks)
    if low < SLOW_READINGS * len(clocks):
        return []
    return [f"at {max(hot):.0f} °C the frequency fell from {max(clocks):.0f} to {min(clocks):.0f} MHz"]


def load(readings: Sequence[Reading]) -> tuple[float | None, float | None]:
    """Share of the time in which a process waited for a CPU, and share that the hypervisor took, both in percent."""
    pressure, steal = None, None
    waited = [(one["t"], one["pressure_us"]) for one in readings if one.get("pressure_us") is not None]
    if len(waited) > 1 and waited[-1][0] > waited[0][0]:
        pressure = (waited[-1][1] - waited[0][1]) / (waited[-1][0] - waited[0][0]) / 1e4
    ticks = [one["ticks"] for one in readings if one.get("ticks")]
    if len(ticks) > 1 and ticks[-1][0] > ticks[0][0]:
        steal = 100 * (ticks[-1][2] - ticks[0][2]) / (ticks[-1][0] - ticks[0][0])
    return pressure, steal
