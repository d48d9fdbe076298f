"""Whether a device was slowed down or disturbed during a part, from what its sensors said."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import reduce
from itertools import pairwise
from operator import or_
from typing import Any

from ...core.counts import counted

THROTTLED = {
    0: "the voltage is too low",
    1: "the frequency is capped",
    2: "the processor is throttled",
    3: "the soft temperature limit is active",
}
"""Bits of ``vcgencmd get_throttled`` that are true now; 16 higher they say that it has occurred since the start."""
GPU_SLOWED = {
    0x04: "its power limit",
    0x08: "a slowdown of the hardware",
    0x20: "its temperature",
    0x40: "its temperature, by the hardware",
    0x80: "a power brake",
}
"""Bits of NVML's clock event reasons that slow a GPU down; the others are idleness and settings of the user."""
_GPU_POWER, _GPU_HARDWARE, _GPU_DETAILS = 0x04, 0x08, {0x40, 0x80}
GPU_IDLE = 8
"""Performance state from which a GPU is idle; it says there that its power is limited, and nothing is slowed."""
CLOCK_SHARE = 0.9
"""Share of the highest frequency of the part below which a processor was slowed down."""
SLOW_READINGS = 0.2
"""Share of the readings in which it was."""
FEWEST = 5
"""Number of readings below which nothing is said of frequencies."""
AT_CAP = 0.95
"""Share of the power that is allowed for long from which a processor is at it."""
SHORT_EVENT_S = 1.1e-3
"""Duration of one event of the counter of short currents of a Jetson Orin, in which its frequencies are halved."""
SHORT_EVENTS = 0.01
"""Share of the time in such events from which a part was slowed down."""
_SHORT_COUNTER = "oc3_event_cnt"
_OCCURRED = 16
"""Distance of the bits that stay set to those that are true now."""
Reading = Mapping[str, Any]


def reasons(readings: Sequence[Reading], limits: Mapping[str, Any]) -> list[str]:
    """Why the part was throttled, in words; empty if nothing says so.

    Args:
        limits: what belongs to the readings and does not change, as :meth:`Sensors.limits` gives it.
    """
    return [
        *_firmware(readings),
        *_alarmed(readings),
        *_cooled(readings),
        *_counted(readings),
        *_over_current(readings),
        *_slowed(readings, limits),
        *_capped(readings, limits),
        *_gpus(readings),
    ]


def signals(readings: Sequence[Reading], limits: Mapping[str, Any]) -> list[str]:
    """What of the device could have told that it was throttled; empty if nothing can be known."""
    kinds = {
        "firmware": "firmware",
        "under_voltage": "under-voltage alarm",
        "throttle_counts": "throttle counters",
        "over_current": "over-current events",
    }
    told = [name for kind, name in kinds.items() if any(one.get(kind) is not None for one in readings)]
    if any("0x" in line for one in readings for line in one.get("gpu") or ()):
        told.append("GPU")
    has_clocks = any(one.get("mhz") for one in readings)
    if limits.get("cooling"):
        told.append("cooling devices")
    elif has_clocks and limits.get("trips_celsius"):
        told.append("frequencies at a temperature limit")
    if has_clocks and _caps(readings, limits):
        told.append("frequencies at a power limit")
    return told


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


def _alarmed(readings: Sequence[Reading]) -> list[str]:
    """The kernel's alarm of a Raspberry Pi, which needs no program; the firmware says the same where it is asked."""
    if any(one.get("firmware") is not None for one in readings):
        return []
    low = any(value for one in readings for value in (one.get("under_voltage") or {}).values())
    return ["the kernel says that the voltage is too low"] if low else []


def _cooled(readings: Sequence[Reading]) -> list[str]:
    """Cooling devices by which the kernel slowed something down, and alerts of a Jetson that it did."""
    states: dict[str, int] = {}
    for one in readings:
        for name, state in (one.get("cooling") or {}).items():
            states[name] = max(states.get(name, 0), int(state))
    if not states:
        return []
    told = ", ".join(f"{name.rpartition(' (')[0]} at level {state}" for name, state in states.items())
    return [f"the kernel slowed down against heat: {told}"]


def _growth(readings: Sequence[Reading], kind: str) -> dict[str, int]:
    """By how much the counters of a kind grew from the first to the last reading; only those that did."""
    counts = [one[kind] for one in readings if one.get(kind)]
    grown = {name: counts[-1].get(name, 0) - value for name, value in counts[0].items()} if counts else {}
    return {name: value for name, value in grown.items() if value > 0}


def _counted(readings: Sequence[Reading]) -> list[str]:
    """Counters of an x86 processor that grew; every core counts the events of its package, so the largest counts."""
    grown = _growth(readings, "throttle_counts")
    told = []
    for part, what in (("throttle", "thermal throttling"), ("power_limit", "a limit of power")):
        most = max((value for name, value in grown.items() if name.endswith(f"_{part}_count")), default=0)
        if most:
            told.append(f"the kernel counted {what} {counted(most, 'time')}")
    return told


