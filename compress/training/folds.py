"""K-fold cross-validation: a program is trained once per fold, and judged on the samples that it did not see."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from ...core.artifact import Artifact, load_artifact, new_artifact, raise_if_not
from ...core.context import Context, Place
from ...core.counts import counted
from ...core.data.splits import Split, Subset, targets_in_memory
from ...core.errors import DataError
from ...core.facts.fold_facts import FoldScore, FoldsFacts
from ...core.formats.program_file import fit_context
from ...core.metrics.intervals import student_interval
from ...core.options.stage_options import Task, TrainOptions
from ...core.tensors import Array
from ..program import Program, evaluating, load_program
from .checkpoint import discard
from .feeding import Reader
from .losses import Tensors
from .score import Score
from .train import fit

CONFIDENCE = 0.95
_BATCH = 256


def cross_validate(options: TrainOptions, parent: Artifact, place: Place, context: Context, folds: int) -> Artifact:
    """Train and judge a program once per fold of the training split; the result is a measurement.

    The validation split decides which epoch is kept, as in every training, and the fold that was left out judges it.
    The test split is not read. A run that was interrupted goes on with the fold and the epoch at which it stopped.

    Args:
        folds: number of parts of the training split, at least 2.

    Raises:
        ArtifactError: ``parent`` is not a program.
        DataError: there are fewer samples than folds, or they have no targets.
        RetortError: as :func:`retort.compress.training.train.fit`.
    """
    raise_if_not(parent, "program")
    context = fit_context(context, parent.main)
    split, scores, name = context.data.train, [], ""
    parts = fold_rows(targets_of(split), folds, context.seed)
    for number, rows in enumerate(parts):
        program, others = load_program(parent.main, context.data), np.setdiff1d(np.arange(len(split)), rows)
        data = replace(context.data, train=Subset(split, others))
        result = fit(program, options, replace(context, data=data), label=_label(number))
        score = score_of(program, Subset(split, rows), context.task, options)
        assert score.value is not None
        name = score.name
        context.console.say(
            f"    fold {number + 1}  {name} {score.value:.4f} on {counted(rows, 'sample')} that it did not see"
        )
        scores.append(
            FoldScore(fold=number + 1, samples=len(rows), value=score.value, epochs=result.epochs,
                      best_epoch=result.best_epoch)
        )  # fmt: skip
    interval = student_interval([score.value for score in scores], CONFIDENCE)
    facts = FoldsFacts(
        metric=name, folds=tuple(scores), value=interval.value, low=interval.low, high=interval.high,
        confidence=CONFIDENCE,
    )  # fmt: skip
    with new_artifact(place, "measurement", "folds", options=options) as draft:
        draft.facts = facts
        (draft.folder / "measurement.json").write_text(json.dumps(facts.to_json(), allow_nan=False))
    for number in range(folds):
        discard(context.scratch, _label(number))
    return load_artifact(place.directory)


def _label(number: int) -> str:
    return f"fold {number + 1}"


def targets_of(split: Split) -> Array:
    """All targets of a split, read in batches if they are not in memory.

    Raises:
        DataError: there are none.
    """
    found = targets_in_memory(split)
    if found is None:
        parts = [split.read(range(start, min(start + _BATCH, len(split))))[1] for start in range(0, len(split), _BATCH)]
        known = [part for part in parts if part is not None]
        if len(known) < max(len(parts), 1):
            raise DataError("cross-validation needs targets, and the training split has none", "give labelled samples")
        found = np.concatenate(known)
    return found


def fold_rows(targets: Array, folds: int, seed: int) -> list[NDArray[np.int64]]:
    """The samples of each fold. Every class is spread evenly over the folds if the targets are classes.

    Raises:
        DataError: there are fewer samples than folds.
    """
    if len(targets) < folds:
        raise DataError(
            f"the training split has {counted(targets, 'sample')}, and there are {counted(folds, 'fold')}",
            "give fewer folds",
        )
    order = np.random.default_rng([seed, folds]).permutation(len(targets))
    if targets.ndim == 1 and targets.dtype.kind in "iub":
        order = order[np.argsort(targets[order], kind="stable")]
    return [np.sort(order[number::folds]) for number in range(folds)]


def score_of(program: Program, split: Split, task: Task, options: TrainOptions) -> Score:
    """The metric of a program on labelled samples."""
    score, reader = Score(task, options.keep), Reader(program, task, torch.device("cpu"))
    with evaluating(program), torch.no_grad():
        for start in range(0, len(split), options.batch_size):
            rows = range(start, min(start + options.batch_size, len(split)))
            inputs, targets = reader.read(split, rows, "the fold", check=False)
            values = program.module(*inputs.values())
            outputs: Tensors = {spec.name: value for spec, value in zip(program.signature.outputs, values, strict=True)}
            score.add(outputs, targets, None)
    return score
