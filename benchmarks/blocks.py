"""Timing one block: calls enough per clock reading, samples enough per block, and nothing collected meanwhile."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from ..core.intervals import Floats

Clock = Callable[[], int]
Call = Callable[[], object]

RESOLUTIONS_PER_SAMPLE = 200
SAMPLES_PER_BLOCK = 10_000
CALLS_PER_SAMPLE = 1 << 20


@dataclass(frozen=True)
class Plan:
    """How a candidate is timed: ``calls`` per clock reading pair, ``samples`` such pairs per block."""

    calls: int
    samples: int


def calibrate(call: Call, block_ms: float, resolution_ns: int, clock: Clock) -> Plan:
    """How many calls make a sample of at least 200 clock steps, and how many samples a block of ``block_ms``."""
    least = RESOLUTIONS_PER_SAMPLE * max(1, resolution_ns)
    call()
    calls = 1
    while (best := min(_time(call, calls, clock) for _ in range(3))) < least:
        if calls == CALLS_PER_SAMPLE:
            break
        calls = min(CALLS_PER_SAMPLE, max(calls * 2, math.ceil(1.1 * calls * least / max(best, 1))))
    samples = math.ceil(block_ms * 1e6 / max(best, 1))
    return Plan(calls, min(max(1, samples), SAMPLES_PER_BLOCK))


def time_block(call: Call, plan: Plan, clock: Clock = time.perf_counter_ns) -> Floats:
    """Time one block; nanoseconds per call, one entry per sample."""
    if plan.calls > 1:
        return np.array([_time(call, plan.calls, clock) for _ in range(plan.samples)], np.float64) / plan.calls
    times = [0] * plan.samples
    for index in range(plan.samples):
        before = clock()
        call()
        times[index] = clock() - before
    return np.array(times, np.float64)


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
