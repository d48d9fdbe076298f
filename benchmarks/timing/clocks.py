"""The deciding clock of a timing: CPU time if one thread does all of the work, otherwise wall-clock time."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...core.metrics.ratio import ClockName
from ...core.session import ON_CPU, Session

Clock = Callable[[], int]
Call = Callable[[], object]

WAITING = 1.5
OTHERS_SHARE = 0.2
TRIES = 3
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


def _counter(who: str) -> Callable[[], int]:
    """A counter of involuntary context switches of the thread or process; always 0 if the system has none."""
    try:
        resource: Any = importlib.import_module("resource")
        kind = getattr(resource, who)
    except (ImportError, AttributeError):
        return lambda: 0
    read = resource.getrusage
    return lambda: int(read(kind).ru_nivcsw)


THREAD = Clocks(time.thread_time_ns, time.perf_counter_ns, _counter("RUSAGE_THREAD"), "thread")
WALL = Clocks(time.perf_counter_ns, time.perf_counter_ns, _counter("RUSAGE_SELF"), "wall")


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


def runs_here(call: Call) -> bool:
    """Whether a call computes in the calling thread, and waits neither for another thread nor for a device.

    A call waits if it gives up the CPU voluntarily and its wall-clock time is much longer than its CPU time. It passes
    its work to other threads if these compute meanwhile. One such trial of three is tolerated, because another thread
    may have caused it.
    """
    call()
    return sum(_here(call) for _ in range(TRIES)) >= 2


def _here(call: Call) -> bool:
    waits, passed, own, process = _waits(), time.perf_counter_ns(), time.thread_time_ns(), time.process_time_ns()
    call()
    process, own = time.process_time_ns() - process, time.thread_time_ns() - own
    passed, waits = time.perf_counter_ns() - passed, _waits() - waits
    others = process - own
    if others > OTHERS_SHARE * max(own, 1) and others > 100_000:
        return False
    return not (waits and passed > WAITING * own)


def _waits() -> int:
    """Number of voluntary context switches of this thread."""
    try:
        resource: Any = importlib.import_module("resource")
        return int(resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw)
    except (ImportError, AttributeError):
        return 0
