"""Predicted classes, and the metrics that count them: top-k accuracy, macro precision, recall and F1."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError
from ..tensors import Array
from .intervals import Floats, Score

Labels = NDArray[np.int64]


def class_labels(outputs: Array, targets: Array) -> tuple[Labels, Labels]:
    """Predicted and true classes, both in the shape of the targets; scores are reduced to their argmax.

    Raises:
        DataError: the shapes do not fit each other, or a target class does not exist.
    """
    if outputs.shape == targets.shape and outputs.dtype.kind == "f" and targets.dtype.kind == "f":
        axis = _class_axis(outputs.shape)
        return _decide(outputs, axis), _decide(targets, axis)
    wanted = targets.reshape(len(targets)) if targets.ndim == 2 and targets.shape[1] == 1 else targets
    if outputs.shape in (wanted.shape, (*wanted.shape, 1)):
        flat = outputs.reshape(wanted.shape)
        predicted, classes = (_decide(flat, None), 2) if flat.dtype.kind == "f" else (flat.astype(np.int64), None)
    else:
        axis = _class_axis_for(outputs.shape, wanted.shape)
        predicted, classes = _decide(outputs, axis), outputs.shape[axis]
    return predicted, _checked_classes(wanted, classes)


def _decide(scores: NDArray[Any], axis: int | None) -> Labels:
    chosen: NDArray[Any] = (scores > 0) if axis is None else np.argmax(scores, axis=axis)
    return chosen.astype(np.int64)


def _class_axis(shape: tuple[int, ...]) -> int | None:
    """Class axis of scores without labels: ``[N, C]``, ``[N, T, C]``, ``[N, C, H, W]``."""
    axis = {1: 0, 2: 1, 3: 2}.get(len(shape), 1)
    return None if len(shape) == 1 or shape[axis] == 1 else axis


def _class_axis_for(scores: tuple[int, ...], labels: tuple[int, ...]) -> int:
    if len(scores) == len(labels) + 1:
        if scores[:1] + scores[2:] == labels:
            return 1
        if scores[:-1] == labels:
            return len(scores) - 1
    raise DataError(
        f"outputs of shape {list(scores)} do not fit class targets of shape {list(labels)}",
        "give one class index per sample (and position), or choose a metric for values such as mse",
    )


def _checked_classes(targets: Array, classes: int | None) -> Labels:
    labels: Labels = targets.astype(np.int64)
    if targets.dtype.kind == "f" and not np.array_equal(labels, targets):
        raise DataError("class targets are not whole numbers", "give class indices, or choose a metric such as mse")
    if labels.min() < 0 or (classes is not None and labels.max() >= classes):
        bad = int(labels.min() if labels.min() < 0 else labels.max())
        known = f"the model knows 0 to {classes - 1}" if classes is not None else "classes start at 0"
        raise DataError(f"target class {bad} does not exist: {known}", "check the labels, or the model's outputs")
    return labels


def top_k(outputs: Array, targets: Array, k: int) -> Floats:
    """Share of a sample's labels among the ``k`` highest scores, ``[N]``; equal scores are ranked in class order."""
    predicted, wanted = class_labels(outputs, targets)
    if outputs.ndim == wanted.ndim or outputs.shape == (*wanted.shape, 1):
        return per_sample_mean((predicted == wanted).astype(np.float64))
    scores: NDArray[Any] = np.moveaxis(outputs, _class_axis_for(outputs.shape, wanted.shape), -1)
    own = np.take_along_axis(scores, wanted[..., None], axis=-1)
    earlier = np.arange(scores.shape[-1]) < wanted[..., None]
    ahead = (scores > own) | ((scores == own) & earlier)
    return per_sample_mean((ahead.sum(axis=-1) < k).astype(np.float64))


def right_by_class(outputs: Array, targets: Array, classes: int) -> list[tuple[int, int]]:
    """The number of samples of each class, and how many of them are predicted right.

    Args:
        classes: number of classes.

    Raises:
        DataError: as :func:`class_labels`.
    """
    predicted, wanted = class_labels(outputs, targets)
    count = np.bincount(wanted.ravel(), minlength=classes)
    right = np.bincount(wanted.ravel()[(predicted == wanted).ravel()], minlength=classes)
    return [(int(all_), int(hit)) for all_, hit in zip(count[:classes], right[:classes], strict=True)]


def macro(name: str, predicted: Labels, wanted: Labels) -> Score:
    """Macro precision, recall or F1 as a function of sample weights.

    Args:
        predicted: classes, ``[N]`` or ``[N, …]``.
        wanted: classes of the same shape.
    """
    positions = predicted.size // len(predicted)
    classes, codes = np.unique(np.concatenate([predicted.ravel(), wanted.ravel()]), return_inverse=True)
    guess, truth = codes.reshape(2, -1)
    sums = [_summer(code, len(classes)) for code in (np.where(guess == truth, truth, len(classes)), guess, truth)]

    def _score(weights: Floats) -> Floats:
        spread = np.repeat(weights, positions, axis=1) if positions > 1 else weights
        hits, guessed, actual = (summed(spread) for summed in sums)
        total = {"precision": guessed, "recall": actual, "f1": (guessed + actual) / 2}[name]
        ratio = np.divide(hits, total, out=np.zeros_like(hits), where=total > 0)
        return np.asarray(ratio.sum(axis=1) / ((guessed + actual) > 0).sum(axis=1), np.float64)

    return _score


def _summer(code: NDArray[np.integer[Any]], classes: int) -> Score:
    """Sum weights ``[B, n]`` by class to ``[B, classes]``; indices beyond the classes are ignored."""
    order = np.argsort(code, kind="stable")
    present, starts = np.unique(code[order], return_index=True)

    def _summed(weights: Floats) -> Floats:
        sums = np.zeros((len(weights), classes + 1))
        sums[:, present] = np.add.reduceat(weights[:, order], starts, axis=1)
        return sums[:, :classes]

    return _summed


def per_sample_mean(values: Floats) -> Floats:
    """The mean over all axes except the sample axis, ``[N]``."""
    return np.asarray(values.reshape(len(values), -1).mean(axis=1), np.float64)
