"""The search for the highest rate, on a simulated machine with deterministic service."""

from __future__ import annotations

import itertools
from functools import partial

import numpy as np
import pytest

from retort.benchmarks.scenarios.query_loops import Served, server
from retort.benchmarks.scenarios.rate_search import CLOSE, RateSearch, highest_rates, trial_s
from retort.benchmarks.scenarios.request_load import Timeline, arrivals

SERVICE_S, BOUND_MS = 0.001, 5.0


def trial(rate: float, length_s: float, seed: int, service_s: float = SERVICE_S) -> Served:
    """A server with a queue whose service always takes as long."""
    now_s = 0.0

    def query() -> None:
        nonlocal now_s
        now_s += service_s

    def wait_until_s(moment_s: float) -> None:
        nonlocal now_s
        now_s = max(now_s, moment_s)

    return server(itertools.repeat(query), rate, length_s, 1, seed, Timeline(lambda: now_s, wait_until_s))


def true_p99_ms(rate: float) -> float:
    """The 99th percentile of that queue by Lindley's recursion over many arrivals."""
    due = np.array(arrivals(rate, 400.0, 99))
    ends, latencies = 0.0, []
    for moment in due:
        ends = max(ends, float(moment)) + SERVICE_S
        latencies.append(ends - float(moment))
    return 1e3 * float(np.percentile(latencies, 99))


def test_the_highest_rate_keeps_the_bound_and_a_higher_one_does_not() -> None:
    """The rate that is found keeps the 99th percentile, and one that is 15 % higher misses it."""
    found = highest_rates({"a": trial}, {"a": 1 / SERVICE_S}, BOUND_MS, 10.0)["a"]
    assert found.kept is not None
    assert true_p99_ms(found.kept) <= BOUND_MS
    assert true_p99_ms(1.15 * found.kept) > BOUND_MS
    assert found.missed <= CLOSE * found.kept
    assert [one.rate for one in found.tried].count(found.kept) == 2


def test_no_rate_keeps_a_bound_below_the_service_time() -> None:
    """The search ends without a rate, and does not go on for ever."""
    found = highest_rates({"a": trial}, {"a": 1 / SERVICE_S}, 0.5, 0.5)["a"]
    assert found.kept is None
    assert not any(one.kept for one in found.tried)


def test_candidates_have_their_own_rates() -> None:
    """A candidate that is four times slower keeps a lower rate."""
    slow = partial(trial, service_s=4 * SERVICE_S)
    found = highest_rates({"a": trial, "b": slow}, {"a": 1 / SERVICE_S, "b": 0.25 / SERVICE_S}, 20.0, 2.0)
    first, second = found["a"].kept, found["b"].kept
    assert first is not None
    assert second is not None
    assert first > 2 * second


def test_failed_queries_are_later_than_any_bound() -> None:
    """A trial in which two of a hundred queries fail misses every bound."""
    search = RateSearch(1000.0, 1e9)
    served = Served(np.full(980, 1e6), 20, 1.0, np.zeros(0))
    assert not search.note(10.0, served).kept
    assert search.tried[0].bound_ms is None
    assert search.note(5.0, Served(np.full(980, 1e6), 0, 1.0, np.zeros(0))).bound_ms == pytest.approx(1.0)


def test_a_trial_has_enough_queries_for_its_percentile() -> None:
    """At a low rate a trial lasts longer than asked."""
    assert trial_s(10.0, 1.0) * 10 > 662
    assert trial_s(1e6, 1.0) == 1.0
