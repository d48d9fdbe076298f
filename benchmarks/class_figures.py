"""What a model does with each class: the share that it finds, precision and F1, and what it takes for what."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..core.metrics.intervals import Interval, bootstrap, wilson
from ..core.metrics.task_metrics import metric_of
from ..core.metrics.tasks.class_counts import counted_classes, one_class
from ..core.metrics.tasks.classification import class_labels, class_number, confusion, label_indicators
from ..core.options.metric_names import DEFAULT_METRICS
from ..core.tensors import Array

_RESAMPLES = 1_000
MOST = 50
"""Largest number of classes of a confusion matrix."""


@dataclass(frozen=True)
class ClassAccuracy:
    """One class: its name, the number of its samples, and the share that is predicted right, with its interval.

    Attributes:
        n: number of its samples; of positions in dense targets.
        precision: share of what is predicted as this class that is right; None if nothing is.
    """

    name: str
    n: int
    share: Interval
    precision: float | None = None
    f1: float | None = None


@dataclass(frozen=True)
class ClassFigures:
    """The figures of all classes.

    Attributes:
        classes: those that have samples.
        confusion: how often each class (row) is predicted as each class (column); empty for many classes, and for
            several labels per sample.
    """

    classes: tuple[ClassAccuracy, ...] = ()
    confusion: tuple[tuple[int, ...], ...] = ()


def class_figures(
    metric: str, outputs: Array, targets: Array | None, names: Sequence[str], confidence: float
) -> ClassFigures:
    """The figures of named classes; none for outputs that are not scores of these classes.

    Args:
        metric: name of the metric that is measured, which says what the outputs may be.
    """
    if targets is None or targets.dtype.kind not in "iub" or not names:
        return ClassFigures()
    if targets.ndim == 1:
        if outputs.shape[1:] != (len(names),):
            return ClassFigures()
        return _of_classes(outputs, targets, names, confidence)
    tasks = metric_of(metric).tasks
    if len(tasks) == len(DEFAULT_METRICS) or not {"classification", "multilabel"} & set(tasks):
        return ClassFigures()
    if label_indicators(outputs, targets) is not None:
        fits = outputs.shape[1] == len(names)
        return _of_counts(outputs, targets, names, confidence) if fits else ClassFigures()
    if outputs.ndim != targets.ndim + 1 or class_number(outputs, targets) != len(names):
        return ClassFigures()
    found = _of_counts(outputs, targets, names, confidence)
    return ClassFigures(found.classes, _matrix(outputs, targets, len(names)))


def _matrix(outputs: Array, targets: Array, count: int) -> tuple[tuple[int, ...], ...]:
    if count > MOST:
        return ()
    return tuple(tuple(map(int, row)) for row in confusion(outputs, targets, count))


def _of_classes(outputs: Array, targets: Array, names: Sequence[str], confidence: float) -> ClassFigures:
    """One class per sample, with the score intervals of shares."""
    guess, truth = class_labels(outputs, targets)
    count = len(names)
    all_, guessed = (np.bincount(labels, minlength=count) for labels in (truth, guess))
    right = np.bincount(truth[guess == truth], minlength=count)
    made = []
    for index, name in enumerate(names):
        if all_[index]:
            share = wilson(float(right[index]), int(all_[index]), confidence)
            figures = _ratios(int(right[index]), int(guessed[index]), int(all_[index]))
            made.append(ClassAccuracy(name, int(all_[index]), share, *figures))
    return ClassFigures(tuple(made), _matrix(outputs, targets, count))


def _of_counts(outputs: Array, targets: Array, names: Sequence[str], confidence: float) -> ClassFigures:
    """Classes of positions or labels, whose intervals are those of resampled samples."""
    (counts,) = counted_classes(outputs, targets)
    made = []
    for index, name in enumerate(names):
        hits, guessed, actual = (int(total) for total in counts[:, :, index].sum(axis=0))
        if actual:
            share = bootstrap(one_class("recall", index, (counts,)), len(counts), confidence, resamples=_RESAMPLES)
            made.append(ClassAccuracy(name, actual, share, *_ratios(hits, guessed, actual)))
    return ClassFigures(tuple(made))


def _ratios(hits: int, guessed: int, actual: int) -> tuple[float | None, float]:
    return hits / guessed if guessed else None, 2 * hits / (guessed + actual)
