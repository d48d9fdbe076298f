"""Task losses and their validation metric: cross entropy and accuracy, or squared error; targets are checked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from ...core.counts import counted
from ...core.data.splits import Split, Splits, batches, check_finite
from ...core.errors import DataError, UserError
from ...core.options.stage_options import Task, TrainOptions
from ...core.signature import Signature
from ...core.tensors import Array, TensorSpec
from ..program import Program

Tensors = dict[str, torch.Tensor]
Loss = Callable[[Tensors, Tensors, torch.Tensor | None], torch.Tensor]
"""Function of outputs by name, inputs by name and targets (or None) that returns the mean loss of the batch."""

METRIC: dict[Task, str] = {"classification": "accuracy", "regression": "mse"}
_COUNTING_BATCH = 256


def task_loss(options: TrainOptions, data: Splits, task: Task, program: Program) -> Loss:
    """The loss of a task on the program's prediction, its first floating-point output.

    Classification: cross entropy with label smoothing and class weights. Regression: mean squared error.

    Raises:
        UserError: the class weights do not fit the number of classes.
    """
    if task == "regression":
        return squared_error
    return CrossEntropy(_class_weights(options, data, class_count(program)), options.label_smoothing)


@dataclass
class CrossEntropy:
    """Cross entropy of the prediction, in float32.

    Attributes:
        weights: ``[classes]``, or None for equal weights.
        smoothing: share of the target that is spread evenly over all classes (Szegedy et al., 2016).
    """

    weights: torch.Tensor | None = None
    smoothing: float = 0.0

    def __call__(self, outputs: Tensors, inputs: Tensors, targets: torch.Tensor | None) -> torch.Tensor:
        """The weighted mean over all targets of a batch."""
        scores = classes_second(first(outputs).float())
        weights = None if self.weights is None else self.weights.to(scores.device)
        return functional.cross_entropy(scores, present(targets), weight=weights, label_smoothing=self.smoothing)


def squared_error(outputs: Tensors, inputs: Tensors, targets: torch.Tensor | None) -> torch.Tensor:
    """Mean squared error of the prediction, in float32."""
    prediction = first(outputs).float()
    return functional.mse_loss(prediction, shaped_like(present(targets), prediction))


def first(outputs: Tensors) -> torch.Tensor:
    """The prediction: the first floating-point output of the signature; the first output if none is."""
    return prediction_of(list(outputs.values()))


def prediction_of(outputs: Sequence[torch.Tensor]) -> torch.Tensor:
    """The prediction among outputs in order: a model may return its decision (indices) before its scores."""
    return next((value for value in outputs if value.is_floating_point()), outputs[0])


def present(targets: torch.Tensor | None) -> torch.Tensor:
    """The targets.

    Raises:
        DataError: there are none.
    """
    if targets is None:
        raise DataError("this loss needs targets, but the data set has none", "distil with `alpha: 1`, or add labels")
    return targets


def class_axis(rank: int) -> int:
    """The class axis: last in ``[N, tokens, C]``, axis 1 in ``[N, C]`` and in images ``[N, C, H, W]``."""
    return 2 if rank == 3 else 1


def prediction_spec(signature: Signature) -> TensorSpec:
    """The specification of the prediction."""
    return next((item for item in signature.outputs if item.dtype.startswith("float")), signature.outputs[0])


def has_classes(scores: torch.Tensor) -> bool:
    """Whether an output can be scores of classes: it has a class axis of more than one class.

    ``[N]`` and ``[N, 1]`` are values: the softmax over one class is 1 for every input and has no gradient.
    """
    return scores.is_floating_point() and scores.dim() > 1 and scores.shape[class_axis(scores.dim())] > 1


def class_count(program: Program) -> int:
    """Number of classes of the prediction, the first floating-point output.

    Raises:
        UserError: the output has no axis for classes.
    """
    spec = prediction_spec(program.signature)
    size = spec.shape[class_axis(len(spec.shape))] if len(spec.shape) > 1 else None
    if not isinstance(size, int):
        raise UserError(
            f"output {spec.describe()} has no class scores", "return [batch, classes], or set `task: regression`"
        )
    return size


def classes_second(scores: torch.Tensor) -> torch.Tensor:
    """Scores with the classes on axis 1."""
    return scores.movedim(class_axis(scores.dim()), 1)


def as_targets(values: Array | None, program: Program, task: Task, where: str) -> torch.Tensor | None:
    """Targets of one batch as a tensor: int64 classes, or float values shaped like the output.

    Raises:
        DataError: classes are out of range, or values are not finite or have a wrong shape.
    """
    if values is None:
        return None
    if task == "classification":
        return torch.from_numpy(_classes(np.asarray(values), class_count(program), where))
    check_finite({"target": np.asarray(values)}, where)
    return torch.from_numpy(np.asarray(values, dtype=np.float32))


def _classes(values: Array, count: int, where: str) -> NDArray[np.int64]:
    if values.dtype.kind not in "iub":
        raise DataError(
            f"{where}: targets are {values.dtype}, not class indices",
            "give integer classes from 0, or set `task: regression`",
        )
    classes = values.astype(np.int64)
    bad = classes[(classes < 0) | (classes >= count)]
    if bad.size:
        raise DataError(
            f"{where}: target class {int(bad[0])} is out of range: the model has "
            f"{counted(count, 'class')}, 0 to {count - 1}",
            "number the classes from 0, or give the model as many outputs as there are classes",
        )
    return classes


def shaped_like(targets: torch.Tensor, prediction: torch.Tensor) -> torch.Tensor:
    """Targets in the shape of the prediction if only axes of size 1 differ; broadcasting would pair all samples.

    Raises:
        DataError: the shapes do not fit.
    """
    if targets.shape == prediction.shape:
        return targets
    kept = [[size for size in tensor.shape[1:] if size != 1] for tensor in (targets, prediction)]
    if targets.shape[0] != prediction.shape[0] or kept[0] != kept[1]:
        raise DataError(
            f"targets have shape {list(targets.shape)}, but the model predicts {list(prediction.shape)}",
            "give one target per predicted value",
        )
    return targets.reshape(prediction.shape)


class Score:
    """The validation metric, summed batch by batch: accuracy or mean squared error; the loss without targets."""

    def __init__(self, task: Task) -> None:
        self.name = METRIC[task]
        self._total = 0.0
        self._count = 0

    @property
    def higher_is_better(self) -> bool:
        """Whether a larger value is a better one."""
        return self.name == "accuracy"

    @property
    def value(self) -> float | None:
        """The metric of all batches so far; None before the first."""
        return self._total / self._count if self._count else None

    def add(self, outputs: Tensors, targets: torch.Tensor | None, loss: torch.Tensor | None) -> None:
        """Add one batch; ``loss`` (its mean) is used if there are no targets."""
        prediction = first(outputs).float()
        if targets is None or loss is not None:
            self.name = "loss"
            self._total += float(loss if loss is not None else 0.0) * len(prediction)
            self._count += len(prediction)
        elif self.name == "accuracy":
            correct = classes_second(prediction).argmax(1) == targets
            self._total += int(correct.sum())
            self._count += correct.numel()
        else:
            error = (prediction - shaped_like(targets, prediction)).double()
            self._total += float(error.square().sum())
            self._count += error.numel()


def _class_weights(options: TrainOptions, data: Splits, count: int) -> torch.Tensor | None:
    if options.class_weights == "none":
        return None
    if options.class_weights == "balanced":
        return balanced_weights(data.train, count)
    if len(options.class_weights) != count:
        raise UserError(
            f"class_weights has {counted(options.class_weights, 'value')}, but the model has {counted(count, 'class')}",
            "give one weight per class, or `balanced`",
        )
    return torch.tensor(options.class_weights, dtype=torch.float32)


def balanced_weights(split: Split, count: int) -> torch.Tensor:
    """Weights ``n / (classes * n_class)``, so that every class has the same total weight; 0 for an empty class.

    Raises:
        DataError: the split has no targets, or a class is out of range.
    """
    seen = np.zeros(count, dtype=np.int64)
    for _, targets in batches(split, _COUNTING_BATCH):
        if targets is None:
            raise DataError(
                "`class_weights: balanced` needs targets, but the training split has none", "set `class_weights: none`"
            )
        seen += np.bincount(_classes(targets, count, "the training split").ravel(), minlength=count)
    weights = np.divide(seen.sum(), count * seen, out=np.zeros(count), where=seen > 0)
    return torch.from_numpy(weights.astype(np.float32))
