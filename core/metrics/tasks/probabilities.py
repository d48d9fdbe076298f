"""Metrics of probabilities: whether they say how often a model is right, and how surprised it is by the truth."""

from __future__ import annotations

import numpy as np

from ...tensors import Array
from ..intervals import Floats, Score
from .classification import IGNORED, class_axis_for, class_labels
from .definition import Evidence, divided, in_chunks

BINS = 15
"""Number of bins of confidence, as in Guo et al., 2017."""
_LEAST = 1e-12


def probabilities_of(scores: Array, axis: int = -1) -> Floats:
    """Probabilities along an axis: numbers from 0 to 1 that add up to 1 stay, all others are taken for logits."""
    wide = scores.astype(np.float64)
    sums = wide.sum(axis=axis)
    if wide.size and wide.min() >= 0 and wide.max() <= 1 and bool(np.allclose(sums, 1, atol=1e-2)):
        return wide
    raised = np.exp(wide - wide.max(axis=axis, keepdims=True))
    return np.asarray(raised / raised.sum(axis=axis, keepdims=True))


def _of_classes(outputs: Array, targets: Array) -> tuple[Floats, Array]:
    """Probabilities ``[N, P, C]`` and true classes ``[N, P]``."""
    _, truth = class_labels(outputs, targets)
    rows = len(truth)
    if outputs.ndim == truth.ndim or outputs.shape == (*truth.shape, 1):
        flat = outputs.reshape(rows, -1).astype(np.float64)
        one = flat if flat.min() >= 0 and flat.max() <= 1 else 1 / (1 + np.exp(-np.clip(flat, -700, 700)))
        return np.stack([1 - one, one], axis=-1), truth.reshape(rows, -1)
    last = np.moveaxis(outputs, class_axis_for(outputs.shape, truth.shape), -1)
    return probabilities_of(last).reshape(rows, -1, last.shape[-1]), truth.reshape(rows, -1)


def binned_confidence(outputs: Array, targets: Array) -> Evidence:
    """Sums of confidence minus correctness in each bin, ``[N, 15]``, and the number of classes that count, ``[N]``."""
    shares, truth = _of_classes(outputs, targets)
    counts = truth != IGNORED
    best = shares.max(axis=-1)
    gap = np.where(counts, best - (shares.argmax(axis=-1) == truth), 0.0)
    bins = np.clip(np.ceil(best * BINS).astype(np.int64) - 1, 0, BINS - 1)
    codes = (np.arange(len(truth))[:, None] * BINS + bins).ravel()
    sums = np.bincount(codes, weights=gap.ravel(), minlength=len(truth) * BINS).reshape(len(truth), BINS)
    return sums, counts.sum(axis=1)


def calibration_error(evidence: Evidence) -> Score:
    """The expected calibration error: the mean distance of confidence and accuracy over the bins, by their size."""
    sums, counts = evidence

    def _score(weights: Floats) -> Floats:
        return divided(np.abs(weights @ sums).sum(axis=1), weights @ counts.astype(np.float64))

    return in_chunks(_score, BINS)


def surprise(outputs: Array, targets: Array) -> Evidence:
    """The sum of the negative logarithms of the true classes' probabilities, and the number of classes that count."""
    shares, truth = _of_classes(outputs, targets)
    counts = truth != IGNORED
    own = np.take_along_axis(shares, np.where(counts, truth, 0)[..., None], axis=-1)[..., 0]
    return np.where(counts, -np.log(np.maximum(own, _LEAST)), 0.0).sum(axis=1), counts.sum(axis=1)


def perplexity(evidence: Evidence) -> Score:
    """The exponential of the mean surprise."""
    total, counts = (np.asarray(part, np.float64) for part in evidence)
    return lambda weights: np.asarray(np.exp(divided(weights @ total, weights @ counts)), np.float64)
