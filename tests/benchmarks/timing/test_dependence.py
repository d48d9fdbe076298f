"""The dependence of neighbouring samples, and what it means for percentiles."""

from __future__ import annotations

import numpy as np
import pytest

from retort.benchmarks.timing.dependence import dependence
from retort.benchmarks.timing.statistics import percentile_interval, samples_needed


def test_independent_samples_count_fully() -> None:
    """Of 200 series of independent samples, nearly all have the dependence 1, whatever their distribution."""
    rng = np.random.default_rng(0)
    found = [dependence(rng.pareto(3, 2000)) for _ in range(100)] + [
        dependence((rng.random(2000) < 0.01).astype(float)) for _ in range(100)
    ]
    assert np.mean(np.array(found) == 1.0) >= 0.95
    assert dependence(np.ones(100)) == 1.0
    assert dependence(rng.random(5)) == 1.0


@pytest.mark.parametrize("correlation", [0.5, 0.9])
def test_the_dependence_of_a_known_process_is_found(correlation: float) -> None:
    """An autoregressive process of first order has the dependence (1 + r) / (1 - r)."""
    rng = np.random.default_rng(1)
    steps = rng.standard_normal((40, 6000))
    values = np.zeros((40, 6000))
    for index in range(1, 6000):
        values[:, index] = correlation * values[:, index - 1] + steps[:, index]
    truth = (1 + correlation) / (1 - correlation)
    assert np.median([dependence(one) for one in values]) == pytest.approx(truth, rel=0.4)


def test_repeated_samples_need_more_and_have_wider_intervals() -> None:
    """Times that stay the same for 16 calls are worth a sixteenth: p90 needs more of them, and p99 is withheld."""
    rng = np.random.default_rng(2)
    once = rng.lognormal(size=250)
    many = np.repeat(once, 16)
    fresh, stuck = percentile_interval(rng.lognormal(size=4000), 90), percentile_interval(many, 90)
    assert fresh.needed == samples_needed(90) < 8 * samples_needed(90) < stuck.needed
    assert (stuck.high or 0) - (stuck.low or 0) > 2 * ((fresh.high or 0) - (fresh.low or 0))
    withheld = percentile_interval(many, 99)
    assert (withheld.value, withheld.low, withheld.n) == (None, None, 4000)
    assert withheld.needed > 4000
