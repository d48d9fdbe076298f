"""The deciding clock of a timing: CPU time if one thread does all of the work, otherwise wall-clock time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from ...core.metrics.ratio import ClockName
from ...core.session import ON_CPU, Session
from ..edge.runner.slots import Call, Clock, runs_here, switch_counter

COARSEST_S = 1e-5
CPU_DEVICES = frozenset({*ON_CPU, "cpu"})
IN_THREAD = frozenset({"onnxruntime", "openvino", "eager"})
"""Backends that compute in the calling thread if they have one thread, as Retort opens them."""


@dataclass(frozen=True)
class Clocks:
    """The clocks and counters that are read before and after a sample of calls.

    Attributes:
        deciding: the deciding clock in nanoseconds, monotonic.
        wall: wall-clock time in nanoseconds.
        switches: number of involuntary context switches.
        name: name of the deciding clock.
        root: folder that contains the kernel's ``proc``; a folder without it in simulations.
    """

    deciding: Clock
    wall: Clock
    switches: Callable[[], int]
    name: ClockName
    root: Path = Path("/")


THREAD = Clocks(time.thread_time_ns, time.perf_counter_ns, switch_counter("RUSAGE_THREAD"), "thread")
WALL = Clocks(time.perf_counter_ns, time.perf_counter_ns, switch_counter("RUSAGE_SELF"), "wall")


def single(clock: Clock) -> Clocks:
    """Clocks of a simulation: one clock, and a machine without further information."""
    return Clocks(clock, clock, lambda: 0, "wall", Path("nowhere"))


def clocks_for(threads: int, provider: str, sessions: Iterable[Session], calls: Iterable[Call]) -> Clocks:
    """The thread's CPU time if one CPU thread does all of the work, otherwise wall-clock time.

    Args:
        threads: number of threads of the sessions.
        provider: ``cpu`` or ``openvino``, or the other provider on which the sessions run.
        sessions: the candidates that are sessions.
        calls: all candidates; each runs a few times to check that it computes in this thread.
    """
    if (
        threads != 1
        or provider not in ("cpu", "openvino")
        or time.get_clock_info("thread_time").resolution > COARSEST_S
    ):
        return WALL
    if not all(on_cpu(session) for session in sessions):
        return WALL
    return THREAD if all(runs_here(call) for call in calls) else WALL


def on_cpu(session: Session) -> bool:
    """Whether the session's backend computes on the CPU, in the thread that calls it."""
    return session.backend in IN_THREAD and set(session.providers) <= CPU_DEVICES
