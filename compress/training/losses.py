"""Losses on the prediction of a program: cross entropy and squared error, and what is its prediction."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional

from ...core.errors import DataError, UserError
from ...core.metrics.tasks.classification import IGNORED
from ...core.signature import Signature
from ...core.tensors import TensorSpec
from ..program import Program
from .distributed.processes import team, weighted_mean

Tensors = dict[str, torch.Tensor]
Loss = Callable[[Tensors, Tensors, torch.Tensor | None], torch.Tensor]
"""Function of outputs by name, inputs by name and targets (or None) that returns the mean loss of the batch."""


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
        """The weighted mean over all targets of a batch that count, in all processes; 0 if none does.

        The targets are classes, or probabilities of mixed samples, ``[N, classes, ...]``.
        """
        scores, wanted = classes_second(first(outputs).float()), present(targets)
        weights = None if self.weights is None else self.weights.to(scores.device)
        if wanted.is_floating_point():
            return self._of_probabilities(scores, wanted, weights)
        if team() is not None and (weights is not None or wanted.dim() > 1):
            return self._of_all_processes(scores, wanted, weights)
        if not self._any_counts(wanted, weights):
            return scores.sum() * 0
        return functional.cross_entropy(
            scores, wanted, weight=weights, label_smoothing=self.smoothing, ignore_index=IGNORED
        )

    @staticmethod
    def _any_counts(wanted: torch.Tensor, weights: torch.Tensor | None) -> bool:
        """Whether a target has a weight; the library's mean over none is NaN."""
        if weights is not None and not bool(weights.all()):
            return bool((weights[wanted.clamp(min=0)] * (wanted != IGNORED)).any())
        return wanted.dim() == 1 or bool((wanted != IGNORED).any())

    def _of_all_processes(
        self, scores: torch.Tensor, wanted: torch.Tensor, weights: torch.Tensor | None
    ) -> torch.Tensor:
        counted = wanted[wanted != IGNORED]
        weight = weights[counted].sum() if weights is not None else torch.tensor(float(len(counted)))
        total = functional.cross_entropy(
            scores, wanted, weight=weights, label_smoothing=self.smoothing, ignore_index=IGNORED, reduction="sum"
        )
        return weighted_mean(total, weight, len(scores))

    def _of_probabilities(
        self, scores: torch.Tensor, wanted: torch.Tensor, weights: torch.Tensor | None
    ) -> torch.Tensor:
        """The same mean; the library would divide by the number of targets, and not by their weights.

        Places whose probabilities are all 0 do not count.
        """
        weighted = wanted if weights is None else wanted * weights.reshape(-1, *[1] * (wanted.dim() - 2))
        even = wanted.sum(1, keepdim=True) / wanted.shape[1]
        smooth = (1 - self.smoothing) * wanted + self.smoothing * even
        total = functional.cross_entropy(scores, smooth, weight=weights, reduction="sum")
        if team() is not None:
            return weighted_mean(total, weighted.sum(), len(scores))
        return total / weighted.sum().clamp(min=torch.finfo(total.dtype).tiny)


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
