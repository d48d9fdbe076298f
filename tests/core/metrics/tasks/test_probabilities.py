"""Calibration error and perplexity, by hand and against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest

from retort.core.metrics.task_metrics import evaluate, scorer

sklearn = pytest.importorskip("sklearn.metrics")


def test_calibration_error_by_hand() -> None:
    """Four samples of confidence 0.8 of which three are right: 5 points of error, from logits too."""
    shares = np.tile([0.8, 0.2], (4, 1))
    targets = np.array([0, 0, 0, 1])
    assert evaluate("ece", shares, targets) == pytest.approx(0.05)
    assert evaluate("ece", np.log(shares) + 3, targets) == pytest.approx(0.05)
    logit = np.log(0.8 / 0.2) * np.array([1.0, 1, 1, 1]) + 0
    assert evaluate("ece", logit * 1.0, np.array([1, 1, 1, 0])) == pytest.approx(0.05)


def test_calibration_error_of_bins() -> None:
    """The bins are weighted by their size, and errors of opposite sign within one bin cancel."""
    rng = np.random.default_rng(0)
    outputs, targets = rng.normal(size=(300, 4)) * 2, rng.integers(0, 4, 300)
    shares = np.exp(outputs) / np.exp(outputs).sum(1, keepdims=True)
    best, right = shares.max(1), shares.argmax(1) == targets
    wanted = 0.0
    for low in np.arange(15) / 15:
        inside = (best > low) & (best <= low + 1 / 15)
        wanted += abs((best[inside] - right[inside]).sum()) / 300 if inside.any() else 0.0
    assert evaluate("ece", outputs, targets) == pytest.approx(wanted)


def test_perplexity_is_the_exponential_of_the_log_loss() -> None:
    """It equals scikit-learn's log loss, skips ignored tokens, and counts every token alike."""
    rng = np.random.default_rng(1)
    outputs, targets = rng.normal(size=(10, 6, 5)), rng.integers(0, 5, (10, 6))
    targets[rng.random(targets.shape) < 0.4] = -100
    counts = targets != -100
    shares = np.exp(outputs) / np.exp(outputs).sum(-1, keepdims=True)
    wanted = np.exp(sklearn.log_loss(targets[counts], shares[counts], labels=range(5)))
    assert evaluate("perplexity", outputs, targets) == pytest.approx(wanted)
    assert evaluate("perplexity", np.zeros((10, 6, 5)), targets) == pytest.approx(5.0)


@pytest.mark.parametrize("name", ["ece", "perplexity"])
def test_weights_are_repetitions(name: str) -> None:
    """With weights, a metric equals that of samples which are repeated so often."""
    rng = np.random.default_rng(1)
    outputs, targets, weights = rng.normal(size=(30, 3)), rng.integers(0, 3, 30), rng.integers(0, 4, 30)
    chosen = np.repeat(np.arange(30), weights)
    weighted = scorer(name, outputs, targets)(weights[None].astype(float))[0]
    assert weighted == pytest.approx(evaluate(name, outputs[chosen], targets[chosen]))
