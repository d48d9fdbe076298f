"""The timed loops of the scenarios: what is between two queries is a clock, an append and a comparison.

The meanings are those of MLPerf's LoadGen (benchmarks.md, "Scenarios"): a single or multi stream sends the next query
when the last is answered; a server gets queries at the moments of a Poisson process, and the latency counts from these
moments; offline, all samples are there at once.
"""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from ...core.errors import RetortError
from ...core.metrics.intervals import Floats
from .request_load import NO_ANSWER, PUNCTUAL, SLEEPING, Timeline, closed_loop, open_loop

Query = Callable[[], object]
"""Sends one query and returns when its answer is complete."""
Clock = Callable[[], int]
LEAST = 3
"""Queries of a window, however long they take."""


@dataclass(frozen=True, eq=False)
class Served:
    """The queries of one window.

    Attributes:
        latencies_ns: one entry per answered query, in the order of their begin.
        failed: number of queries without a right answer.
        seconds: from the begin of the window to its last answer.
        late_ns: how much later than due each query was sent; empty for streams.
    """

    latencies_ns: Floats
    failed: int
    seconds: float
    late_ns: Floats

    @property
    def queries(self) -> int:
        """Number of answered queries."""
        return len(self.latencies_ns)

    @property
    def median_ms(self) -> float:
        """The median latency in milliseconds; NaN if no query was answered."""
        return float(np.median(self.latencies_ns)) / 1e6 if self.queries else float("nan")


def stream(
    queries: Iterator[Query], length_s: float, clock: Clock = time.perf_counter_ns, least: int = LEAST
) -> Served:
    """One query after another, for single and multi stream and for offline calls.

    Args:
        queries: an endless iterator, which goes on in the next window.
        length_s: a query that begins within this time is completed.
        least: smallest number of queries.
    """
    taken, failed = array("q"), 0
    note, began = taken.append, clock()
    end = began + int(length_s * 1e9)
    for query in queries:
        started = clock()
        try:
            query()
        except RetortError:
            failed += 1
            ended = clock()
        else:
            ended = clock()
            note(ended - started)
        if ended >= end and len(taken) + failed >= least:
            break
    return Served(np.asarray(taken, np.float64), failed, (clock() - began) / 1e9, np.zeros(0))


def server(
    queries: Iterator[Query], rate: float, length_s: float, clients: int, seed: int, timeline: Timeline | None = None
) -> Served:
    """Queries at the moments of a Poisson process; the latency counts from these moments.

    Args:
        rate: mean number of queries per second.
        clients: number of queries that can be open at once; a query that finds all busy waits, which counts.
        timeline: by default the machine's clock.
    """
    timeline = timeline or (PUNCTUAL if clients == 1 else SLEEPING)
    load = open_loop(_asking(queries), rate, length_s, clients, seed, timeline)
    answered = load.answered
    latencies = np.rint(np.array([one.ended_s - one.due_s for one in answered], np.float64) * 1e9)
    late = np.array([max(one.begun_s - one.due_s, 0.0) for one in load.outcomes], np.float64) * 1e9
    return Served(latencies, len(load.outcomes) - len(answered), load.wall_s, late)


def together(queries: Iterator[Query], length_s: float, clients: int) -> Served:
    """As many queries as several clients can keep open, for the throughput of an endpoint.

    Args:
        clients: number of clients that each send the next query when the last is answered.
    """
    end = time.monotonic() + length_s
    load = closed_loop(_asking(queries), clients, until=lambda: time.monotonic() >= end)
    latencies = np.rint(np.array([one.latency_ms for one in load.answered], np.float64) * 1e6)
    return Served(latencies, len(load.outcomes) - len(load.answered), load.wall_s, np.zeros(0))


def _asking(queries: Iterator[Query]) -> Callable[[int], tuple[int, bool]]:
    """Queries as requests with a status; the next one of a cycle is taken in one step of the interpreter."""

    def ask(index: int) -> tuple[int, bool]:
        try:
            next(queries)()
        except RetortError:
            return NO_ANSWER, False
        return 200, True

    return ask
