"""Equivalence and non-inferiority of two times."""

from __future__ import annotations

import numpy as np
import pytest

from retort.benchmarks.timing.equivalence import equivalent, no_slower, tost_p
from retort.core.metrics.ratio import Ratio


@pytest.mark.parametrize(
    ("low", "high", "slower", "equal"),
    [
        (0.97, 1.02, "yes", "yes"),
        (0.94, 1.02, "cannot tell", "cannot tell"),
        (0.90, 0.94, "no", "no"),
        (1.01, 1.07, "yes", "cannot tell"),
        (1.06, 1.20, "yes", "no"),
        (None, None, "cannot tell", "cannot tell"),
    ],
)
def test_the_whole_interval_decides(low: float | None, high: float | None, slower: str, equal: str) -> None:
    """Inside the margin of 5 % is yes, beyond it is no, and an interval that spans a margin cannot tell."""
    ratio = Ratio(1.0, low, high, 0.95)
    assert (no_slower(ratio, 5), equivalent(ratio, 5)) == (slower, equal)


def test_a_noisy_measurement_is_never_equivalent() -> None:
    """An interval inside the margins decides nothing if the measurement is in doubt."""
    assert equivalent(Ratio(1.0, 0.99, 1.01, 0.95, doubts=("the machine was busy",)), 5) == "cannot tell"


def test_at_the_margin_equivalence_is_claimed_in_five_percent() -> None:
    """Of 150 pairs that differ by exactly the margin, about 5 % are called equivalent; of equal pairs, nearly all."""
    rng = np.random.default_rng(1)
    claimed: dict[float, list[bool]] = {1.05: [], 1.0: []}
    for seed in range(150):
        shared, noise = rng.lognormal(0, 0.2, 30), rng.lognormal(0, 0.02, (2, 30))
        for factor, found in claimed.items():
            times = (shared * noise[0]).tolist(), (factor * shared * noise[1]).tolist()
            found.append(tost_p(*times, percent=5, seed=seed) <= 0.05)
    assert 0.01 <= np.mean(claimed[1.05]) <= 0.1
    assert np.mean(claimed[1.0]) >= 0.98
