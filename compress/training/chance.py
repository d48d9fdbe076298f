"""Whether a trained program learned anything: it is compared with a constant answer, and a student with its teacher."""

from __future__ import annotations

import math

import numpy as np

from ...core.counts import counted
from ...core.data.splits import Split, Splits, Subset, targets_in_memory
from ...core.metrics.intervals import Interval, paired_proportions, smallest_doubt, wilson, z_value
from ...core.options.stage_options import Task
from ...core.tensors import Array
from ..program import Program, predict
from .losses import prediction_spec

SAMPLES = 512
"""Most validation samples that are looked at, evenly spread."""
LEAST_OF_TEACHER = 0.5
"""Smallest share of what the teacher has above a constant answer that a sound student has."""
MOST_OF_ONE_CLASS = 0.95
"""Where more samples have one class, a constant class is no sign of a training that failed."""
CONFIDENCE = 0.95
ROOM = 0.25
"""A program at chance is sure to have less than this share of what lies between chance and no error at all."""
MOST_LEFT = 0.5
"""A program that gives one class is sure to be wrong in at least this share of the other classes."""


def doubt_of(
    program: Program, data: Splits, task: Task, teacher: Program | None = None, teachers: Splits | None = None
) -> str:
    """What speaks against a trained program, in words; empty if nothing does, or if it cannot be told.

    Args:
        data: with the input names of ``program``; its validation split is used.
        teacher: the program that a student learned from; without targets, its classes stand for them.
        teachers: the same data with the input names of the teacher.
    """
    if task not in ("classification", "regression"):
        return ""
    split = _spread(data.judging)
    if not len(split):
        return ""
    found, theirs = _prediction(program, split), None
    if teacher is not None:
        theirs = _prediction(teacher, _spread((teachers or data).judging))
    targets = targets_in_memory(split)
    if targets is None:
        targets = split.read(range(len(split)))[1]
    if found is None:
        return ""
    if task == "regression":
        return "" if targets is None else _about_values(found, targets, theirs)
    if found.ndim != 2 or found.shape[1] < 2:
        return ""
    taught = None if theirs is None else theirs.argmax(1)
    wanted = taught if targets is None else targets
    if wanted is None or wanted.ndim != 1 or wanted.dtype.kind not in "iub":
        return ""
    return _about_classes(found.argmax(1), wanted.astype(np.int64), taught, data.classes)


def _spread(split: Split) -> Subset:
    places = np.linspace(0, max(len(split) - 1, 0), min(len(split), SAMPLES))
    return Subset(split, np.unique(places.astype(np.int64)))


def _prediction(program: Program, split: Split) -> Array | None:
    """The prediction for all samples; None if it does not have one row of values per sample."""
    spec = prediction_spec(program.signature)
    if len(spec.shape) not in (1, 2):
        return None
    values = predict(program, split)[spec.name]
    return values if np.isfinite(values).all() else None


def _about_classes(found: Array, wanted: Array, taught: Array | None, names: tuple[str, ...]) -> str:
    count = len(wanted)
    known = np.bincount(wanted[wanted >= 0], minlength=1)
    usual = float(known.max()) / count
    if usual > MOST_OF_ONE_CLASS:
        return ""
    right = wilson(int(np.sum(found == wanted)), count, CONFIDENCE)
    given = np.unique(found)
    if len(given) == 1 and smallest_doubt(int(np.sum(wanted != given[0])), CONFIDENCE) <= MOST_LEFT:
        name = names[given[0]] if given[0] < len(names) else str(given[0])
        return f"it gives every sample the class {name}, and is right in {right.value:.1%} of them"
    theirs = None if taught is None else wilson(int(np.sum(taught == wanted)), count, CONFIDENCE)
    constant, correct = wanted == known.argmax(), found == wanted
    more, less = int(np.sum(correct & ~constant)), int(np.sum(constant & ~correct))
    gain = paired_proportions(more, less, count, CONFIDENCE)
    if gain.low <= 0 and gain.high <= ROOM * (1 - usual) and (theirs is None or theirs.value > right.value):
        return (
            f"it is at chance: right in {right.value:.1%} of {counted(count, 'sample')}, and the most frequent class "
            f"alone in {usual:.1%}"
        )
    if theirs is not None and right.high - usual < LEAST_OF_TEACHER * (theirs.low - usual):
        return (
            f"it is far below its teacher: right in {right.value:.1%} of the samples, the teacher in {theirs.value:.1%}"
        )
    return ""


def _about_values(found: Array, targets: Array, theirs: Array | None) -> str:
    """As :func:`doubt_of` for values: the share of the variance that is explained."""
    wanted = np.asarray(targets, np.float64).reshape(len(targets), -1)
    if found.size != wanted.size or len(wanted) < 2 or not np.any(wanted != wanted[0]):
        return ""
    own = _explained(found, wanted)
    if own.value <= 0 and own.high <= ROOM:
        return "it is no better than the mean of the targets for every sample"
    if theirs is not None and theirs.size == wanted.size:
        teacher = _explained(theirs, wanted)
        if own.high < LEAST_OF_TEACHER * teacher.low:
            return (
                f"it is far below its teacher: it explains {own.value:.0%} of the targets' variance, not "
                f"{teacher.value:.0%}"
            )
    return ""


def _explained(found: Array, wanted: Array) -> Interval:
    """The share of the variance of values that a prediction explains, by the spread of its squared errors."""
    errors = np.mean((found.reshape(wanted.shape) - wanted) ** 2, axis=1) / np.mean((wanted - wanted.mean(0)) ** 2)
    value, half = 1 - float(errors.mean()), z_value(CONFIDENCE) * float(errors.std(ddof=1)) / math.sqrt(len(errors))
    return Interval(value, value - half, value + half, CONFIDENCE)
