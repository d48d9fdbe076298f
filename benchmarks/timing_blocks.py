"""Timing one block: slots of equal length, each with calls enough to be seen by the clock, and nothing collected.

Slots of all candidates last equally long, so that what interrupts a slot meets the slow candidate as often as the fast
one. Slots during which the kernel gave the CPU to another process are left out and counted (benchmarks.md 2.2, 2.3).
"""

from __future__ import annotations

import gc
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from ..core.metrics.intervals import Floats
from .clocks import Call, Clock, Clocks

RESOLUTIONS_PER_SAMPLE = 200
SAMPLES_PER_BLOCK = 10_000
CALLS_PER_SAMPLE = 1 << 20
LONG = 50
LOW_QUANTILE = 0.25
"""Of the slots of a block, by time that passes: what interrupts a slot only ever makes it longer."""


@dataclass(frozen=True)
class Plan:
    """How a candidate is timed.

    Attributes:
        calls: per slot.
        samples: slots per block.
        single: whether each call is long enough to be timed alone, for percentiles.
    """

    calls: int
    samples: int
    single: bool = True


@dataclass(frozen=True)
class Block:
    """What one block of one candidate took, in nanoseconds per call.

    Attributes:
        value: by the deciding clock, over the slots that were not interrupted where there are any.
        wall: by the time that passes, over the same slots.
        calls: time that passed in each call, or on average in each slot where calls are too short to be timed alone.
        slots: how many there were.
        interrupted: how many of them lost the CPU.
    """

    value: float
    wall: float
    calls: Floats
    slots: int
    interrupted: int


def calibrate(calls: Mapping[str, Call], block_ms: float, clocks: Clocks, resolution_ns: int) -> dict[str, Plan]:
    """How many calls make a slot of the same length for all candidates, and how many slots a block.

    A slot lasts at least 200 steps of the clock and one call of the slowest candidate.

    Args:
        calls: by name of the candidate.
        block_ms: how long a block lasts; longer where a slot does.
        resolution_ns: the smallest step of the deciding clock.
    """
    least = RESOLUTIONS_PER_SAMPLE * max(1, resolution_ns)
    seen = RESOLUTIONS_PER_SAMPLE * clock_step(clocks.wall)
    each = {name: _per_call(call, block_ms, least, clocks.deciding) for name, call in calls.items()}
    slot = max(least, *each.values())
    samples = min(max(1, math.ceil(block_ms * 1e6 / slot)), SAMPLES_PER_BLOCK)
    return {
        name: Plan(min(max(1, math.ceil(slot / ns - 0.25)), CALLS_PER_SAMPLE), samples, ns >= seen)
        for name, ns in each.items()
    }


def _per_call(call: Call, block_ms: float, least: float, clock: Clock) -> float:
    """About how long a call takes, in nanoseconds; one that is much longer than a block is timed once."""
    call()
    calls, best = 1, _time(call, 1, clock)
    if best >= LONG * block_ms * 1e6:
        return float(best)
    while (best := min(_time(call, calls, clock) for _ in range(3))) < least and calls < CALLS_PER_SAMPLE:
        calls = min(CALLS_PER_SAMPLE, max(calls * 2, math.ceil(1.1 * calls * least / max(best, 1))))
    return max(best, 1) / calls


def time_block(call: Call, plan: Plan, clocks: Clocks) -> Block:
    """Time one block."""
    spent, passed, hit = np.zeros(plan.samples), np.zeros(plan.samples), np.zeros(plan.samples, bool)
    calls = np.zeros((plan.samples, plan.calls if plan.single else 1))
    for slot in range(plan.samples):
        before, started = clocks.switches(), clocks.deciding()
        stamps = _stamped(call, plan, clocks.wall)
        spent[slot] = clocks.deciding() - started
        hit[slot] = clocks.switches() > before
        passed[slot] = stamps[-1] - stamps[0]
        calls[slot] = np.diff(stamps) if plan.single else passed[slot] / plan.calls
    kept = ~hit if not hit.all() else hit
    typical = np.median if clocks.name == "thread" else _low
    value, wall = float(typical(spent[kept])) / plan.calls, float(_low(passed[kept])) / plan.calls
    return Block(value, wall, calls.reshape(-1), plan.samples, int(hit.sum()))


def _stamped(call: Call, plan: Plan, wall: Clock) -> list[int]:
    """When each call of a slot began and ended; when the slot did, where calls are too short for that."""
    stamps = [wall()]
    if not plan.single:
        for _ in range(plan.calls):
            call()
        return [*stamps, wall()]
    for _ in range(plan.calls):
        call()
        stamps.append(wall())
    return stamps


def _low(values: Floats) -> float:
    return float(np.quantile(values, LOW_QUANTILE))


def _time(call: Call, calls: int, clock: Clock) -> int:
    before = clock()
    for _ in range(calls):
        call()
    return clock() - before


def clock_step(clock: Clock) -> int:
    """The smallest step of the clock that can be seen, in its units."""
    readings = [clock() for _ in range(200)]
    steps = [after - before for before, after in pairwise(readings) if after > before]
    return min(steps, default=1)


@contextmanager
def no_collections() -> Iterator[None]:
    """Keep Python's garbage collector still."""
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
