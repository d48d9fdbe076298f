"""Load on a server: closed loops for capacity, open loops with Poisson arrivals for latency.

In an open loop the latency counts from the moment at which a request was to be sent, so that a slow server cannot
slow the clock down. Every answer is judged, not only its status.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from itertools import count, pairwise

import numpy as np

NO_ANSWER = 0
Ask = Callable[[int], tuple[int, bool]]
"""Sends the request of a number; gives the status, or :data:`NO_ANSWER`, and whether the answer is the right one."""


@dataclass(frozen=True)
class Timeline:
    """The clock of a load; a simulation has its own.

    Attributes:
        now_s: seconds of a monotonic clock.
        wait_until_s: returns at a moment of that clock, or at once after it.
    """

    now_s: Callable[[], float]
    wait_until_s: Callable[[float], None]


def _sleep_until_s(moment_s: float) -> None:
    if (wait_s := moment_s - time.monotonic()) > 0:
        time.sleep(wait_s)


def _wake_at_s(moment_s: float) -> None:
    """Sleep, and wait actively at the end, because the system wakes a process too late by up to 0.1 ms."""
    _sleep_until_s(moment_s - SPIN_S)
    while time.monotonic() < moment_s:
        pass


SPIN_S = 2e-4
SLEEPING, PUNCTUAL = Timeline(time.monotonic, _sleep_until_s), Timeline(time.monotonic, _wake_at_s)
"""Many clients sleep until the next request; a single one that shares its thread with the model wakes punctually."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """One request.

    Attributes:
        due_s: when it was to be sent, in seconds of the monotonic clock.
        begun_s: when a client was free to send it.
        ended_s: when its answer was complete.
        status: of the answer; :data:`NO_ANSWER` without one.
        right: whether an answer with status 200 has the outputs of a local session.
    """

    index: int
    due_s: float
    begun_s: float
    ended_s: float
    status: int
    right: bool

    @property
    def latency_ms(self) -> float:
        """From the moment at which it was to be sent to its complete answer."""
        return 1000 * (self.ended_s - self.due_s)


@dataclass(frozen=True)
class Load:
    """All requests of one load.

    Attributes:
        wall_s: from the first request to the last answer.
        client_cpu_s: CPU seconds of the process that sent them.
    """

    outcomes: tuple[Outcome, ...]
    wall_s: float
    client_cpu_s: float

    @property
    def answered(self) -> list[Outcome]:
        """Those with status 200."""
        return [one for one in self.outcomes if one.status == 200]

    @property
    def wrong(self) -> int:
        """Number of answers with status 200 whose outputs are not those of a local session."""
        return sum(not one.right for one in self.answered)

    @property
    def statuses(self) -> dict[int, int]:
        """Number of requests by status."""
        return dict(sorted(Counter(one.status for one in self.outcomes).items()))

    @property
    def rate(self) -> float:
        """Answers with status 200 per second."""
        return len(self.answered) / self.wall_s

    def latency_ms(self, percent: float, status: int = 200) -> float:
        """A percentile over the requests of a status; NaN without any."""
        return percentile([one.latency_ms for one in self.outcomes if one.status == status], percent)

    def lateness_ms(self, percent: float) -> float:
        """A percentile of how much later than due the requests were sent."""
        return percentile([1000 * (one.begun_s - one.due_s) for one in self.outcomes], percent)

    def longest_gap_s(self) -> float:
        """Longest time without an answer of status 200."""
        ends = sorted(one.ended_s for one in self.answered)
        return max((later - earlier for earlier, later in pairwise(ends)), default=0.0)


def closed_loop(
    ask: Ask, clients: int, requests: int = 0, until: Callable[[], bool] = lambda: False, first: int = 0
) -> Load:
    """Clients that each send their next request when they have the answer to the last.

    Args:
        requests: number of requests of all clients; 0 for as many as go until ``until`` says so.
        first: number of the first request.
    """

    def turns() -> Generator[tuple[int, None]]:
        for index in count(first):
            if until() or (requests and index >= first + requests):
                return
            yield index, None

    return _asked(ask, clients, turns())


def open_loop(
    ask: Ask, rate: float, seconds: float, clients: int = 64, seed: int = 0, timeline: Timeline = SLEEPING
) -> Load:
    """Requests at the moments of a seeded Poisson process, whatever the server does.

    Args:
        rate: mean number of requests per second.
        seconds: length of the process.
        clients: number of requests that can be open at once; a request that finds all busy is late by so much.
    """
    due = arrivals(rate, seconds, seed)
    begin = timeline.now_s() + 0.05
    return _asked(ask, clients, ((index, begin + moment) for index, moment in enumerate(due)), timeline)


def _asked(ask: Ask, clients: int, turns: Generator[tuple[int, float | None]], timeline: Timeline = SLEEPING) -> Load:
    """Clients that take the next turn when they have the answer to the last; one alone is the calling thread.

    Args:
        turns: number of each request, and the moment at which it is due; None for at once.
    """
    lock, found, now = threading.Lock(), list[Outcome](), timeline.now_s

    def work() -> None:
        own = []
        while True:
            with lock:
                turn = next(turns, None)
            if turn is None:
                break
            index, due = turn
            if due is not None:
                timeline.wait_until_s(due)
            begun = now()
            status, right = ask(index)
            own.append(Outcome(index, begun if due is None else due, begun, now(), status, right))
        with lock:
            found.extend(own)

    def stop() -> None:
        with lock:  # no client begins another request
            turns.close()

    return _together(work, stop, clients, found, now)


def arrivals(rate: float, seconds: float, seed: int) -> Sequence[float]:
    """Moments of a Poisson process, in seconds from its begin."""
    random = np.random.default_rng(seed)
    gaps = random.exponential(1 / rate, int(rate * seconds * 1.5) + 50)
    moments = np.cumsum(gaps)
    return [float(moment) for moment in moments[moments < seconds]]


def _together(
    work: Callable[[], None], stop: Callable[[], None], clients: int, found: list[Outcome], now: Callable[[], float]
) -> Load:
    """Let all clients work; when one fails, or at Ctrl-C, the others end their request and nothing goes on."""
    begin, cpu, failures = now(), time.process_time(), list[BaseException]()

    def guarded() -> None:
        try:
            work()
        except BaseException as error:  # it is raised in the thread that waits
            failures.append(error)
            stop()

    if clients == 1:
        work()
    else:
        threads = [threading.Thread(target=guarded) for _ in range(clients)]
        try:
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        except BaseException:
            stop()
            for thread in threads:
                if thread.ident is not None:
                    thread.join()
            raise
        if failures:
            raise failures[0]
    found.sort(key=lambda one: one.index)
    return Load(tuple(found), now() - begin, time.process_time() - cpu)


def percentile(values: Sequence[float], percent: float) -> float:
    """A percentile without interpolation, the next larger value; NaN without values."""
    return float(np.percentile(values, percent, method="higher")) if len(values) else float("nan")
