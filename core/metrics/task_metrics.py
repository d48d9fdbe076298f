"""Task metrics and their intervals, and the paired comparison of two models on the same samples.

Every metric takes outputs and targets with a leading sample axis; what they mean for each is told in
:mod:`retort.core.metrics.tasks`. ``agreement``, ``cosine``, ``sqnr`` and ``overlap@k`` compare with the outputs of a
reference model, given as the targets.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from ..counts import counted
from ..errors import DataError, UserError
from ..options.metric_names import MetricName, is_function
from ..tensors import Array
from .intervals import Floats, Interval, Score, bootstrap, paired_proportions, smallest_doubt, wilson
from .relative_error import decibels
from .tasks.classification import class_labels
from .tasks.definition import Evidence, Metric, Statistic
from .tasks.metric_table import higher_is_better, is_labelled, metric_of, metrics_for, unit_of
from .tasks.similarity import energies
from .tasks.user_metrics import RESAMPLES as USER_RESAMPLES
from .tasks.user_metrics import Judged, user_statistic


def evaluate(name: MetricName, outputs: Judged, targets: Array | None) -> float:
    """Compute the metric on all samples.

    Args:
        outputs: outputs of the model, ``[N, …]``; by name, for a function of the user.
        targets: class indices ``[N]`` or values ``[N, …]``; for ``agreement``, ``cosine``, ``sqnr`` and ``overlap@k``
            the outputs of the reference model; None for a function of the user that needs none.

    Raises:
        DataError: lengths differ, there are NaN or infinite values, a class does not exist in the model, or the metric
            is not defined on these samples.
    """
    return _Measured(name, outputs, targets).value


def metric_interval(
    name: MetricName, outputs: Judged, targets: Array | None, confidence: float = 0.95, seed: int = 0
) -> Interval:
    """Compute the metric with its interval: Wilson's for proportions, the BCa bootstrap for all others.

    Raises:
        DataError: see :func:`evaluate`.
    """
    measured = _Measured(name, outputs, targets)
    scores = measured.proportion
    if scores is not None:
        return wilson(float(scores.sum()), len(scores), confidence)
    interval = bootstrap(measured.score, measured.count, confidence, seed, measured.resamples)
    return _bounded(measured.with_doubt(interval), measured.metric)


def paired_difference(
    name: MetricName,
    reference_outputs: Judged,
    candidate_outputs: Judged,
    targets: Array | None,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval:
    """How much worse the candidate is than the reference on the same samples.

    Positive means worse: reference minus candidate for metrics where higher is better, candidate minus reference for
    errors. Proportions use Tango's score interval, which is valid even if few or no samples differ. All others use a
    paired BCa bootstrap, which for shares that are no mean over samples (macro averages, areas, error rates) is never
    narrower than the bound from ``n`` samples without an event.
    Two models with bit-equal outputs have a difference of exactly 0 in ``mse``, ``mae``, ``cosine`` and ``sqnr``.

    Args:
        targets: as in :func:`evaluate`, for both models.

    Raises:
        DataError: see :func:`evaluate`.
    """
    reference, candidate = (_Measured(name, outputs, targets) for outputs in (reference_outputs, candidate_outputs))
    first, second = reference.proportion, candidate.proportion
    if first is not None and second is not None:
        lost, gained = int(np.sum(first > second)), int(np.sum(first < second))
        return paired_proportions(lost, gained, len(first), confidence)
    _ = reference.value, candidate.value  # told at once where one is not defined
    sign = 1.0 if reference.metric.higher_is_better else -1.0
    difference = bootstrap(
        lambda weights: sign * (reference.score(weights) - candidate.score(weights)),
        reference.count,
        confidence,
        seed,
        reference.resamples,
    )
    return reference.with_doubt(difference)


class _Measured:
    """A metric of the outputs of one model."""

    def __init__(self, name: str, outputs: Judged, targets: Array | None) -> None:
        self.name, self.metric = name, metric_of(name)
        self.evidence: Evidence = ()
        self.statistic: Statistic
        self.resamples = self.metric.resamples
        if is_function(name):
            self.statistic = user_statistic(name, outputs, targets)
            self.resamples = None if isinstance(self.statistic, np.ndarray) else USER_RESAMPLES
            self.count = len(next(iter(outputs.values())) if isinstance(outputs, Mapping) else outputs)
            return
        assert not isinstance(outputs, Mapping), f"'{name}' judges an array"
        assert targets is not None, f"'{name}' needs targets"
        self.evidence = evidence_of(name, outputs, targets)
        self.statistic = self.metric.statistic(self.evidence)
        self.count = len(outputs)

    @property
    def score(self) -> Score:
        """The metric as a function of sample weights."""
        return as_score(self.statistic)

    @property
    def proportion(self) -> Floats | None:
        """The scores of the samples, if they are those of a proportion."""
        found = self.statistic
        if not isinstance(found, np.ndarray) or not self.metric.proportion:
            return None
        return found if bool(np.all((found == 0) | (found == 1))) else None

    @property
    def value(self) -> float:
        """The metric on all samples."""
        return value_of(self.name, self.statistic, self.count)

    def with_doubt(self, interval: Interval) -> Interval:
        """The interval, widened by the possible effect of unseen events on its rarest class."""
        leverage = self.metric.leverage
        if leverage is None or math.isnan(interval.value):
            return interval
        doubt = min(1.0, smallest_doubt(self.count, interval.confidence) * leverage(self.evidence))
        low, high = min(interval.low, interval.value - doubt), max(interval.high, interval.value + doubt)
        return Interval(interval.value, low, high, interval.confidence)


def evidence_of(name: MetricName, outputs: Array, targets: Array) -> Evidence:
    """What a metric keeps of some samples; the evidence of several batches can be joined along the first axis.

    Raises:
        DataError: see :func:`evaluate`.
    """
    _check(name, outputs, targets)
    return metric_of(name).evidence(outputs, targets)


def value_of(name: MetricName, statistic: Statistic, count: int) -> float:
    """The value of a statistic on all samples.

    Raises:
        DataError: the metric is not defined on these samples.
    """
    value = float(as_score(statistic)(np.ones((1, count)))[0])
    if math.isnan(value):
        raise DataError(
            f"the metric '{name}' is not defined on {counted(count, 'sample')} such as these: it divides by a number "
            "of events, and there is none",
            "give samples of several classes, or choose another metric",
        )
    return value


def as_score(statistic: Statistic) -> Score:
    """A statistic as a function of sample weights ``[B, N]`` that returns ``[B]`` values."""
    if not isinstance(statistic, np.ndarray):
        return statistic
    scores = statistic
    return lambda weights: np.asarray((weights @ scores) / weights.sum(axis=1), np.float64)


def sample_scores(name: MetricName, outputs: Array, targets: Array) -> Floats:
    """One score per sample ``[N]`` for a metric that is a mean over samples.

    Raises:
        DataError: see :func:`evaluate`.
        UserError: the metric is not a mean over samples (macro metrics, SQNR).
    """
    found = _Measured(name, outputs, targets).statistic
    if not isinstance(found, np.ndarray):
        raise UserError(f"'{name}' is not a mean over samples", "use `scorer`")
    return found


def scorer(name: MetricName, outputs: Array, targets: Array) -> Score:
    """The metric as a function of sample weights ``[B, N]`` that returns ``[B]`` values, for resampling.

    Raises:
        DataError: see :func:`evaluate`.
    """
    return _Measured(name, outputs, targets).score


def sqnr_db(reference: Array, outputs: Array, centred: bool = True) -> float:
    """Signal-to-quantization-noise ratio in dB; infinite for equal outputs.

    Args:
        reference: outputs of the model that is not quantized, ``[N, …]``.
        centred: use as signal only the differences between samples (the reference minus its mean over the samples). A
            large constant part of the outputs would give a ratio that is too good (compress.md 3). The noise is the
            whole error in both forms, so a constant error is always counted.

    Raises:
        DataError: shapes differ, or there are NaN or infinite values.
    """
    _check("sqnr", outputs, reference)
    signal, noise = energies(reference, outputs, centred)
    return float(decibels(signal.sum(), noise.sum()))


def _check(name: str, outputs: Array, targets: Array) -> None:
    metric_of(name)
    if len(outputs) != len(targets) or len(outputs) == 0:
        raise DataError(
            f"{counted(outputs, 'output')} for {counted(targets, 'target')}",
            "give one output and one target per sample",
        )
    for what, values in (("outputs", outputs), ("targets", targets)):
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            good = np.isfinite(values).reshape(len(values), -1).all(axis=1)
            raise DataError(
                f"{what} have NaN or infinite values, first in sample {int(np.argmin(good))}",
                "check the model and the data",
            )
    if not is_labelled(name) and outputs.shape != targets.shape:
        raise DataError(
            f"the outputs {list(outputs.shape)} and the reference's outputs {list(targets.shape)} differ in shape",
            "compare models with the same outputs",
        )


def _bounded(interval: Interval, metric: Metric) -> Interval:
    low, high = metric.range
    return Interval(interval.value, max(interval.low, low), min(interval.high, high), interval.confidence)


__all__ = [
    "Interval",
    "class_labels",
    "evaluate",
    "evidence_of",
    "higher_is_better",
    "is_labelled",
    "metric_interval",
    "metric_of",
    "metrics_for",
    "paired_difference",
    "sample_scores",
    "scorer",
    "sqnr_db",
    "unit_of",
]
