"""Metrics that count hits, guesses and occurrences of classes: precision, recall, F1, and intersection over union.

A class that is never predicted has precision 0. Averages are over the classes that occur in targets or predictions.
With several labels per sample, each label is a class of its own, whose occurrence is what counts.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ...errors import DataError
from ...tensors import Array
from ..intervals import Floats, Score
from .classification import IGNORED, class_labels, class_number, label_indicators
from .definition import Evidence, divided, in_chunks, largest_share

Kind = Literal["precision", "recall", "f1", "iou"]


def counted_classes(outputs: Array, targets: Array) -> Evidence:
    """Predicted and true classes ``[N]`` of samples with one class, else counts ``[N, 3, C]`` of each sample.

    The counts are those of hits, guesses and occurrences of each class.
    """
    labels = label_indicators(outputs, targets)
    if labels is not None:
        predicted, wanted, known = labels
        return (np.stack([predicted & wanted & known, predicted & known, wanted & known], axis=1).astype(np.float64),)
    guess, truth = class_labels(outputs, targets)
    classes = class_number(outputs, targets) if outputs.dtype.kind != "f" or outputs.shape != targets.shape else None
    if guess.ndim == 1 or classes is None:
        return guess, truth
    return (_position_counts(guess, truth, classes),)


def _position_counts(guess: NDArray[np.int64], truth: NDArray[np.int64], classes: int) -> Floats:
    rows = len(guess)
    guess, truth = guess.reshape(rows, -1), truth.reshape(rows, -1)
    sample = np.arange(rows)[:, None] * classes
    counts = truth != IGNORED

    def _count(chosen: NDArray[Any], codes: NDArray[np.int64]) -> Floats:
        found = np.bincount((sample + codes)[chosen], minlength=rows * classes)
        return found.reshape(rows, classes).astype(np.float64)

    return np.stack([_count(counts & (guess == truth), truth), _count(counts, guess), _count(counts, truth)], axis=1)


def macro(kind: Kind, evidence: Evidence) -> Score:
    """The mean over the classes that occur, as a function of sample weights."""
    if len(evidence) == 2 and evidence[0].ndim == 1:
        hits, guessed, actual, classes = _sums_of_labels(*evidence)
        return in_chunks(lambda weights: _macro(kind, hits(weights), guessed(weights), actual(weights)), classes)
    counts = _dense_counts(evidence)
    counts = counts[:, :, counts.any(axis=(0, 1))]
    return _weighted(counts, lambda hits, guessed, actual: _macro(kind, hits, guessed, actual))


def micro(kind: Kind, evidence: Evidence) -> Score:
    """The ratio of the sums over all classes."""
    if len(evidence) == 2 and evidence[0].ndim == 1:
        guess, truth = evidence
        ones = np.ones(len(guess))
        counts = np.stack([(guess == truth).astype(np.float64), ones, ones], axis=1)[:, :, None]
    else:
        counts = _dense_counts(evidence).sum(axis=2, keepdims=True)
    return _weighted(counts, lambda *sums: divided(*_quotient(kind, *sums))[:, 0])


def one_class(kind: Kind, index: int, evidence: Evidence) -> Score:
    """The ratio of one class.

    Raises:
        DataError: there is no such class.
    """
    if len(evidence) == 2 and evidence[0].ndim == 1:
        guess, truth = evidence
        known = max(int(guess.max(initial=0)), int(truth.max(initial=0)))
        counts = np.stack([(guess == truth) & (truth == index), guess == index, truth == index], axis=1)[:, :, None]
    else:
        counts = _dense_counts(evidence)
        known = counts.shape[2] - 1
        counts = counts[:, :, index : index + 1]
    if not counts.any():
        raise DataError(
            f"class {index} is in no target and in no prediction", f"name a class from 0 to {known} that occurs"
        )
    return _weighted(counts.astype(np.float64), lambda *sums: divided(*_quotient(kind, *sums))[:, 0])


def rarest(evidence: Evidence) -> float:
    """How much one sample can change a mean over classes, relative to ``1 / N``: its largest share of the classes.

    With one class per sample, that is ``N`` by the size of the rarest class and by the number of classes.
    """
    if len(evidence) == 2 and evidence[0].ndim == 1:
        counts = np.unique(evidence[1], return_counts=True)[1]
        return evidence[1].size / (len(counts) * int(counts.min()))
    occurring = _dense_counts(evidence)[:, 2, :]
    occurring = occurring[:, occurring.any(axis=0)]
    return largest_share(np.mean(occurring / occurring.sum(axis=0), axis=1)) if occurring.size else 1.0


def rarity(index: int, evidence: Evidence) -> float:
    """As :func:`rarest`, for the ratio of one class."""
    if len(evidence) == 2 and evidence[0].ndim == 1:
        return float(evidence[1].size / max(int(np.sum(evidence[1] == index)), 1))
    return largest_share(_dense_counts(evidence)[:, 2, index])


def _dense_counts(evidence: Evidence) -> Floats:
    """The counts of each sample; those of dense class indices are made when all are known."""
    if len(evidence) == 1:
        return np.asarray(evidence[0], np.float64)
    guess, truth = evidence
    classes = max(int(guess.max(initial=0)), int(truth.max(initial=0))) + 1
    return _position_counts(guess, truth, classes)


def _weighted(counts: Floats, value: Any) -> Score:
    classes = counts.shape[2]
    flat = counts.reshape(len(counts), 3 * classes)

    def _score(weights: Floats) -> Floats:
        sums = (weights @ flat).reshape(len(weights), 3, classes)
        return np.asarray(value(sums[:, 0], sums[:, 1], sums[:, 2]), np.float64)

    return in_chunks(_score, 3 * classes)


def _quotient(kind: Kind, hits: Floats, guessed: Floats, actual: Floats) -> tuple[Floats, Floats]:
    below = {"precision": guessed, "recall": actual, "f1": (guessed + actual) / 2, "iou": guessed + actual - hits}
    return hits, below[kind]


def _macro(kind: Kind, hits: Floats, guessed: Floats, actual: Floats) -> Floats:
    hits, total = _quotient(kind, hits, guessed, actual)
    shares = np.divide(hits, total, out=np.zeros_like(hits), where=total > 0)
    occurring = ((guessed + actual) > 0).sum(axis=1)
    return divided(np.asarray(shares.sum(axis=1), np.float64), occurring.astype(np.float64))


def _sums_of_labels(predicted: Array, wanted: Array) -> tuple[Score, Score, Score, int]:
    """Functions of weights that sum hits, guesses and occurrences by class, and the number of classes."""
    classes, codes = np.unique(np.concatenate([predicted.ravel(), wanted.ravel()]), return_inverse=True)
    guess, truth = codes.reshape(2, -1)
    count = len(classes)
    return (
        _summer(np.where(guess == truth, truth, count), count),
        _summer(guess, count),
        _summer(truth, count),
        count,
    )


def _summer(code: NDArray[np.integer[Any]], classes: int) -> Score:
    """Sum weights ``[B, n]`` by class to ``[B, classes]``; indices beyond the classes are ignored."""
    order = np.argsort(code, kind="stable")
    present, starts = np.unique(code[order], return_index=True)

    def _summed(weights: Floats) -> Floats:
        sums = np.zeros((len(weights), classes + 1))
        sums[:, present] = np.add.reduceat(weights[:, order], starts, axis=1)
        return sums[:, :classes]

    return _summed
