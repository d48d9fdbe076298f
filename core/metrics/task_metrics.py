"""Task metrics and their intervals, and the paired comparison of two models on the same samples.

Every metric takes outputs and targets with a leading sample axis. Classification outputs are scores ``[N, C]`` (the
largest wins, the first of equals), one logit ``[N]`` or ``[N, 1]`` (class 1 when above zero), or dense scores
``[N, C, …]`` or ``[N, …, C]`` with targets ``[N, …]``. ``agreement``, ``cosine`` and ``sqnr`` compare with the outputs
of a reference model, given as the targets. Precision, recall and F1 are macro averages over the classes that occur in
targets or predictions; a class that is never predicted has precision 0.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import numpy as np

from ..counts import counted
from ..errors import DataError, UserError
from ..options.stage_options import MetricName, Task
from ..tensors import Array
from .classification import class_labels, macro, per_sample_mean, top_k
from .intervals import (
    Floats,
    Interval,
    Score,
    bootstrap,
    paired_proportions,
    smallest_doubt,
    wilson,
)
from .relative_error import decibels

MetricUnit = Literal["percent", "dB", "target"]


class Traits(NamedTuple):
    """What is to be known of a metric.

    Attributes:
        unit: how values are shown: as percentages (differences in percentage points), in dB, or in the targets' unit.
        tasks: the tasks that it fits.
        labelled: whether it needs targets; the others compare with the outputs of a reference model.
        higher_is_better: whether a larger value is the better one.
    """

    unit: MetricUnit
    tasks: tuple[Task, ...]
    labelled: bool = True
    higher_is_better: bool = True


_CLASSES: Traits = Traits("percent", ("classification",))
TRAITS: dict[str, Traits] = {
    "accuracy": _CLASSES,
    "top5": _CLASSES,
    "precision": _CLASSES,
    "recall": _CLASSES,
    "f1": _CLASSES,
    "agreement": Traits("percent", ("classification",), labelled=False),
    "cosine": Traits("percent", ("classification", "regression"), labelled=False),
    "sqnr": Traits("dB", ("classification", "regression"), labelled=False),
    "mse": Traits("target", ("regression",), higher_is_better=False),
    "mae": Traits("target", ("regression",), higher_is_better=False),
}
HIGHER_IS_BETTER = {name: traits.higher_is_better for name, traits in TRAITS.items()}
METRIC_UNIT = {name: traits.unit for name, traits in TRAITS.items()}
LABELLED = tuple(name for name, traits in TRAITS.items() if traits.labelled)
AGAINST_OUTPUTS = tuple(name for name, traits in TRAITS.items() if not traits.labelled)
PROPORTIONS = ("accuracy", "top5", "agreement")
MACRO = ("precision", "recall", "f1")
RANGE = {"mse": (0.0, math.inf), "mae": (0.0, math.inf), "cosine": (-1.0, 1.0), "sqnr": (-math.inf, math.inf)}


def metrics_for(task: Task) -> tuple[str, ...]:
    """The metrics that fit a task; those that need targets are the first."""
    return tuple(name for name in (*LABELLED, *AGAINST_OUTPUTS) if task in TRAITS[name].tasks)


def evaluate(name: MetricName, outputs: Array, targets: Array) -> float:
    """Compute the metric on all samples.

    Args:
        outputs: outputs of the model, ``[N, …]``.
        targets: class indices ``[N]`` or values ``[N, …]``; for ``agreement``,
            ``cosine`` and ``sqnr`` the outputs of the reference model.

    Raises:
        DataError: lengths differ, there are NaN or infinite values, or a class does not exist in the model.
    """
    return float(scorer(name, outputs, targets)(np.ones((1, len(outputs))))[0])


def metric_interval(
    name: MetricName, outputs: Array, targets: Array, confidence: float = 0.95, seed: int = 0
) -> Interval:
    """Compute the metric with its interval: Wilson's for proportions, the BCa bootstrap for all others.

    Raises:
        DataError: see :func:`evaluate`.
    """
    n = len(outputs)
    if name in PROPORTIONS:
        scores = sample_scores(name, outputs, targets)
        if _binary(scores):
            return wilson(float(scores.sum()), n, confidence)
    interval = bootstrap(scorer(name, outputs, targets), n, confidence, seed)
    return _bounded(_with_doubt(interval, name, outputs, targets), name)


def paired_difference(
    name: MetricName,
    reference_outputs: Array,
    candidate_outputs: Array,
    targets: Array,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval:
    """How much worse the candidate is than the reference on the same samples.

    Positive means worse: reference minus candidate for metrics where higher is better, candidate minus reference for
    errors. Proportions use Tango's score interval, which is valid even if few or no samples differ. All others use a
    paired BCa bootstrap, which for macro metrics is never narrower than the bound from ``n`` samples without an event.
    Two models with bit-equal outputs have a difference of exactly 0 in ``mse``, ``mae``, ``cosine`` and ``sqnr``.

    Args:
        targets: as in :func:`evaluate`, for both models.

    Raises:
        DataError: see :func:`evaluate`.
    """
    if name in PROPORTIONS:
        first, second = (sample_scores(name, outputs, targets) for outputs in (reference_outputs, candidate_outputs))
        if _binary(first) and _binary(second):
            lost, gained = int(np.sum(first > second)), int(np.sum(first < second))
            return paired_proportions(lost, gained, len(first), confidence)
    reference, candidate = (scorer(name, outputs, targets) for outputs in (reference_outputs, candidate_outputs))
    sign = 1.0 if HIGHER_IS_BETTER[name] else -1.0
    difference = bootstrap(
        lambda weights: sign * (reference(weights) - candidate(weights)), len(targets), confidence, seed
    )
    return _with_doubt(difference, name, reference_outputs, targets)


def sample_scores(name: MetricName, outputs: Array, targets: Array) -> Floats:
    """One score per sample ``[N]`` for a metric that is a mean over samples.

    Raises:
        DataError: see :func:`evaluate`.
        UserError: the metric is not a mean over samples (macro metrics, SQNR).
    """
    _check(name, outputs, targets)
    if name == "top5":
        return top_k(outputs, targets, 5)
    if name in PROPORTIONS:
        predicted, wanted = class_labels(outputs, targets)
        return per_sample_mean((predicted == wanted).astype(np.float64))
    if name in ("mse", "mae"):
        error = _like(outputs, targets) - targets.astype(np.float64)
        return per_sample_mean(error**2 if name == "mse" else np.abs(error))
    if name == "cosine":
        return _cosine(_rows(targets), _rows(outputs))
    raise UserError(f"'{name}' is not a mean over samples", "use `scorer`")


def scorer(name: MetricName, outputs: Array, targets: Array) -> Score:
    """The metric as a function of sample weights ``[B, N]`` that returns ``[B]`` values, for resampling.

    Raises:
        DataError: see :func:`evaluate`.
    """
    _check(name, outputs, targets)
    if name in MACRO:
        return macro(name, *class_labels(outputs, targets))
    if name == "sqnr":
        signal, noise = _energies(targets, outputs, centred=True)
        return lambda weights: decibels(weights @ signal, weights @ noise)
    scores = sample_scores(name, outputs, targets)
    return lambda weights: (weights @ scores) / weights.sum(axis=1)


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
    signal, noise = _energies(reference, outputs, centred)
    return float(decibels(signal.sum(), noise.sum()))


def _energies(reference: Array, outputs: Array, centred: bool) -> tuple[Floats, Floats]:
    truth, found = _rows(reference), _rows(outputs)
    signal = truth - truth.mean(axis=0) if centred else truth
    return np.sum(signal**2, axis=1), np.sum((found - truth) ** 2, axis=1)


def _cosine(reference: Floats, outputs: Floats) -> Floats:
    dot = np.sum(reference * outputs, axis=1)
    length = np.linalg.norm(reference, axis=1) * np.linalg.norm(outputs, axis=1)
    both_zero = ~reference.any(axis=1) & ~outputs.any(axis=1)
    return np.where(both_zero, 1.0, np.divide(dot, length, out=np.zeros_like(dot), where=length > 0))


def _rows(values: Array) -> Floats:
    return values.reshape(len(values), -1).astype(np.float64)


def _like(outputs: Array, targets: Array) -> Floats:
    if outputs.shape != targets.shape and outputs.size != targets.size:
        raise DataError(
            f"outputs {list(outputs.shape)} and targets {list(targets.shape)} differ in shape",
            "give targets of the output's shape; for classes, choose the metric accuracy",
        )
    return outputs.reshape(targets.shape).astype(np.float64)


def _binary(scores: Floats) -> bool:
    return bool(np.all((scores == 0) | (scores == 1)))


def _check(name: str, outputs: Array, targets: Array) -> None:
    if name not in HIGHER_IS_BETTER:
        raise UserError(f"no such metric: '{name}'", f"choose one of {', '.join(HIGHER_IS_BETTER)}")
    if len(outputs) != len(targets) or len(outputs) == 0:
        raise DataError(
            f"{counted(outputs, 'output')} for {counted(targets, 'target')}",
            "give one output and one target per sample",
        )
    for what, values in (("outputs", outputs), ("targets", targets)):
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            bad = int(np.argwhere(~np.isfinite(_rows(values)).all(axis=1))[0][0])
            raise DataError(
                f"{what} have NaN or infinite values, first in sample {bad}", "check the model and the data"
            )
    if name in AGAINST_OUTPUTS and outputs.shape != targets.shape:
        raise DataError(
            f"the outputs {list(outputs.shape)} and the reference's outputs {list(targets.shape)} differ in shape",
            "compare models with the same outputs",
        )


def _with_doubt(interval: Interval, name: str, outputs: Array, targets: Array) -> Interval:
    """Widen a macro metric's interval by the possible effect of unseen events on its rarest class."""
    if name not in MACRO:
        return interval
    _, wanted = class_labels(outputs, targets)
    counts = np.unique(wanted, return_counts=True)[1]
    leverage = wanted.size / (len(counts) * int(counts.min()))
    doubt = min(1.0, smallest_doubt(len(targets), interval.confidence) * leverage)
    low, high = min(interval.low, interval.value - doubt), max(interval.high, interval.value + doubt)
    return Interval(interval.value, low, high, interval.confidence)


def _bounded(interval: Interval, name: str) -> Interval:
    low, high = RANGE.get(name, (0.0, 1.0))
    return Interval(interval.value, max(interval.low, low), min(interval.high, high), interval.confidence)


__all__ = [
    "HIGHER_IS_BETTER",
    "METRIC_UNIT",
    "Interval",
    "class_labels",
    "evaluate",
    "metric_interval",
    "paired_difference",
    "sample_scores",
    "scorer",
    "sqnr_db",
]
