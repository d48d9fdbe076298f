"""Timing of one block: each sample has enough calls for the clock's resolution, and no garbage is collected meanwhile.

Other processes can only make a call longer, and they disturb long calls more often than short ones. So the time of a
candidate is a low quantile of its samples, which is comparable between long and short calls. Samples during which the
kernel gave the CPU to another process are excluded and counted (benchmarks.md 2.2, 2.3).
"""

from __future__ import annotations

import gc
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from ...core.metrics.intervals import Floats
from .clocks import Call, Clock, Clocks

RESOLUTIONS_PER_SAMPLE = 200
SAMPLES_PER_BLOCK = 10_000
CALLS_PER_SAMPLE = 1 << 20
LONG = 50
"""Largest duration of a call, in blocks, for which it is timed three times in the calibration."""
SOUND, QUANTILE = 0.25, 0.05
"""Share of the median below which a sample is an error of the clock, and the quantile that is a candidate's time."""


@dataclass(frozen=True)
class Plan:
    """The plan of a candidate's timing: ``calls`` per sample, ``samples`` per block."""

    calls: int
    samples: int


@dataclass(frozen=True, eq=False)
class Block:
    """The times of one block of one candidate, in nanoseconds per call, one entry per sample.

    Attributes:
        spent: by the deciding clock.
        passed: by wall-clock time.
        interrupted: whether another process got the CPU during the sample.
    """

    spent: Floats
    passed: Floats
    interrupted: NDArray[np.bool_]

    @property
    def value(self) -> float:
        """The time of the candidate by the deciding clock; interrupted samples are used only if there are no others."""
        return _typical(self.spent, ~self.interrupted)

    @property
    def wall(self) -> float:
        """The same time by wall-clock time."""
        return _typical(self.passed, ~self.interrupted)

    @property
    def lost(self) -> bool:
        """Whether every sample was interrupted."""
        return bool(self.interrupted.all())


def _typical(values: Floats, kept: NDArray[np.bool_]) -> float:
    chosen = values[kept] if kept.any() else values
    # a thread's clock can be read before the kernel has updated it
    sound = chosen[chosen >= SOUND * np.median(chosen)]
    return float(np.quantile(sound, QUANTILE, method="median_unbiased"))


def pooled(blocks: Sequence[Block]) -> Block:
    """Several blocks of one candidate combined into one."""
    spent, passed = (np.concatenate([getattr(b, name) for b in blocks]) for name in ("spent", "passed"))
    return Block(spent, passed, np.concatenate([block.interrupted for block in blocks]))


def calibrate(call: Call, block_ms: float, resolution_ns: int, clock: Clock) -> Plan:
    """Choose the calls per sample, for at least 200 clock steps, and the samples per block, for ``block_ms``.

    A call that takes much longer than a block is timed once.
    """
    least = RESOLUTIONS_PER_SAMPLE * max(1, resolution_ns)
    call()
    calls, best = 1, _time(call, 1, clock)
    if best >= LONG * block_ms * 1e6:
        return Plan(1, 1)
    while (best := min(_time(call, calls, clock) for _ in range(3))) < least and calls < CALLS_PER_SAMPLE:
        calls = min(CALLS_PER_SAMPLE, max(calls * 2, math.ceil(1.1 * calls * least / max(best, 1))))
    samples = math.ceil(block_ms * 1e6 / max(best, 1))
    return Plan(calls, min(max(1, samples), SAMPLES_PER_BLOCK))


def time_block(call: Call, plan: Plan, clocks: Clocks) -> Block:
    """Time one block."""
    spent, passed = np.zeros(plan.samples), np.zeros(plan.samples)
    hit = np.zeros(plan.samples, bool)
    deciding, wall, switches = clocks.deciding, clocks.wall, clocks.switches
    for sample in range(plan.samples):
        before, began, started = switches(), deciding(), wall()
        for _ in range(plan.calls):
            call()
        ended, done = wall(), deciding()
        hit[sample] = switches() > before
        spent[sample], passed[sample] = done - began, ended - started
    return Block(spent / plan.calls, passed / plan.calls, hit)


def _time(call: Call, calls: int, clock: Clock) -> int:
    before = clock()
    for _ in range(calls):
        call()
    return clock() - before


def clock_step(clock: Clock) -> int:
    """The smallest observed step of the clock, in its units."""
    readings = [clock() for _ in range(200)]
    steps = [after - before for before, after in pairwise(readings) if after > before]
    return min(steps, default=1)


@contextmanager
def no_collections() -> Iterator[None]:
    """Disable Python's garbage collector within this context."""
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
