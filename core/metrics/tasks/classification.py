"""Predicted classes, one per sample or position, and how many of them are right; positions can be left out.

Outputs are scores ``[N, C]`` (the largest wins, the first of equals), one logit ``[N]`` or ``[N, 1]`` (class 1 when
above zero), or dense scores ``[N, C, …]`` or ``[N, …, C]`` with targets ``[N, …]``. In dense targets, positions of
class -100 do not count, and in masks ``[N, H, W]`` neither do those of class 255, unless the model has that many.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import DataError
from ...tensors import Array
from ..intervals import Floats
from .definition import Evidence, Statistic, ratio

Labels = NDArray[np.int64]
IGNORED = -100
"""The class of a position that does not count, as in PyTorch."""
VOID = 255
"""The class of a pixel that does not count, in masks of one byte per pixel."""


def class_labels(outputs: Array, targets: Array) -> tuple[Labels, Labels]:
    """Predicted and true classes, both in the shape of the targets; scores are reduced to their argmax.

    The true class of a position that does not count is :data:`IGNORED`.

    Raises:
        DataError: the shapes do not fit each other, or a target class does not exist.
    """
    if outputs.shape == targets.shape and outputs.dtype.kind == "f" and targets.dtype.kind == "f":
        axis = _class_axis(outputs.shape)
        return _decide(outputs, axis), _decide(targets, axis)
    wanted = _without_last(targets)
    if outputs.shape in (wanted.shape, (*wanted.shape, 1)):
        flat = outputs.reshape(wanted.shape)
        predicted, classes = (_decide(flat, None), 2) if flat.dtype.kind == "f" else (flat.astype(np.int64), None)
    else:
        axis = class_axis_for(outputs.shape, wanted.shape)
        predicted, classes = _decide(outputs, axis), outputs.shape[axis]
    return predicted, true_classes(wanted, classes)


def _without_last(targets: Array) -> Array:
    return targets.reshape(len(targets)) if targets.ndim == 2 and targets.shape[1] == 1 else targets


def class_number(outputs: Array, targets: Array) -> int | None:
    """The number of classes of the model; None for outputs that are class indices already."""
    wanted = _without_last(targets)
    if outputs.shape in (wanted.shape, (*wanted.shape, 1)):
        return 2 if outputs.dtype.kind == "f" else None
    return int(outputs.shape[class_axis_for(outputs.shape, wanted.shape)])


def _decide(scores: NDArray[Any], axis: int | None) -> Labels:
    chosen: NDArray[Any] = (scores > 0) if axis is None else np.argmax(scores, axis=axis)
    return chosen.astype(np.int64)


def _class_axis(shape: tuple[int, ...]) -> int | None:
    """Class axis of scores without labels: ``[N, C]``, ``[N, T, C]``, ``[N, C, H, W]``."""
    axis = {1: 0, 2: 1, 3: 2}.get(len(shape), 1)
    return None if len(shape) == 1 or shape[axis] == 1 else axis


def class_axis_for(scores: tuple[int, ...], labels: tuple[int, ...]) -> int:
    """The class axis of scores with labels.

    Raises:
        DataError: the shapes do not fit each other.
    """
    if len(scores) == len(labels) + 1:
        if scores[:1] + scores[2:] == labels:
            return 1
        if scores[:-1] == labels:
            return len(scores) - 1
    raise DataError(
        f"outputs of shape {list(scores)} do not fit class targets of shape {list(labels)}",
        "give one class index per sample (and position), or choose a metric for values such as mse",
    )


def without_ignored(labels: NDArray[Any], classes: int | None) -> Labels:
    """Dense labels in which what does not count is :data:`IGNORED`; labels of whole samples stay as they are."""
    found: Labels = labels.astype(np.int64)
    if found.ndim >= 3 and (classes is None or classes <= VOID):
        found = np.where(found == VOID, IGNORED, found)
    return found


def true_classes(targets: Array, classes: int | None) -> Labels:
    """Checked class indices; :data:`IGNORED` for positions that do not count.

    Raises:
        DataError: a class does not exist, or is no whole number.
    """
    labels = without_ignored(targets, classes)
    if targets.dtype.kind == "f" and not np.array_equal(targets.astype(np.int64), targets):
        raise DataError("class targets are not whole numbers", "give class indices, or choose a metric such as mse")
    counted = labels[labels != IGNORED] if labels.ndim > 1 else labels
    if counted.size and (counted.min() < 0 or (classes is not None and counted.max() >= classes)):
        bad = int(counted.min() if counted.min() < 0 else counted.max())
        known = f"the model knows 0 to {classes - 1}" if classes is not None else "classes start at 0"
        raise DataError(f"target class {bad} does not exist: {known}", "check the labels, or the model's outputs")
    return labels


def right_ones(outputs: Array, targets: Array) -> Evidence:
    """The number of right classes of each sample, and the number that counts."""
    return _hits(*_decided(outputs, targets))


def _decided(outputs: Array, targets: Array) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Whether each class is right, and whether it counts."""
    labels = label_indicators(outputs, targets)
    if labels is not None:
        predicted, wanted, known = labels
        return predicted == wanted, known
    guess, truth = class_labels(outputs, targets)
    return guess == truth, truth != IGNORED


