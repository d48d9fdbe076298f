"""Timing of one block in slots, each long enough for the clock, while no garbage is collected.

Other processes can only make a call longer, and they disturb long calls more often than short ones. So the time of a
candidate is a low quantile of its calls. In wall-clock time all slots have equal length: a slot has as many calls of a
short candidate as fit into one call of the longest, and slots during which the kernel gave the CPU to another process
are excluded and counted. One call of each slot is used, at another place in the next slot: the mean of several calls
scatters less than one call, and the lowest of many calls is lower than that of few, so that both would favour one side.
In CPU time, which hardly contains the other processes, all calls count: on a busy machine, those that no process
interrupts are few and not a fair selection (benchmarks.md 2.2, 2.3).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
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
SLOT_MS = 50.0
"""Calls of short candidates are not repeated beyond this time, in which every candidate meets other processes."""
SOUND = 0.25
"""Share of the median below which a reading is an error of the clock."""
QUANTILE = 0.05
"""Quantile of a block's calls that is the candidate's time."""


@dataclass(frozen=True)
class Plan:
    """The plan of a candidate's timing.

    Attributes:
        calls: calls between two readings of the clock.
        samples: slots per block.
        groups: readings per slot; a slot has ``calls * groups`` calls.
        call_ns: duration of one call in the calibration, in nanoseconds.
    """

    calls: int
    samples: int
    groups: int = 1
    call_ns: float = field(default=0.0, compare=False)

    @property
    def slot_ns(self) -> float:
        """Duration of a slot in the calibration."""
        return self.calls * self.groups * self.call_ns


@dataclass(frozen=True, eq=False)
class Block:
    """The times of one block of one candidate, in nanoseconds per call.

    Attributes:
        spent: by the deciding clock, one entry per slot.
        interrupted: whether another process got the CPU during the slot.
        calls: by wall-clock time, one entry per reading of the clock, as many readings in each slot.
        in_cpu_time: whether the deciding clock counts CPU time, so that interrupted slots are as good as others.
    """

    spent: Floats
    interrupted: NDArray[np.bool_]
    calls: Floats
    in_cpu_time: bool = False

    @cached_property
    def value(self) -> float:
        """The time of the candidate by the deciding clock."""
        return _low(self.spent) if self.in_cpu_time else self.wall

    @cached_property
    def wall(self) -> float:
        """The same time by wall-clock time; interrupted slots are used only if there are no others."""
        calls = self.calls.reshape(len(self.interrupted), -1)
        valid = calls if self.interrupted.all() else calls[~self.interrupted]
        slots = np.arange(len(valid))
        return _low(valid[slots, slots % valid.shape[1]])

    @property
    def lost(self) -> bool:
        """Whether no slot is valid for the deciding clock."""
        return not self.in_cpu_time and bool(self.interrupted.all())


def _low(values: Floats) -> float:
    # a thread's clock can be read before the kernel has updated it
    sound = values[values >= SOUND * np.median(values)]
    return float(np.quantile(sound, QUANTILE, method="median_unbiased"))


def pooled(blocks: Sequence[Block]) -> Block:
    """Several blocks of one candidate combined into one."""
    spent, calls = (np.concatenate([getattr(block, name) for block in blocks]) for name in ("spent", "calls"))
    return Block(spent, np.concatenate([block.interrupted for block in blocks]), calls, blocks[0].in_cpu_time)


def calibrate(call: Call, block_ms: float, resolution_ns: int, clock: Clock) -> Plan:
    """Choose the calls per reading, for at least 200 clock steps, and the slots per block, for ``block_ms``.

    A call that takes much longer than a block is timed once.
    """
    least = RESOLUTIONS_PER_SAMPLE * max(1, resolution_ns)
    call()
    calls, best = 1, _time(call, 1, clock)
    if best >= LONG * block_ms * 1e6:
        return Plan(1, 1, call_ns=best)
    while (best := min(_time(call, calls, clock) for _ in range(3))) < least and calls < CALLS_PER_SAMPLE:
        calls = min(CALLS_PER_SAMPLE, max(calls * 2, math.ceil(1.1 * calls * least / max(best, 1))))
    return Plan(calls, _per_block(best, block_ms), call_ns=best / calls)


def _per_block(slot_ns: float, block_ms: float) -> int:
    return min(max(1, math.ceil(block_ms * 1e6 / max(slot_ns, 1))), SAMPLES_PER_BLOCK)


def equal_slots(plans: Mapping[str, Plan], block_ms: float) -> dict[str, Plan]:
    """Plans whose slots are as long as those of the longest candidate, or :data:`SLOT_MS` if that is shorter."""
    length = min(max(plan.slot_ns for plan in plans.values()), SLOT_MS * 1e6)
    groups = {name: max(1, round(length / max(plan.slot_ns, 1))) for name, plan in plans.items()}
    return {
        name: replace(plan, groups=groups[name], samples=_per_block(groups[name] * plan.slot_ns, block_ms))
        for name, plan in plans.items()
    }


def time_block(call: Call, plan: Plan, clocks: Clocks) -> Block:
    """Time one block."""
    spent, passed = np.zeros(plan.samples), np.zeros((plan.samples, plan.groups))
    hit = np.zeros(plan.samples, bool)
    deciding, wall, switches = clocks.deciding, clocks.wall, clocks.switches
    repeats, groups = range(plan.calls), range(plan.groups)
    for sample in range(plan.samples):
        own, before, began = passed[sample], switches(), deciding()
        for group in groups:
            started = wall()
            for _ in repeats:
                call()
            own[group] = wall() - started
        spent[sample], hit[sample] = deciding() - began, switches() > before
    passed /= plan.calls
    return Block(spent / (plan.calls * plan.groups), hit, passed.ravel(), clocks.name == "thread")


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
