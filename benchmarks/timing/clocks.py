"""Which clock decides: the CPU time of the thread that does all of the work, or else the time that passes."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...core.metrics.ratio import ClockName
from ...core.session import Session

Clock = Callable[[], int]
Call = Callable[[], object]

WAITING = 1.5
OTHERS_SHARE = 0.2
TRIES = 3
COARSEST_S = 1e-5
CPU_DEVICES = frozenset({"CPUExecutionProvider", "cpu"})
IN_THREAD = frozenset({"onnxruntime", "eager"})
"""Backends that compute in the calling thread when they are given one thread; OpenVINO has a thread of its own."""


@dataclass(frozen=True)
class Clocks:
    """What is read around a sample of calls.

    Attributes:
        deciding: nanoseconds, never going back.
        wall: nanoseconds of the time that passes.
        switches: how often the kernel has taken the CPU from what is timed.
        name: of the deciding clock.
        root: where the kernel's ``proc`` is; a folder without one in simulations.
    """

    deciding: Clock
    wall: Clock
    switches: Callable[[], int]
    name: ClockName
    root: Path = Path("/")


def _counter(who: str) -> Callable[[], int]:
    """Involuntary context switches of this thread or of the process; always 0 where the system does not count them."""
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
    """The one clock of a simulation, on a machine of which nothing else is known."""
    return Clocks(clock, clock, lambda: 0, "wall", Path("nowhere"))


def clocks_for(threads: int, provider: str, sessions: Iterable[Session], calls: Iterable[Call]) -> Clocks:
    """The thread's CPU time where one thread of the CPU does all of the work, else the time that passes.

    Args:
        threads: that the sessions were opened with.
        provider: ``cpu``, or where else the sessions run.
        sessions: those of the candidates that are sessions.
        calls: all candidates; each is run a few times to see that it computes in this thread.
    """
    if threads != 1 or provider != "cpu" or time.get_clock_info("thread_time").resolution > COARSEST_S:
        return WALL
    if not all(on_cpu(session) for session in sessions):
        return WALL
    return THREAD if all(runs_here(call) for call in calls) else WALL


def on_cpu(session: Session) -> bool:
    """Whether the session's backend computes on the CPU, in the thread that calls it."""
    return session.backend in IN_THREAD and set(session.providers) <= CPU_DEVICES


def runs_here(call: Call) -> bool:
    """Whether a call computes in the calling thread, and neither waits for another one nor for a device.

    A call that gives up the CPU by itself and passes much more time than it computes, waits; one during which other
    threads of the process compute, hands its work to them. One such try in three may be another thread's doing.
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
    """How often this thread has given up the CPU by itself."""
    try:
        resource: Any = importlib.import_module("resource")
        return int(resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw)
    except (ImportError, AttributeError):
        return 0
