"""Metrics of predicted values: errors, the share of variance that is explained, and correlations."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ...errors import DataError
from ...tensors import Array
from ..intervals import Floats, Score
from .classification import per_sample_mean
from .definition import Evidence, in_chunks, rows_of


def like(outputs: Array, targets: Array) -> Floats:
    """Outputs in the shape of the targets.

    Raises:
        DataError: the shapes do not fit.
    """
    if outputs.shape != targets.shape and outputs.size != targets.size:
        raise DataError(
            f"outputs {list(outputs.shape)} and targets {list(targets.shape)} differ in shape",
            "give targets of the output's shape; for classes, choose the metric accuracy",
        )
    return outputs.reshape(targets.shape).astype(np.float64)


def squared_errors(outputs: Array, targets: Array) -> Evidence:
    """The mean squared error of each sample."""
    return (per_sample_mean((like(outputs, targets) - targets.astype(np.float64)) ** 2),)


def absolute_errors(outputs: Array, targets: Array) -> Evidence:
    """The mean absolute error of each sample."""
    return (per_sample_mean(np.abs(like(outputs, targets) - targets.astype(np.float64))),)


def values(outputs: Array, targets: Array) -> Evidence:
    """Predicted and true values, ``[N, K]`` each."""
    return rows_of(like(outputs, targets)), rows_of(targets)


def determination(evidence: Evidence) -> Score:
    """The coefficient of determination R², the mean over the values of a sample."""
    found, wanted = evidence
    errors, centred = (found - wanted) ** 2, wanted - wanted.mean(axis=0)

    def _score(weights: Floats) -> Floats:
        count = weights.sum(axis=1, keepdims=True)
        spread = weights @ centred**2 - (weights @ centred) ** 2 / count
        return _mean(np.divide(weights @ errors, spread, out=np.full(spread.shape, np.nan), where=_varies(spread)), 1.0)

    return in_chunks(_score, 4 * wanted.shape[1])


def _mean(noise: Floats, top: float) -> Floats:
    return np.asarray(top - noise.mean(axis=1), np.float64)


def _varies(spread: Floats) -> NDArray[np.bool_]:
    return np.asarray(spread > 1e-12 * np.max(np.abs(spread), initial=1e-300))


def correlation(evidence: Evidence) -> Score:
    """Pearson's correlation, the mean over the values of a sample."""
    found, wanted = (part - part.mean(axis=0) for part in evidence)
    products = found * wanted

    def _score(weights: Floats) -> Floats:
        count, one, two = weights.sum(axis=1, keepdims=True), weights @ found, weights @ wanted
        return _correlated(
            weights @ products - one * two / count,
            weights @ found**2 - one**2 / count,
            weights @ wanted**2 - two**2 / count,
        )

    return in_chunks(_score, 6 * wanted.shape[1])


def _correlated(joint: Floats, one: Floats, two: Floats) -> Floats:
    below = np.sqrt(np.clip(one, 0, None) * np.clip(two, 0, None))
    shares = np.divide(joint, below, out=np.full(joint.shape, np.nan), where=_varies(one) & _varies(two))
    return np.asarray(np.clip(shares, -1.0, 1.0).mean(axis=1), np.float64)


def rank_correlation(evidence: Evidence) -> Score:
    """Spearman's correlation of ranks, equal values with their mean rank; the mean over the values of a sample."""
    pairs = [(_Ranks(one), _Ranks(two)) for one, two in zip(evidence[0].T, evidence[1].T, strict=True)]

    def _score(weights: Floats) -> Floats:
        return np.asarray(np.mean([_ranked(weights, *pair) for pair in pairs], axis=0), np.float64)

    return in_chunks(_score, 4 * len(evidence[0]))


class _Ranks:
    """Ranks of values as a function of how often each is there."""

    def __init__(self, column: Array) -> None:
        _, self.group = np.unique(column, return_inverse=True)
        self.order = np.argsort(self.group, kind="stable")
        self.starts = np.flatnonzero(np.diff(self.group[self.order], prepend=-1))

    def __call__(self, weights: Floats) -> Floats:
        own = np.add.reduceat(weights[:, self.order], self.starts, axis=1)
        middle = np.cumsum(own, axis=1) - own / 2
        return np.asarray(middle[:, self.group] - weights.sum(axis=1, keepdims=True) / 2)


def _ranked(weights: Floats, first: _Ranks, second: _Ranks) -> Floats:
    one, two = first(weights), second(weights)  # their weighted mean is 0
    joint, own, other = ((weights * a * b).sum(axis=1, keepdims=True) for a, b in ((one, two), (one, one), (two, two)))
    return _correlated(joint, own, other)
