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
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ...core.metrics.intervals import Floats
from ..edge.runner.slots import Call, Plan, time_slots
from .clocks import Clocks

SOUND = 0.25
"""Share of the median below which a reading is an error of the clock."""
QUANTILE = 0.05
"""Quantile of a block's calls that is the candidate's time."""


@dataclass(frozen=True, eq=False)
class Block:
    """The times of one block of one candidate, in nanoseconds per call.

    Attributes:
        spent: by the deciding clock, one entry per slot.
        interrupted: whether another process got the CPU during the slot.
        calls: by wall-clock time, one entry per reading of the clock, as many readings in each slot.
        in_cpu_time: whether the deciding clock counts CPU time, so that interrupted slots are as good as others.
        begun_s: when it began, in seconds by the wall clock; NaN if it is not known.
    """

    spent: Floats
    interrupted: NDArray[np.bool_]
    calls: Floats
    in_cpu_time: bool = False
    begun_s: float = math.nan

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
    interrupted, first = np.concatenate([block.interrupted for block in blocks]), blocks[0]
    return Block(spent, interrupted, calls, first.in_cpu_time, first.begun_s)


def time_block(call: Call, plan: Plan, clocks: Clocks) -> Block:
    """Time one block."""
    begun_s = clocks.wall() / 1e9
    found = time_slots(call, plan, clocks.deciding, clocks.wall, clocks.switches)
    return Block(found.spent, found.interrupted, found.calls, clocks.name == "thread", begun_s)