def _hits(right: NDArray[np.bool_], counts: NDArray[np.bool_]) -> Evidence:
    rows = len(right)
    return (right & counts).reshape(rows, -1).sum(axis=1), counts.reshape(rows, -1).sum(axis=1)


def share_right(evidence: Evidence) -> Statistic:
    """The share of right classes: the mean over samples, or over all positions if their numbers differ."""
    right, counts = evidence
    if len(counts) and counts[0] > 0 and (counts == counts[0]).all():
        return np.asarray(right / counts[0], np.float64)
    return ratio((right, counts))


def best_ones(k: int, outputs: Array, targets: Array) -> Evidence:
    """As :func:`right_ones`, for labels among the ``k`` highest scores; equal scores are ranked in class order."""
    predicted, wanted = class_labels(outputs, targets)
    if outputs.ndim == wanted.ndim or outputs.shape == (*wanted.shape, 1):
        return _hits(predicted == wanted, wanted != IGNORED)
    scores: NDArray[Any] = np.moveaxis(outputs, class_axis_for(outputs.shape, wanted.shape), -1)
    place = np.where(wanted == IGNORED, 0, wanted)[..., None]
    own = np.take_along_axis(scores, place, axis=-1)
    earlier = np.arange(scores.shape[-1]) < place
    ahead = (scores > own) | ((scores == own) & earlier)
    return _hits(ahead.sum(axis=-1) < k, wanted != IGNORED)


def label_indicators(outputs: Array, targets: Array) -> tuple[Array, Array, Array] | None:
    """Decisions, truth and whether it is known, ``bool[N, L]`` each, of several labels per sample; None for classes.

    Outputs are logits, or probabilities if all are between 0 and 1. Targets are 0 or 1 for each label, and -100 for
    one that is not known. Floating-point rows with a single 1 each are taken for scores of classes.
    """
    if outputs.ndim != 2 or outputs.shape != targets.shape or outputs.shape[1] < 2 or outputs.dtype.kind != "f":
        return None
    if not len(targets) or not bool(np.isin(targets, (0, 1, IGNORED)).all()):
        return None
    if targets.dtype.kind == "f" and bool((targets.sum(axis=1) == 1).all()):
        return None
    shares = outputs.min() >= 0 and outputs.max() <= 1
    return outputs > (0.5 if shares else 0), targets == 1, targets != IGNORED


def confusion(outputs: Array, targets: Array, classes: int) -> NDArray[np.int64]:
    """How often each class (row) is predicted as each class (column), ``[C, C]``; what does not count is left out.

    Raises:
        DataError: as :func:`class_labels`.
    """
    predicted, wanted = (labels.ravel() for labels in class_labels(outputs, targets))
    codes = (wanted * classes + predicted)[wanted != IGNORED]
    return np.bincount(codes, minlength=classes * classes).reshape(classes, classes).astype(np.int64)


def per_sample_mean(values: Floats) -> Floats:
    """The mean over all axes except the sample axis, ``[N]``."""
    return np.asarray(values.reshape(len(values), -1).mean(axis=1), np.float64)
