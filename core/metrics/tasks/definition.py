"""What a metric is: evidence of each sample, and a value of all samples for any weights of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ...options.metric_names import Task
from ...tensors import Array
from ..intervals import WEIGHTS_IN_MEMORY, Floats, Score

MetricUnit = Literal["percent", "dB", "target"]
Evidence = tuple[Array, ...]
"""What a metric keeps of samples: arrays ``[N, …]``, so that those of batches can be joined."""
Statistic = Floats | Score
"""Scores ``[N]`` whose mean over the samples is the metric, or a function of sample weights."""


@dataclass(frozen=True)
class Metric:
    """One metric.

    Attributes:
        unit: how values are shown: as percentages (differences in percentage points), in dB, or as plain numbers, such
            as those in the unit of the targets.
        tasks: the tasks that it fits.
        evidence: takes outputs and targets, ``[N, …]`` each.
        statistic: makes the metric of evidence.
        labelled: whether it needs targets; the others compare with the outputs of a reference model.
        higher_is_better: whether a larger value is the better one.
        range: smallest and largest possible value.
        proportion: whether scores of 0 and 1 are those of a proportion, which has score intervals.
        decides: whether the outputs are scores of classes, so that the decisions of two models can be compared.
        leverage: how much a single sample can change the value, relative to ``1 / N``; None where an interval without
            spread is exact.
        resamples: number of resamples of the bootstrap; None for the default.
    """

    unit: MetricUnit
    tasks: tuple[Task, ...]
    evidence: Callable[[Array, Array], Evidence]
    statistic: Callable[[Evidence], Statistic]
    labelled: bool = True
    higher_is_better: bool = True
    range: tuple[float, float] = (0.0, 1.0)
    proportion: bool = False
    decides: bool = False
    leverage: Callable[[Evidence], float] | None = None
    resamples: int | None = None


def as_given(outputs: Array, targets: Array) -> Evidence:
    """The outputs and targets themselves, for a metric that compares samples with each other."""
    return outputs, targets


def only_scores(evidence: Evidence) -> Statistic:
    """The scores of the samples, which are all the evidence."""
    return np.asarray(evidence[0], np.float64)


def ratio(evidence: Evidence) -> Score:
    """The sum of the first evidence ``[N]`` divided by that of the second; not defined where that is 0."""
    above, below = (np.asarray(part, np.float64) for part in evidence)

    def _score(weights: Floats) -> Floats:
        return divided(weights @ above, weights @ below)

    return _score


def divided(above: Floats, below: Floats) -> Floats:
    """The quotient; NaN where the divisor is 0."""
    return np.asarray(np.divide(above, below, out=np.full(np.shape(above), np.nan), where=below > 0), np.float64)


def one_sample(evidence: Evidence) -> float:
    """The leverage of a metric that every sample can change by ``1 / N``."""
    return 1.0


def largest_share(sizes: Floats) -> float:
    """The leverage of a ratio of sums: the largest share that one sample has of them, relative to ``1 / N``."""
    total = float(np.sum(sizes))
    return float(len(sizes) * np.max(sizes) / total) if total > 0 else 1.0


def in_chunks(score: Score, columns: int) -> Score:
    """A function of weights that uses no more memory than for a limited number of rows with so many columns."""

    def _score(weights: Floats) -> Floats:
        rows = max(1, WEIGHTS_IN_MEMORY // max(columns, 1))
        return np.concatenate([score(weights[start : start + rows]) for start in range(0, len(weights), rows)])

    return _score


def rows_of(values: Array) -> Floats:
    """Values with one row per sample, ``float64[N, …]``."""
    return values.reshape(len(values), -1).astype(np.float64)
