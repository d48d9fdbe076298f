"""The timed loops of the scenarios on a simulated clock, and with threads."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import pytest

from retort.benchmarks.scenarios.query_loops import Query, server, stream, together
from retort.benchmarks.scenarios.request_load import Timeline
from retort.core.errors import ServingError

SERVICE_S, STALL_S, PERIOD_S = 0.0002, 0.1, 1.0


class Simulated:
    """A machine with its own clock, which passes only while it works or waits.

    Args:
        service_s: duration of a query.
        stall_s: how long everything stands still at the beginning of each period.
    """

    def __init__(self, service_s: float, stall_s: float = 0.0, period_s: float = PERIOD_S) -> None:
        self.now_s, self.service_s, self.stall_s, self.period_s = 0.0, service_s, stall_s, period_s

    def query(self) -> None:
        """Answer one query; within a stall it begins when the stall is over."""
        phase = self.now_s % self.period_s
        if phase < self.stall_s:
            self.now_s += self.stall_s - phase
        self.now_s += self.service_s

    def wait_until_s(self, moment_s: float) -> None:
        """Let the time pass."""
        self.now_s = max(self.now_s, moment_s)

    @property
    def timeline(self) -> Timeline:
        """Its clock for open loops."""
        return Timeline(lambda: self.now_s, self.wait_until_s)

    def clock(self) -> int:
        """Its clock in nanoseconds."""
        return round(self.now_s * 1e9)


def endless(query: Query) -> Iterator[Query]:
    """The same query again and again."""
    return itertools.repeat(query)


def test_a_stall_is_seen_by_every_query_that_was_due_in_it() -> None:
    """The 99th percentile under a stall of 100 ms per second is within 2 % of the analytic one (B5).

    A query that is due u after the begin of the stall waits 100 ms - (1 - load) u, because those before it are served
    after the stall; one in a hundred of all is due within the first 10 ms of the stall.
    """
    machine, rate = Simulated(SERVICE_S, STALL_S), 500.0
    found = server(endless(machine.query), rate, 150.0, 1, 3, machine.timeline)
    truth_s = STALL_S + SERVICE_S - (1 - rate * SERVICE_S) * 0.01 * PERIOD_S
    p99_s = float(np.percentile(found.latencies_ns, 99)) / 1e9
    assert abs(p99_s / truth_s - 1) < 0.02
    assert abs(found.queries / (rate * 150) - 1) < 0.02


def test_one_query_after_another_hides_a_stall() -> None:
    """The same stall is not in the 99th percentile of a stream, which sends nothing meanwhile; the server needs it."""
    machine = Simulated(SERVICE_S, STALL_S)
    found = stream(endless(machine.query), 20.0, machine.clock)
    assert float(np.percentile(found.latencies_ns, 99)) == pytest.approx(SERVICE_S * 1e9)


def test_a_stream_counts_whole_queries() -> None:
    """A query that begins within the window is completed, and a window has a few however long they take."""
    machine = Simulated(0.3)
    found = stream(endless(machine.query), 1.0, machine.clock)
    assert found.queries == 4
    assert found.seconds == pytest.approx(1.2)
    assert stream(endless(machine.query), 0.0, machine.clock).queries == 3
    assert found.median_ms == pytest.approx(300)


def every_other(fails: Callable[[int], bool]) -> Iterator[Query]:
    """Queries of which some fail."""

    def ask(number: int) -> None:
        if fails(number):
            raise ServingError("no answer")

    return (partial(ask, number) for number in itertools.count())


def test_failed_queries_are_counted_and_not_timed() -> None:
    """Queries without an answer have no latency, and a window of failures ends."""
    found = stream(every_other(lambda number: number % 2 == 0), 0.0, least=10)
    assert (found.queries, found.failed) == (5, 5)
    assert stream(every_other(lambda number: True), 0.0).failed == 3
    lost = server(every_other(lambda number: True), 200, 0.1, 1, 0)
    assert lost.queries == 0
    assert lost.failed > 5


def test_clients_work_at_the_same_time() -> None:
    """Several clients keep several queries open, in an open and in a closed loop."""
    open_now, most, lock = 0, 0, threading.Lock()

    def query() -> None:
        nonlocal open_now, most
        with lock:
            open_now += 1
            most = max(most, open_now)
        time.sleep(0.01)
        with lock:
            open_now -= 1

    found = together(endless(query), 0.1, 4)
    assert most == 4
    assert found.queries >= 8
    most = 0
    server(endless(query), 400, 0.2, 8, 0)
    assert 2 <= most <= 8


def test_a_client_that_fails_ends_the_load() -> None:
    """An error that is no failed request is raised where the load was asked for, after all clients have ended."""
    alive = threading.active_count()

    def broken() -> None:
        time.sleep(0.001)
        raise ValueError("a defect")

    with pytest.raises(ValueError, match="a defect"):
        server(endless(broken), 500, 5.0, 4, 0)
    assert threading.active_count() == alive


def test_clients_end_at_ctrl_c(monkeypatch: pytest.MonkeyPatch) -> None:
    """No client asks any more when the interruption is handed on, so that the model can be closed."""
    alive, asked, join = threading.active_count(), list[int](), threading.Thread.join
    interrupted = iter([True])

    def once(thread: threading.Thread, timeout: float | None = None) -> None:
        time.sleep(0.05)
        if next(interrupted, False):
            raise KeyboardInterrupt
        join(thread, timeout)

    monkeypatch.setattr(threading.Thread, "join", once)
    with pytest.raises(KeyboardInterrupt):
        server(endless(lambda: asked.append(1)), 200, 5.0, 4, 0)
    count = len(asked)
    assert threading.active_count() == alive
    time.sleep(0.05)
    assert len(asked) == count > 0


@pytest.mark.slow
def test_a_real_stall_is_seen_by_the_server_and_not_by_a_stream() -> None:
    """With a stall of 100 ms per second in real time, the open loop's tail has it, and that of a stream has not."""
    turn, over = threading.Lock(), threading.Event()

    def stalls() -> None:
        while not over.wait(PERIOD_S - STALL_S):
            with turn:
                time.sleep(STALL_S)

    def query() -> None:
        with turn:
            time.sleep(SERVICE_S)

    thread = threading.Thread(target=stalls)
    thread.start()
    try:
        opened, closed = server(endless(query), 150, 8.0, 48, 1), stream(endless(query), 8.0)
    finally:
        over.set()
        thread.join()
    tails_ms = [float(np.percentile(one.latencies_ns, 99)) / 1e6 for one in (opened, closed)]
    assert tails_ms[0] > 0.6 * 1e3 * STALL_S
    assert tails_ms[1] < tails_ms[0] / 2
