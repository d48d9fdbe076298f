"""Precision, recall, F1 and intersection over union: macro, micro, of one class, with several labels, and in masks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retort.core.errors import DataError
from retort.core.metrics.task_metrics import evaluate, metric_interval, paired_difference, scorer
from retort.core.metrics.tasks.classification import confusion
from retort.core.tensors import Array

sklearn = pytest.importorskip("sklearn.metrics")
KINDS = ("precision", "recall", "f1")
SCORED = {"precision": sklearn.precision_score, "recall": sklearn.recall_score, "f1": sklearn.f1_score}


def scores(seed: int, n: int, classes: int) -> tuple[Array, Array]:
    """Class scores with some skill, and the true classes."""
    rng = np.random.default_rng(seed)
    targets = rng.integers(0, classes, n)
    outputs = rng.normal(size=(n, classes)).astype(np.float32)
    outputs[np.arange(n), targets] += 1.5
    return outputs, targets


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 60), st.integers(2, 6), st.integers(0, 10_000))
def test_micro_and_single_classes_equal_scikit_learn(n: int, classes: int, seed: int) -> None:
    """The micro averages and the values of one class agree with scikit-learn, also if classes are missing."""
    outputs, targets = scores(seed, n, classes)
    guess = outputs.argmax(axis=1)
    for kind in KINDS:
        wanted = SCORED[kind](targets, guess, average="micro")
        assert evaluate(f"{kind}_micro", outputs, targets) == pytest.approx(wanted)
    index = int(targets[0])
    f1 = sklearn.f1_score(targets, guess, labels=[index], average="macro", zero_division=0)
    assert evaluate(f"f1[{index}]", outputs, targets) == pytest.approx(f1)


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 60), st.integers(2, 6), st.integers(0, 10_000))
def test_several_labels_equal_scikit_learn(n: int, labels: int, seed: int) -> None:
    """Each label is a class of its own: macro and micro averages are those of scikit-learn's indicators."""
    rng = np.random.default_rng(seed)
    outputs = rng.normal(size=(n, labels)).astype(np.float32)
    targets = rng.integers(0, 2, (n, labels))
    targets[0], outputs[0] = 1, 2.0  # every label occurs
    for kind in KINDS:
        macro = SCORED[kind](targets, outputs > 0, average="macro", zero_division=0)
        micro = SCORED[kind](targets, outputs > 0, average="micro", zero_division=0)
        assert evaluate(kind, outputs, targets) == pytest.approx(macro)
        assert evaluate(f"{kind}_micro", outputs, targets) == pytest.approx(micro)
    assert evaluate("accuracy", outputs, targets) == pytest.approx(np.mean((outputs > 0) == targets))


def test_probabilities_of_labels_are_decided_at_one_half() -> None:
    """Outputs between 0 and 1 are probabilities; an unknown label (-100) does not count."""
    outputs = np.array([[0.9, 0.2], [0.4, 0.8], [0.7, 0.1]], np.float32)
    targets = np.array([[1, 0], [0, 1], [0, -100]])
    assert evaluate("accuracy", outputs, targets) == pytest.approx(4 / 5)
    assert evaluate("precision[0]", outputs, targets) == pytest.approx(1 / 2)
    assert evaluate("f1[1]", outputs, targets) == 1.0


def test_masks_by_hand() -> None:
    """Intersection over union of two classes, worked out by hand; pixels of class 255 and -100 do not count."""
    wanted = np.array([[[0, 0], [1, 255]], [[1, 1], [-100, 0]]])
    guess = np.array([[[0, 1], [1, 0]], [[1, 0], [1, 0]]])
    outputs = np.moveaxis(np.eye(2, dtype=np.float32)[guess], -1, 1)
    # class 0: hits 2, guessed 3, true 3 -> 2 / 4; class 1: hits 2, guessed 3, true 3 -> 2 / 4
    assert evaluate("iou[0]", outputs, wanted) == pytest.approx(2 / 4)
    assert evaluate("iou[1]", outputs, wanted) == pytest.approx(2 / 4)
    assert evaluate("miou", outputs, wanted) == pytest.approx(1 / 2)
    assert evaluate("accuracy", outputs, wanted) == pytest.approx(4 / 6)
    assert evaluate("accuracy", guess, wanted) == pytest.approx(4 / 6)
    assert evaluate("miou", guess, wanted) == pytest.approx(1 / 2)
    assert confusion(outputs, wanted, 2).tolist() == [[2, 1], [1, 2]]


