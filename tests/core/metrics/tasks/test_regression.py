"""Explained variance and correlations, against scikit-learn and SciPy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retort.core.errors import DataError
from retort.core.metrics.task_metrics import evaluate, metric_interval, scorer

sklearn = pytest.importorskip("sklearn.metrics")
stats = pytest.importorskip("scipy.stats")


@settings(max_examples=25, deadline=None)
@given(st.integers(3, 60), st.integers(1, 3), st.integers(0, 10_000), st.booleans())
def test_they_equal_other_libraries(n: int, width: int, seed: int, ties: bool) -> None:
    """R² is scikit-learn's mean over the values, and the correlations are SciPy's, also with equal values."""
    rng = np.random.default_rng(seed)
    targets = rng.normal(size=(n, width)) + 100
    outputs = targets + rng.normal(size=(n, width))
    if ties:
        outputs = np.round(outputs)
        outputs[0] += 1
    assert evaluate("r2", outputs, targets) == pytest.approx(sklearn.r2_score(targets, outputs), abs=1e-8)
    if (outputs.std(axis=0) > 0).all():
        pearson = [stats.pearsonr(outputs[:, i], targets[:, i]).statistic for i in range(width)]
        spearman = [stats.spearmanr(outputs[:, i], targets[:, i]).statistic for i in range(width)]
        assert evaluate("pearson", outputs, targets) == pytest.approx(np.mean(pearson), abs=1e-8)
        assert evaluate("spearman", outputs, targets) == pytest.approx(np.mean(spearman), abs=1e-8)


@pytest.mark.parametrize("name", ["r2", "pearson", "spearman"])
def test_weights_are_repetitions(name: str) -> None:
    """With weights, a metric equals that of samples which are repeated so often, in any order."""
    rng = np.random.default_rng(1)
    outputs, targets, weights = np.round(rng.normal(size=40), 1), rng.normal(size=40), rng.integers(0, 4, 40)
    chosen = rng.permutation(np.repeat(np.arange(40), weights))
    weighted = scorer(name, outputs, targets)(weights[None].astype(float))[0]
    assert weighted == pytest.approx(evaluate(name, outputs[chosen], targets[chosen]))


def test_constant_targets_have_no_variance_to_explain() -> None:
    """R² and correlations of constant values are not defined, and that is said."""
    for name in ("r2", "pearson", "spearman"):
        with pytest.raises(DataError, match="is not defined"):
            evaluate(name, np.arange(5.0), np.ones(5))


def test_intervals_stay_within_what_is_possible() -> None:
    """The interval of a correlation near 1 ends at 1."""
    targets = np.arange(20.0)
    interval = metric_interval("spearman", targets + np.random.default_rng(0).normal(size=20), targets)
    assert interval.low < interval.value <= interval.high <= 1.0
