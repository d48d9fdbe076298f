"""The figures of each class, what is taken for what, and the metric that is chosen from the shapes of targets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from retort.benchmarks.accuracy import Predictions, measure_accuracy
from retort.benchmarks.class_figures import class_figures
from retort.benchmarks.compare_models import metric_of
from retort.core.metrics.task_metrics import evaluate
from retort.core.tensors import Array

sklearn = pytest.importorskip("sklearn.metrics")
RNG = np.random.default_rng(0)
NAMES = ("cat", "dog", "owl")


def test_classes_of_samples_equal_scikit_learn() -> None:
    """Recall, precision and F1 of each class, and the confusion matrix, are those of scikit-learn."""
    outputs, targets = RNG.normal(size=(80, 3)), RNG.integers(0, 3, 80)
    found = class_figures("accuracy", outputs, targets, NAMES, 0.95)
    guess = outputs.argmax(1)
    precision, recall, f1, count = sklearn.precision_recall_fscore_support(targets, guess)
    assert [one.name for one in found.classes] == list(NAMES)
    assert [one.share.value for one in found.classes] == pytest.approx(recall)
    assert [one.precision for one in found.classes] == pytest.approx(precision)
    assert [one.f1 for one in found.classes] == pytest.approx(f1)
    assert [one.n for one in found.classes] == count.tolist()
    assert np.array_equal(found.confusion, sklearn.confusion_matrix(targets, guess))


def test_classes_of_pixels_and_labels() -> None:
    """Positions that do not count are left out; several labels have no confusion matrix."""
    outputs, targets = RNG.normal(size=(20, 3, 4, 4)), RNG.integers(0, 3, (20, 4, 4))
    targets[:, 0] = 255
    found = class_figures("miou", outputs, targets, NAMES, 0.95)
    counts = targets != 255
    assert np.array_equal(found.confusion, sklearn.confusion_matrix(targets[counts], outputs.argmax(1)[counts]))
    assert found.classes[1].share.value == pytest.approx(evaluate("recall[1]", outputs, targets))
    assert found.classes[1].share.low < (found.classes[1].share.value or 0) < found.classes[1].share.high
    labels = RNG.integers(0, 2, (50, 3))
    several = class_figures("f1", RNG.normal(size=(50, 3)), labels, NAMES, 0.95)
    assert several.confusion == ()
    assert [one.n for one in several.classes] == labels.sum(axis=0).tolist()
    assert class_figures("cosine", outputs, targets, NAMES, 0.95).classes == ()


def test_names_of_another_number_of_classes_are_left_alone() -> None:
    """Four names do not belong to three scores."""
    outputs, targets = RNG.normal(size=(20, 3)), RNG.integers(0, 3, 20)
    assert class_figures("accuracy", outputs, targets, (*NAMES, "fox"), 0.95).classes == ()


@pytest.mark.parametrize(
    ("outputs", "targets", "metric"),
    [
        (RNG.normal(size=(9, 4)), RNG.integers(0, 4, 9), "accuracy"),
        (RNG.normal(size=(9, 4)), RNG.integers(0, 2, (9, 4)), "average_precision"),
        (RNG.normal(size=(9, 4, 5, 5)), RNG.integers(0, 4, (9, 5, 5)), "accuracy"),
        (RNG.normal(size=(9, 6, 4)), RNG.integers(0, 4, (9, 6)), "accuracy"),
        (RNG.normal(size=(9, 12, 4)), RNG.integers(1, 4, (9, 5)), "cer"),
        (RNG.normal(size=(9, 12, 6)), RNG.normal(size=(9, 3, 5)), "map"),
        (RNG.normal(size=(9, 4)), RNG.normal(size=(9, 4)), "mse"),
        (RNG.normal(size=(9, 4)), None, "agreement"),
    ],
)
def test_the_metric_follows_from_the_targets(outputs: Array, targets: Array | None, metric: str) -> None:
    """Without a metric, the shapes of outputs and targets say which one is meant."""
    assert metric_of(Predictions({"output": outputs}, targets)) == metric


def test_a_metric_of_the_user_gets_all_outputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It needs no targets, and its drop against a reference is paired."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_figures.py").write_text("def gap(outputs, targets):\n    return outputs['a'] - outputs['b']\n")
    one = Predictions({"a": np.arange(30.0), "b": np.zeros(30)}, None)
    other = Predictions({"a": np.arange(30.0) - 2, "b": np.zeros(30)}, None)
    found = measure_accuracy("own_figures:gap", other, one)
    assert found.interval.value == pytest.approx(12.5)
    assert found.drop is not None
    assert (found.drop.value, found.drop.low, found.drop.high) == pytest.approx((2.0, 2.0, 2.0))