def test_dense_metrics_equal_scikit_learn_on_the_positions_that_count() -> None:
    """F1, mean intersection over union and accuracy of tokens are those of scikit-learn without ignored positions."""
    rng = np.random.default_rng(3)
    outputs, targets = rng.normal(size=(20, 7, 4)).astype(np.float32), rng.integers(0, 4, (20, 7))
    targets[rng.random((20, 7)) < 0.3] = -100
    counts = targets != -100
    guess, truth = outputs.argmax(-1)[counts], targets[counts]
    assert evaluate("f1", outputs, targets) == pytest.approx(sklearn.f1_score(truth, guess, average="macro"))
    assert evaluate("miou", outputs, targets) == pytest.approx(sklearn.jaccard_score(truth, guess, average="macro"))
    assert evaluate("accuracy", outputs, targets) == pytest.approx(sklearn.accuracy_score(truth, guess))
    assert (confusion(outputs, targets, 4) == sklearn.confusion_matrix(truth, guess)).all()
    top = sklearn.top_k_accuracy_score(truth, outputs[counts], k=2, labels=range(4))
    assert evaluate("top2", outputs, targets) == pytest.approx(top)


@pytest.mark.parametrize("name", ["miou", "f1", "precision_micro", "iou[1]", "accuracy", "top2"])
def test_weights_are_repetitions(name: str) -> None:
    """With weights, a metric of masks equals that of samples which are repeated, and any order gives the same."""
    rng = np.random.default_rng(5)
    outputs, targets = rng.normal(size=(12, 3, 4, 4)).astype(np.float32), rng.integers(0, 3, (12, 4, 4))
    targets[rng.random(targets.shape) < 0.2] = 255
    weights = rng.integers(0, 3, 12)
    chosen = rng.permutation(np.repeat(np.arange(12), weights))
    weighted = scorer(name, outputs, targets)(weights[None].astype(float))[0]
    assert weighted == pytest.approx(evaluate(name, outputs[chosen], targets[chosen]))


def test_a_perfect_mask_is_no_certainty() -> None:
    """Without a wrong pixel, intervals still have the width that so few images allow."""
    targets = np.random.default_rng(0).integers(0, 3, (30, 5, 5))
    outputs = np.moveaxis(np.eye(3, dtype=np.float32)[targets], -1, 1)
    interval = metric_interval("miou", outputs, targets)
    assert (interval.value, interval.high) == (1.0, 1.0)
    assert interval.low < 0.9
    drop = paired_difference("miou", outputs, outputs, targets)
    assert drop.low < drop.value == 0 < drop.high


def test_a_class_that_does_not_occur_is_told() -> None:
    """The F1 of a class without a target and a prediction is not defined; the message says which classes there are."""
    outputs, targets = scores(0, 10, 3)
    with pytest.raises(DataError, match="class 7 is in no target and in no prediction") as caught:
        evaluate("f1[7]", outputs, targets)
    assert "0 to 2" in caught.value.remedy


def test_a_class_of_tokens_that_does_not_exist_is_told() -> None:
    """Only -100 is left out of tokens; any other class must exist."""
    with pytest.raises(DataError, match="target class 255 does not exist: the model knows 0 to 1"):
        evaluate("f1", np.zeros((2, 3, 2)), np.full((2, 3), 255))


def test_targets_that_are_all_left_out_are_told() -> None:
    """Without a position that counts, the metric is not defined."""
    with pytest.raises(DataError, match="'accuracy' is not defined on 2 samples"):
        evaluate("accuracy", np.zeros((2, 3, 2)), np.full((2, 3), -100))


def test_a_mask_changes_no_more_than_its_share_of_the_pixels() -> None:
    """With small objects in every mask, the doubt is that of one mask in thirty, not that of one pixel in thirty."""
    targets = np.zeros((30, 20, 20), np.int64)
    targets[:, :2, :2] = 1
    outputs = np.moveaxis(np.eye(2, dtype=np.float32)[targets], -1, 1)
    drop = paired_difference("miou", outputs, outputs, targets)
    single = paired_difference("accuracy", np.eye(2)[targets[:, 0, 0]], np.eye(2)[targets[:, 0, 0]], targets[:, 0, 0])
    assert drop.high == pytest.approx(single.high, rel=1e-6)
