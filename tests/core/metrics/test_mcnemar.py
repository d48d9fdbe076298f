"""McNemar's exact test against SciPy, and its power to find a small loss (B7)."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest  # type: ignore[import-untyped]

from retort.core.metrics.mcnemar import mcnemar, sign_test


@pytest.mark.parametrize(("lost", "gained"), [(0, 0), (1, 0), (0, 6), (5, 5), (12, 3), (400, 460), (30_000, 30_100)])
def test_the_p_value_is_that_of_the_exact_sign_test(lost: int, gained: int) -> None:
    """As SciPy's binomial test has it, also with many samples; 1 where nothing differs."""
    wanted = binomtest(lost, lost + gained, 0.5).pvalue if lost + gained else 1.0
    assert sign_test(lost, gained) == pytest.approx(wanted, rel=1e-6)


def test_only_samples_on_which_they_differ_count() -> None:
    """Lost and gained are counted sample by sample."""
    found = mcnemar(np.array([1, 1, 1, 0, 0], bool), np.array([1, 0, 0, 1, 0], bool))
    assert (found.lost, found.gained) == (2, 1)
    with pytest.raises(ValueError, match="same samples"):
        mcnemar(np.zeros(2, bool), np.zeros(3, bool))


def test_a_loss_of_three_tenths_of_a_point_is_found() -> None:
    """On 10,000 samples, 40 of which become wrong and 10 right, at least 90 of 100 draws are significant (B7)."""
    draw = np.random.default_rng(7)
    right = draw.random((200, 10_000)) < 0.76
    changed = draw.random(right.shape)
    after = np.where(right, changed >= 0.004 / 0.76, changed < 0.001 / 0.24)
    found = [mcnemar(one, other).p_value < 0.05 for one, other in zip(right, after)]
    assert np.mean(found) >= 0.9
    same = [mcnemar(one, np.where(other < 0.005, ~one, one)).p_value < 0.05 for one, other in zip(right, changed)]
    assert np.mean(same) >= 0.9  # 0.26 points: three of four changed samples were right


def test_no_loss_is_found_where_there_is_none() -> None:
    """With as many lost as gained, at most 5 % of the draws are significant."""
    draw = np.random.default_rng(3)
    lost = draw.binomial(50, 0.5, 2000)
    assert np.mean([sign_test(int(k), 50 - int(k)) < 0.05 for k in lost]) <= 0.05
