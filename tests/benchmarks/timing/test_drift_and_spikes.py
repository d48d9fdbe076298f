"""Drift of times in percent per minute, and calls that take much longer than others."""

from __future__ import annotations

import numpy as np
import pytest
from known import known

from retort.benchmarks.timing import latency
from retort.benchmarks.timing.clocks import single
from retort.benchmarks.timing.drift_and_spikes import drift_per_minute, spikes
from retort.core.options.stage_options import BenchOptions


def test_drift_is_the_slope_of_theil_and_sen() -> None:
    """The slope and its interval agree with scipy's, also with spikes in a fifth of the values."""
    theilslopes = pytest.importorskip("scipy.stats").theilslopes
    rng = np.random.default_rng(0)
    moments = np.sort(rng.uniform(0, 120, 150))
    times = 2 * np.exp(0.03 * moments / 60) * rng.lognormal(0, 0.01, 150)
    times[rng.random(150) < 0.2] *= 1.5
    found = known(drift_per_minute(moments, times))
    slope, _, low, high = theilslopes(np.log(times), moments / 60, 0.95)
    assert found.value == pytest.approx(100 * np.expm1(slope), rel=1e-9)
    assert (found.low, found.high) == pytest.approx((100 * np.expm1(low), 100 * np.expm1(high)), rel=0.02)
    assert found.low <= 3.05 <= found.high


def test_times_without_a_drift_have_an_interval_around_zero() -> None:
    """In 95 % of 200 simulations with heavy tails, the interval contains 0; long series are thinned out."""
    rng = np.random.default_rng(3)
    held = []
    for _ in range(200):
        found = known(drift_per_minute(np.arange(60.0), 1 + rng.pareto(1.5, 60)))
        held.append(found.low <= 0 <= found.high)
    assert np.mean(held) >= 0.92
    long = known(drift_per_minute(np.arange(20_000.0), np.exp(np.arange(20_000.0) / 6000)))
    assert long.value == pytest.approx(100 * np.expm1(0.01))


def test_too_few_values_have_no_drift() -> None:
    """Seven values, and values of one moment, give None."""
    assert drift_per_minute(np.arange(7.0), np.ones(7)) is None
    assert drift_per_minute(np.zeros(20), np.ones(20)) is None


def test_spikes_are_counted_with_what_they_cost() -> None:
    """Two of a hundred calls that take ten times as long are 2 % of the calls, and cost a sixth of the time."""
    found = spikes(np.array([1.0] * 98 + [10.0, 10.0]))
    assert (found.count, found.calls, found.share_percent, found.longest_ms) == (2, 100, 2.0, 10.0)
    assert found.time_percent == pytest.approx(100 * 18 / 118)
    assert spikes(np.array([1.0, 1.1, 1.2])).count == 0


def test_a_comparison_reports_drift_and_spikes() -> None:
    """A machine that becomes slower by 30 % per minute is found, and one call in fifty that stalls is counted."""
    now, calls = [0], [0]

    def clock() -> int:
        now[0] += 40
        return now[0]

    def work() -> None:
        calls[0] += 1
        now[0] += int(200_000 * 1.3 ** (now[0] / 60e9)) + (3_000_000 if calls[0] % 50 == 0 else 0)

    options = BenchOptions(block_ms=5.0, budget_s=20.0, precision=1e-4)
    found = latency.compare_latency({"a": work, "b": work}, options, clocks=single(clock)).candidates["a"]
    drift = known(found.drift)
    assert drift.value == pytest.approx(30, rel=0.01)
    assert drift.low <= drift.value <= drift.high
    assert 1 < found.spikes.share_percent < 3
    assert found.spikes.longest_ms > 3