def _over_current(readings: Sequence[Reading]) -> list[str]:
    """Events of a Jetson's power supply; the short ones if they took a good part of the time."""
    total = sum(_growth(readings, "over_current").values())
    if _short_share(readings) < SHORT_EVENTS:
        total -= _short(readings)
    return [f"the kernel counted {counted(total, 'over-current event')}"] if total else []


def _short(readings: Sequence[Reading]) -> int:
    """Events of instantaneous currents (OC3), which occur also when nothing is computed."""
    return sum(value for name, value in _growth(readings, "over_current").items() if name.endswith(_SHORT_COUNTER))


def _short_share(readings: Sequence[Reading]) -> float:
    seconds = readings[-1]["t"] - readings[0]["t"] if readings else 0.0
    return _short(readings) * SHORT_EVENT_S / seconds if seconds > 0 else 0.0


def short_events(readings: Sequence[Reading]) -> str:
    """Short over-current events that are too rare to be throttling, in words; empty if there are none."""
    count, share = _short(readings), _short_share(readings)
    if not count or share >= SHORT_EVENTS:
        return ""
    return f"{counted(count, 'over-current event')} of a millisecond, {100 * share:.2g} % of the time"


def _clocks(readings: Sequence[Reading]) -> list[float]:
    return [max(one["mhz"].values()) for one in readings if one.get("mhz")]


def _fallen(clocks: Sequence[float]) -> bool:
    """Whether a frequency was clearly below its highest value for a good part of the time."""
    low = sum(value < CLOCK_SHARE * max(clocks) for value in clocks) if len(clocks) >= FEWEST else 0
    return low > 0 and low >= SLOW_READINGS * len(clocks)


def _slowed(readings: Sequence[Reading], limits: Mapping[str, Any]) -> list[str]:
    """A frequency that fell while a zone was at its limit; where the kernel's own cooling tells, it is not guessed."""
    trips, clocks = limits.get("trips_celsius", {}), _clocks(readings)
    seen = [(zone, value) for one in readings for zone, value in (one.get("celsius") or {}).items()]
    hot = [value for zone, value in seen if zone in trips and value >= trips[zone]]
    if any("cpufreq" in name for name in limits.get("cooling", ())) or not hot or not _fallen(clocks):
        return []
    return [f"at {max(hot):.0f} °C the frequency fell from {max(clocks):.0f} to {min(clocks):.0f} MHz"]


def _caps(readings: Sequence[Reading], limits: Mapping[str, Any]) -> dict[str, float]:
    """The power in watts that each processor package is allowed for long, of those whose energy is counted."""
    known = {name for one in readings for name in one.get("microjoules") or {}}
    caps = limits.get("microwatts", {})
    return {name: value / 1e6 for name, value in caps.items() if value and name in known and name.startswith("package")}


def _capped(readings: Sequence[Reading], limits: Mapping[str, Any]) -> list[str]:
    """A frequency that fell while a processor package used all the power that it is allowed for long."""
    clocks, told = _clocks(readings), []
    for name, cap in _caps(readings, limits).items():
        at_cap = [value for value in _package_watts(readings, name) if value >= AT_CAP * cap]
        if _fallen(clocks) and len(at_cap) >= SLOW_READINGS * len(readings):
            fell = f"the frequency fell from {max(clocks):.0f} to {min(clocks):.0f} MHz"
            told.append(f"at the power limit of {cap:.0f} W {fell}")
    return told


def _package_watts(readings: Sequence[Reading], name: str) -> Iterator[float]:
    """Mean power between neighbouring readings; none where the counter began again."""
    ends = [(one["t"], one["microjoules"][name]) for one in readings if name in (one.get("microjoules") or {})]
    for (begun, before), (ended, after) in pairwise(ends):
        if ended > begun and after >= before:
            yield (after - before) / 1e6 / (ended - begun)


def _gpus(readings: Sequence[Reading]) -> list[str]:
    """Reasons for which NVIDIA's driver slowed a GPU down that was not idle; its power limit counts if it lasted."""
    busy: list[int] = []
    for one in readings:
        bits = [found for line in one.get("gpu") or () if (found := _gpu_bits(line)) is not None]
        busy += [reduce(or_, bits)] if bits else []
    times = {bit: sum(bool(bits & bit) for bits in busy) for bit in GPU_SLOWED}
    told = {bit for bit, count in times.items() if count}
    if times[_GPU_POWER] < SLOW_READINGS * len(busy):
        told.discard(_GPU_POWER)
    if told & _GPU_DETAILS:
        told.discard(_GPU_HARDWARE)
    return [f"the GPU was slowed down by {why}" for bit, why in GPU_SLOWED.items() if bit in told]


def _gpu_bits(line: str) -> int | None:
    """The reasons in a line of ``nvidia-smi``; None if the GPU was idle or does not tell them."""
    state, *_, bits = (word.strip() for word in line.split(","))
    if not (state[1:].isdigit() and bits.startswith("0x")) or int(state[1:]) >= GPU_IDLE:
        return None
    return int(bits, 16)


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
