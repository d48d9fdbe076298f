"""The table of all metrics: their units, the tasks that they fit, and what they count."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from typing import Any

import numpy as np

from ...errors import UserError
from ...options.metric_names import DEFAULT_METRICS, LOWER, NUMBERED, Task, is_function, parse_metric, shown_metrics
from . import class_counts, classification, detection, probabilities, ranking, regression, retrieval, sequences
from .definition import Metric, MetricUnit, as_given, one_sample, only_scores, ratio
from .similarity import cosines, signal_to_noise

EVERY_TASK: tuple[Task, ...] = tuple(DEFAULT_METRICS)
SET_RESAMPLES = 2_000
"""Number of resamples for metrics that are computed again from many numbers of each sample."""
_COUNTED: tuple[Task, ...] = ("classification", "multilabel")
_REALS = (-math.inf, math.inf)
_ERROR = (0.0, math.inf)


def _macro(kind: class_counts.Kind) -> Metric:
    return Metric(
        "percent",
        _COUNTED,
        class_counts.counted_classes,
        partial(class_counts.macro, kind),
        decides=True,
        leverage=class_counts.rarest,
    )


def _micro(kind: class_counts.Kind) -> Metric:
    return replace(_macro(kind), statistic=partial(class_counts.micro, kind), leverage=one_sample)


def _one_class(kind: class_counts.Kind, index: int) -> Metric:
    statistic, leverage = partial(class_counts.one_class, kind, index), partial(class_counts.rarity, index)
    return replace(_macro(kind), statistic=statistic, leverage=leverage)


_RIGHT = Metric(
    "percent",
    _COUNTED,
    classification.right_ones,
    classification.share_right,
    proportion=True,
    decides=True,
)
_SIMILAR = Metric(
    "percent",
    EVERY_TASK,
    cosines,
    only_scores,
    labelled=False,
    range=(-1.0, 1.0),
    decides=True,
)
_SQUARED = Metric(
    "target", ("regression",), regression.squared_errors, only_scores, higher_is_better=False, range=_ERROR
)
_VALUES = Metric(
    "target",
    ("regression",),
    regression.values,
    regression.determination,
    range=(-math.inf, 1.0),
    resamples=SET_RESAMPLES,
)
_RANKED = Metric(
    "percent",
    _COUNTED,
    ranking.ranked_scores,
    partial(ranking.mean_of_columns, "area"),
    leverage=ranking.rarest_kind,
    resamples=SET_RESAMPLES,
)
_EDITS = Metric(
    "percent", ("sequence",), sequences.edits, ratio, higher_is_better=False, range=_ERROR, leverage=sequences.longest
)
_BOXES = Metric(
    "percent",
    ("detection",),
    detection.boxes_given,
    partial(detection.mean_average_precision, detection.OVERLAPS),
    leverage=one_sample,
    resamples=SET_RESAMPLES,
)
_FOUND = Metric("percent", ("embedding",), as_given, partial(retrieval.recall_at, 1), proportion=True)
_CLASSIFIED: tuple[Task, ...] = ("classification",)
_WORDS: dict[str, Metric] = {
    "accuracy": _RIGHT,
    "precision": _macro("precision"),
    "recall": _macro("recall"),
    "f1": _macro("f1"),
    "precision_micro": _micro("precision"),
    "recall_micro": _micro("recall"),
    "f1_micro": _micro("f1"),
    "roc_auc": _RANKED,
    "average_precision": replace(_RANKED, statistic=partial(ranking.mean_of_columns, "precision")),
    "miou": replace(_macro("iou"), tasks=_CLASSIFIED),
    "perplexity": Metric(
        "target",
        _CLASSIFIED,
        probabilities.surprise,
        probabilities.perplexity,
        higher_is_better=False,
        range=(1.0, math.inf),
        decides=True,
    ),
    "ece": Metric(
        "percent",
        _CLASSIFIED,
        probabilities.binned_confidence,
        probabilities.calibration_error,
        higher_is_better=False,
        decides=True,
        leverage=one_sample,
    ),
    "mse": _SQUARED,
    "mae": replace(_SQUARED, evidence=regression.absolute_errors),
    "r2": _VALUES,
    "pearson": replace(_VALUES, statistic=regression.correlation, range=(-1.0, 1.0)),
    "spearman": replace(_VALUES, statistic=regression.rank_correlation, range=(-1.0, 1.0)),
    "cer": _EDITS,
    "wer": _EDITS,
    "map": _BOXES,
    "map50": replace(_BOXES, statistic=partial(detection.mean_average_precision, np.array([0.5]))),
    "cosine": _SIMILAR,
    "agreement": replace(_RIGHT, tasks=_CLASSIFIED, labelled=False),
    "sqnr": replace(_SIMILAR, unit="dB", evidence=as_given, statistic=signal_to_noise, range=_REALS),
}
_MADE: dict[str, Callable[[int], Metric]] = {
    "top": lambda k: replace(_RIGHT, tasks=_CLASSIFIED, evidence=partial(classification.best_ones, k)),
    "recall@": lambda k: replace(_FOUND, statistic=partial(retrieval.recall_at, k)),
    "overlap@": lambda k: replace(_FOUND, statistic=partial(retrieval.shared_neighbours, k), labelled=False),
    "precision[]": partial(_one_class, "precision"),
    "recall[]": partial(_one_class, "recall"),
    "f1[]": partial(_one_class, "f1"),
    "iou[]": partial(_one_class, "iou"),
    "wer[]": lambda space: replace(_EDITS, evidence=partial(sequences.word_edits, space)),
}
_TYPICAL: dict[str, int] = {"top": 5, "recall@": 1, "overlap@": 10}


def _not_counted(*given: Any) -> Any:
    raise UserError("a metric of the user has no evidence of batches", "judge all samples at once")


_USER = Metric("target", EVERY_TASK, _not_counted, _not_counted, range=_REALS, proportion=True)


@cache
def metric_of(name: str) -> Metric:
    """The metric of a name.

    Raises:
        UserError: there is none.
    """
    parsed = parse_metric(name)
    if parsed is None:
        raise UserError(f"no such metric: '{name}'", f"choose one of {shown_metrics()}")
    if is_function(name):
        return replace(_USER, higher_is_better=not name.endswith(LOWER))
    return _WORDS[parsed.family] if parsed.number is None else _MADE[parsed.family](parsed.number)


def higher_is_better(name: str) -> bool:
    """Whether a larger value of a metric is the better one."""
    return metric_of(name).higher_is_better


def unit_of(name: str) -> MetricUnit:
    """How the values of a metric are shown."""
    return metric_of(name).unit


def is_labelled(name: str) -> bool:
    """Whether a metric needs targets; the others compare with the outputs of a reference model."""
    return metric_of(name).labelled


def metrics_for(task: Task) -> tuple[str, ...]:
    """The metrics that fit a task, those with a number by an example; those that need targets are the first."""
    names = [*_WORDS, *(_example(family) for family in NUMBERED)]
    fitting = [name for name in names if task in metric_of(name).tasks]
    return tuple(sorted(fitting, key=lambda name: not is_labelled(name)))


def fits(name: str, task: Task) -> bool:
    """Whether a metric fits a task."""
    return task in metric_of(name).tasks


def unfit_to_keep(name: str, task: Task) -> tuple[str, str] | None:
    """Why a metric cannot judge the epochs of a training, and what to choose instead; None if it can."""
    remedy = f"choose as `keep` one of {', '.join(other for other in metrics_for(task) if is_labelled(other))}"
    if not is_labelled(name):
        return f"'{name}' compares with a reference model, and a training has none", remedy
    return None if fits(name, task) else (f"'{name}' does not fit `task: {task}`", remedy)


def _example(family: str) -> str:
    number = _TYPICAL.get(family, 0)
    return f"{family[:-2]}[{number}]" if family.endswith("[]") else f"{family}{number}"
