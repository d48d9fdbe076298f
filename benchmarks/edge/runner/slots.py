"""The timed loop: how often a call is repeated between two readings of the clock, and what the clocks said.

:mod:`retort.benchmarks.timing` uses it too, so that a device and this machine time in the same way.
"""

from __future__ import annotations

import importlib
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Clock = Callable[[], int]
Call = Callable[[], object]

RESOLUTIONS_PER_SAMPLE = 200
SAMPLES_PER_BLOCK = 10_000
CALLS_PER_SAMPLE = 1 << 20
LONG = 50
"""Largest duration of a call, in blocks, for which it is timed three times in the calibration."""
SLOT_MS = 50.0
"""Calls of short candidates are not repeated beyond this time, in which every candidate meets other processes."""
WAITING, OTHERS_SHARE, TRIES = 1.5, 0.2, 3


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


class Slots(NamedTuple):
    """The times of one block, in nanoseconds per call.

    Attributes:
        spent: by the deciding clock, one entry per slot.
        interrupted: whether another process got the CPU during the slot.
        calls: by wall-clock time, one entry per reading of the clock, as many readings in each slot.
    """

    spent: NDArray[np.float64]
    interrupted: NDArray[np.bool_]
    calls: NDArray[np.float64]


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


def time_slots(call: Call, plan: Plan, deciding: Clock, wall: Clock, switches: Clock) -> Slots:
    """Time one block.

    Args:
        deciding: the deciding clock, in nanoseconds.
        wall: the wall clock, in nanoseconds.
        switches: counter of involuntary context switches.
    """
    spent, passed = np.zeros(plan.samples), np.zeros((plan.samples, plan.groups))
    hit = np.zeros(plan.samples, bool)
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
    return Slots(spent / (plan.calls * plan.groups), hit, passed.ravel())


def _time(call: Call, calls: int, clock: Clock) -> int:
    before = clock()
    for _ in range(calls):
        call()
    return clock() - before


def clock_step(clock: Clock) -> int:
    """The smallest observed step of the clock, in its units."""
    readings = [clock() for _ in range(200)]
    return min((after - before for before, after in zip(readings, readings[1:]) if after > before), default=1)


def switch_counter(who: str, counter: str = "ru_nivcsw") -> Clock:
    """A counter of involuntary context switches of the thread or process; always 0 if the system has none.

    Args:
        who: ``RUSAGE_THREAD`` or ``RUSAGE_SELF``.
        counter: another counter, such as ``ru_nvcsw`` for voluntary ones.
    """
    try:
        resource: Any = importlib.import_module("resource")
        kind = getattr(resource, who)
    except (ImportError, AttributeError):
        return lambda: 0
    read = resource.getrusage
    return lambda: int(getattr(read(kind), counter))


def runs_here(call: Call) -> bool:
    """Whether a call computes in the calling thread, and waits neither for another thread nor for a device.

    A call waits if it gives up the CPU voluntarily and its wall-clock time is much longer than its CPU time. It passes
    its work to other threads if these compute meanwhile. One such trial of three is tolerated, because another thread
    may have caused it.
    """
    call()
    return sum(_here(call) for _ in range(TRIES)) >= 2


def _here(call: Call) -> bool:
    waiting = switch_counter("RUSAGE_THREAD", "ru_nvcsw")
    waits, passed, own, process = waiting(), time.perf_counter_ns(), time.thread_time_ns(), time.process_time_ns()
    call()
    process, own = time.process_time_ns() - process, time.thread_time_ns() - own
    passed, waits = time.perf_counter_ns() - passed, waiting() - waits
    others = process - own
    if others > OTHERS_SHARE * max(own, 1) and others > 100_000:
        return False
    return not (waits and passed > WAITING * own)
