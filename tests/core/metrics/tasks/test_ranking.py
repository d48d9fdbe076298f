"""Area under the ROC curve and average precision, against scikit-learn and by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retort.core.errors import DataError
from retort.core.metrics.task_metrics import evaluate, metric_interval, scorer

sklearn = pytest.importorskip("sklearn.metrics")


@settings(max_examples=40, deadline=None)
@given(st.integers(4, 60), st.integers(0, 10_000), st.booleans())
def test_binary_equals_scikit_learn_with_ties_and_weights(n: int, seed: int, ties: bool) -> None:
    """One logit per sample: both metrics agree with scikit-learn, also with equal scores and with weights."""
    rng = np.random.default_rng(seed)
    outputs, targets = rng.normal(size=n), rng.integers(0, 2, n)
    outputs = np.round(outputs) if ties else outputs
    targets[:2], weights = (0, 1), rng.integers(1, 4, n)
    for name, theirs in (("roc_auc", sklearn.roc_auc_score), ("average_precision", sklearn.average_precision_score)):
        assert evaluate(name, outputs, targets) == pytest.approx(theirs(targets, outputs))
        weighted = scorer(name, outputs, targets)(weights[None].astype(float))[0]
        assert weighted == pytest.approx(theirs(targets, outputs, sample_weight=weights))
        two = np.stack([-outputs, outputs], axis=1)
        assert evaluate(name, two, targets) == pytest.approx(theirs(targets, outputs))


def test_several_classes_equal_scikit_learn() -> None:
    """Each class is ranked against all others by its probability; the mean is that of scikit-learn."""
    rng = np.random.default_rng(2)
    outputs, targets = rng.normal(size=(80, 5)), rng.integers(0, 5, 80)
    shares = np.exp(outputs) / np.exp(outputs).sum(1, keepdims=True)
    wanted = sklearn.roc_auc_score(targets, shares, multi_class="ovr", average="macro")
    assert evaluate("roc_auc", outputs, targets) == pytest.approx(wanted)
    assert evaluate("roc_auc", shares, targets) == pytest.approx(wanted)
    precision = sklearn.average_precision_score(np.eye(5)[targets], shares, average="macro")
    assert evaluate("average_precision", outputs, targets) == pytest.approx(precision)


def test_several_labels_equal_scikit_learn_and_a_label_of_one_kind_is_left_out() -> None:
    """The mean is over the labels with samples of both kinds; unknown labels (-100) do not count."""
    rng = np.random.default_rng(4)
    outputs, targets = rng.normal(size=(50, 4)), rng.integers(0, 2, (50, 4))
    targets[:, 3] = 0
    wanted = np.mean([sklearn.average_precision_score(targets[:, i], outputs[:, i]) for i in range(3)])
    assert evaluate("average_precision", outputs, targets) == pytest.approx(wanted)
    assert evaluate("roc_auc", outputs, targets) == pytest.approx(
        sklearn.roc_auc_score(targets[:, :3], outputs[:, :3], average="macro")
    )
    targets[:10, 0] = -100
    known = sklearn.average_precision_score(targets[10:, 0], outputs[10:, 0])
    others = [sklearn.average_precision_score(targets[:, i], outputs[:, i]) for i in (1, 2)]
    assert evaluate("average_precision", outputs, targets) == pytest.approx(np.mean([known, *others]))


def test_by_hand() -> None:
    """Scores 0.1 0.4 0.35 0.8 of the classes 0 0 1 1: three of four pairs are in order."""
    outputs, targets = np.array([0.1, 0.4, 0.35, 0.8]), np.array([0, 0, 1, 1])
    assert evaluate("roc_auc", outputs, targets) == 0.75
    assert evaluate("average_precision", outputs, targets) == pytest.approx((1 + 2 / 3) / 2)


def test_one_class_alone_is_told() -> None:
    """Without a sample of both kinds there is no order to judge."""
    with pytest.raises(DataError, match="all targets are of the same class"):
        evaluate("roc_auc", np.arange(5.0), np.ones(5, int))


def test_the_interval_of_a_perfect_order_is_not_a_point() -> None:
    """Thirty samples in perfect order leave room for a few that are not."""
    outputs, targets = np.arange(30.0), (np.arange(30) >= 15).astype(int)
    interval = metric_interval("roc_auc", outputs, targets)
    assert interval.value == interval.high == 1.0
    assert interval.low < 0.9
