"""The loss of each task, with the weights of its classes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

from ...core.counts import counted
from ...core.data.splits import Split, Splits, batches
from ...core.errors import DataError, UserError
from ...core.metrics.tasks.classification import IGNORED
from ...core.options.stage_options import Task, TrainOptions
from ..program import Program
from .distributed.processes import team, weighted_mean
from .embedding_loss import EmbeddingLoss
from .losses import CrossEntropy, Loss, Tensors, class_count, first, present, shaped_like, squared_error
from .sequence_loss import ctc_loss
from .targets import classes_of, labels_of

_COUNTING_BATCH = 256


def task_loss(options: TrainOptions, data: Splits, task: Task, program: Program) -> Loss:
    """The loss of a task on the program's prediction, its first floating-point output.

    Classification: cross entropy with label smoothing and class weights. Several labels: binary cross entropy, with the
    weights of positive samples. Regression: mean squared error. Embeddings and sequences: see :class:`EmbeddingLoss`
    and :func:`ctc_loss`.

    Raises:
        UserError: the class weights do not fit the number of classes, or there is no loss for the task.
    """
    if task == "classification":
        return CrossEntropy(_class_weights(options, data, class_count(program), task), options.label_smoothing)
    if task == "multilabel":
        return BinaryCrossEntropy(_class_weights(options, data, class_count(program), task), options.label_smoothing)
    return plain_loss(task)


def plain_loss(task: Task) -> Loss:
    """The loss of a task without options.

    Raises:
        UserError: there is none.
    """
    if task == "detection":
        raise UserError(
            "there is no loss for detection, because it depends on what the heads of a detector mean",
            "train the detector with its own code; it can be quantized, pruned without recovery, exported and judged",
        )
    losses: dict[Task, Loss] = {
        "classification": CrossEntropy(),
        "multilabel": BinaryCrossEntropy(),
        "regression": squared_error,
        "embedding": EmbeddingLoss(),
        "sequence": ctc_loss,
    }
    return losses[task]


@dataclass
class BinaryCrossEntropy:
    """Binary cross entropy of the logits of several labels per sample, in float32.

    Attributes:
        positive_weights: weight of the positive samples of each label, ``[labels]``; None for equal weights.
        smoothing: share by which targets move to one half.
    """

    positive_weights: torch.Tensor | None = None
    smoothing: float = 0.0

    def __call__(self, outputs: Tensors, inputs: Tensors, targets: torch.Tensor | None) -> torch.Tensor:
        """The mean over all labels of a batch that are known; 0 if none is."""
        logits = first(outputs).float()
        wanted = shaped_like(present(targets), logits).float()
        known = (wanted != IGNORED).float()
        smooth = wanted.clamp(min=0) * (1 - self.smoothing) + self.smoothing / 2
        weights = None if self.positive_weights is None else self.positive_weights.to(logits.device)
        losses = functional.binary_cross_entropy_with_logits(logits, smooth, pos_weight=weights, reduction="none")
        if team() is not None:
            return weighted_mean((losses * known).sum(), known.sum(), len(logits))
        return (losses * known).sum() / known.sum().clamp(min=1)


def _class_weights(options: TrainOptions, data: Splits, count: int, task: Task) -> torch.Tensor | None:
    if options.class_weights == "none":
        return None
    if options.class_weights == "balanced":
        return balanced_weights(data.train, count, task)
    if len(options.class_weights) != count:
        raise UserError(
            f"class_weights has {counted(options.class_weights, 'value')}, but the model has {counted(count, 'class')}",
            "give one weight per class, or `balanced`",
        )
    return torch.tensor(options.class_weights, dtype=torch.float32)


def balanced_weights(split: Split, count: int, task: Task = "classification") -> torch.Tensor:
    """Weights with which all classes have the same total weight.

    Classification: ``n / (classes * n_class)``, and 0 for an empty class. Several labels: ``negatives / positives`` for
    the positive samples of each label, and 1 for a label without any.

    Raises:
        DataError: the split has no targets, or a class is out of range.
    """
    seen, known = np.zeros(count, dtype=np.int64), np.zeros(count, dtype=np.int64)
    for _, targets in batches(split, _COUNTING_BATCH):
        if targets is None:
            raise DataError(
                "`class_weights: balanced` needs targets, but the training split has none", "set `class_weights: none`"
            )
        if task == "multilabel":
            labels = labels_of(targets, count, "the training split")
            seen += (labels == 1).sum(axis=0)
            known += (labels != IGNORED).sum(axis=0)
        else:
            classes = classes_of(targets, count, "the training split").ravel()
            seen += np.bincount(classes[classes != IGNORED], minlength=count)
    above, below = (known - seen, seen) if task == "multilabel" else (seen.sum(), count * seen)
    empty = np.ones(count) if task == "multilabel" else np.zeros(count)
    weights = np.divide(above, below, out=empty, where=seen > 0)
    return torch.from_numpy(weights.astype(np.float32))
