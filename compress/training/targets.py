"""Targets of a batch as tensors, in the form that the loss of each task takes; what does not fit is told."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from ...core.counts import counted
from ...core.data.splits import check_finite
from ...core.errors import DataError
from ...core.metrics.tasks.classification import IGNORED, without_ignored
from ...core.options.stage_options import Task
from ...core.tensors import Array, TensorSpec
from ..program import Program
from .losses import class_count, prediction_spec


def as_targets(values: Array | None, program: Program, task: Task, where: str) -> torch.Tensor | None:
    """Targets of one batch as a tensor.

    Classification: int64 classes, -100 for positions that do not count. Several labels: float32 of 0, 1 and -100.
    Embeddings: int64 classes, or float32 values. Sequences: int64 symbols, filled up with -100. Otherwise float32
    values.

    Raises:
        DataError: classes are out of range, values are not finite, or they have a wrong shape.
    """
    if values is None:
        return None
    values = np.asarray(values)
    if task == "classification":
        return torch.from_numpy(classes_of(values, class_count(program), where))
    if task == "multilabel":
        return torch.from_numpy(labels_of(values, class_count(program), where))
    if task == "sequence":
        return torch.from_numpy(symbols_of(values, prediction_spec(program.signature), where))
    if task == "embedding" and values.dtype.kind in "iub":
        return torch.from_numpy(values.astype(np.int64).reshape(len(values)))
    check_finite({"target": values}, where)
    return torch.from_numpy(np.asarray(values, dtype=np.float32))


def classes_of(values: Array, count: int, where: str) -> NDArray[np.int64]:
    """Class indices; -100 where dense targets do not count.

    Raises:
        DataError: they are no indices, or out of range.
    """
    if values.dtype.kind not in "iub":
        raise DataError(
            f"{where}: targets are {values.dtype}, not class indices",
            "give integer classes from 0, or set `task: regression`",
        )
    classes = without_ignored(values, count)
    wrong = (classes < 0) | (classes >= count)
    bad = classes[wrong & (classes != IGNORED) if classes.ndim > 1 else wrong]
    if bad.size:
        raise DataError(
            f"{where}: target class {int(bad[0])} is out of range: the model has "
            f"{counted(count, 'class')}, 0 to {count - 1}",
            "number the classes from 0, or give the model as many outputs as there are classes",
        )
    return classes


def labels_of(values: Array, count: int, where: str) -> NDArray[np.float32]:
    """0 or 1 for each label of each sample, -100 for one that is not known.

    Raises:
        DataError: there are other values, or another number of labels.
    """
    if values.ndim != 2 or values.shape[1] != count:
        raise DataError(
            f"{where}: targets have shape {list(values.shape)}, and the model has {counted(count, 'label')}",
            f"give 0 or 1 for each label, [samples, {count}], or set `task: classification` for one class per sample",
        )
    wrong = ~np.isin(values, (0, 1, IGNORED))
    if wrong.any():
        raise DataError(
            f"{where}: the target {values[wrong][0]} is neither 0 nor 1",
            "give 0 or 1 for each label, and -100 for one that is not known",
        )
    return values.astype(np.float32)


def symbols_of(values: Array, spec: TensorSpec, where: str) -> NDArray[np.int64]:
    """Symbols from 1, filled up with -100.

    Args:
        spec: the output with the scores of frames.

    Raises:
        DataError: they are no rows of symbols, one is out of range, or the output has no frames.
    """
    if values.ndim != 2 or values.dtype.kind not in "iu":
        raise DataError(
            f"{where}: targets are {values.dtype}{list(values.shape)}, not sequences of symbols",
            "give integers [samples, length], filled up with -100",
        )
    if len(spec.shape) != 3 or not isinstance(spec.shape[2], int):
        raise DataError(
            f"output {spec.describe()} has no scores of frames",
            "return [batch, frames, classes] with the blank as class 0",
        )
    symbols, count = values.astype(np.int64), spec.shape[2]
    bad = symbols[(symbols == 0) | (symbols >= count)]
    if bad.size:
        raise DataError(
            f"{where}: the symbol {int(bad[0])} is out of range: class 0 is the blank, and the model has symbols 1 to "
            f"{count - 1}",
            "number the symbols from 1, and fill up with -100",
        )
    return np.where(symbols < 0, IGNORED, symbols)
