"""Facts of a cross-validation."""

from __future__ import annotations

from .record import Record


class FoldScore(Record):
    """One training of a cross-validation.

    Attributes:
        fold: its number, from 1.
        samples: number of samples that were left out and judge it.
        value: the metric on these samples.
        epochs: number of epochs.
        best_epoch: the epoch whose weights were kept, by the validation split.
    """

    fold: int
    samples: int
    value: float
    epochs: int
    best_epoch: int


class FoldsFacts(Record):
    """Facts of a cross-validation.

    Attributes:
        metric: name of the metric.
        folds: one entry per fold.
        value: the mean over the folds.
        low: lower end of its interval, by Student's t over the folds. Trainings of different folds share most of their
            samples, so that the interval is somewhat too narrow.
        high: upper end.
        confidence: of the interval.
    """

    metric: str
    folds: tuple[FoldScore, ...]
    value: float
    low: float
    high: float
    confidence: float
