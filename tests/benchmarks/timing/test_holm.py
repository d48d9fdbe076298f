"""Holm's correction of several p values."""

from __future__ import annotations

import numpy as np
import pytest

from retort.benchmarks.timing import latency
from retort.benchmarks.timing.clocks import single
from retort.benchmarks.timing.holm import holm
from retort.core.metrics.ratio import Ratio
from retort.core.options.stage_options import BenchOptions


def test_corrected_values_are_those_of_the_paper() -> None:
    """The smallest value is multiplied by the number of comparisons, the next by one less, and order is kept."""
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005}) == pytest.approx(
        {"a": 0.03, "b": 0.06, "c": 0.06, "d": 0.02}
    )
    assert holm({"a": 0.7, "b": 0.8}) == {"a": 1.0, "b": 1.0}
    assert holm({}) == {}


def test_equal_candidates_give_a_false_alarm_in_five_percent_of_the_families() -> None:
    """Of 2,000 families of eight equal candidates, at most about 5 % have one that is called different."""
    families = np.random.default_rng(0).random((2000, 8))
    alarms = [min(holm({str(place): value for place, value in enumerate(one)}).values()) <= 0.05 for one in families]
    assert 0.035 <= np.mean(alarms) <= 0.065


def test_one_of_many_candidates_needs_stronger_evidence() -> None:
    """An interval that barely excludes 1 decides alone, and not if as many equal candidates may show as much."""
    alone = Ratio(1.02, 1.001, 1.0393, 0.95)
    assert (alone.verdict, round(alone.p_value, 3)) == ("faster", 0.039)
    many = Ratio(1.02, 1.001, 1.0393, 0.95, p_holm=3 * alone.p_value)
    assert many.verdict == "cannot tell"
    assert "by Holm" in many.why_undecided


def test_a_comparison_of_several_candidates_is_corrected() -> None:
    """Two candidates of one comparison get corrected p values; a single one needs none."""
    now = [0]

    def clock() -> int:
        now[0] += 40
        return now[0]

    def work(nanoseconds: int) -> None:
        now[0] += nanoseconds

    calls = {"a": lambda: work(100_000), "b": lambda: work(80_000), "c": lambda: work(100_000)}
    options = BenchOptions(block_ms=1.0, budget_s=2.0)
    found = latency.compare_latency(calls, options, clocks=single(clock))
    assert (found.ratio_of("b").verdict, found.ratio_of("c").verdict) == ("faster", "cannot tell")
    assert found.ratio_of("b").p_holm == pytest.approx(2 * found.ratio_of("b").p_value)
    pair = latency.compare_latency({name: calls[name] for name in "ab"}, options, clocks=single(clock))
    assert pair.ratio_of("b").p_holm is None
