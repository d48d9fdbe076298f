"""Losses on the outputs of teacher and student, applied to a batch: classes, values and embeddings."""

from __future__ import annotations

import torch
from torch import nn

from ...core.errors import UserError
from ...core.options.distill_losses import (
    ContrastiveOptions,
    CosineOptions,
    DistOptions,
    DkdOptions,
    KdOptions,
    MseOptions,
    SelfOptions,
)
from ...core.options.stage_options import Task
from ..program import Program, clone, device_of, move, set_training
from ..training.losses import class_axis, has_classes, prediction_of, prediction_spec, shaped_like
from .compared import Compared, Term, position_shape
from .layers.projection import pooled, projection
from .losses.embedding_losses import contrastive, cosine_distance
from .losses.logit_losses import (
    correlations,
    decoupled,
    soft_binary_targets,
    soft_targets,
    squared_error,
    standardized,
)

_OF_VALUES: tuple[Task, ...] = ("regression", "embedding", "detection")
"""Tasks whose outputs are values and no scores of classes."""


class SoftTargets(Term):
    """Soft targets of classes, pixels and tokens; for values and regression, the squared error to the teacher."""

    def __init__(self, options: KdOptions, temperature: float, task: Task) -> None:
        super().__init__(options)
        self.temperature, self.task, self.standardize = options.temperature or temperature, task, options.standardize

    def __call__(self, batch: Compared) -> torch.Tensor:
        return self.compare(batch, batch.prediction, batch.taught)

    def compare(self, batch: Compared, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        """The loss between two predictions for a batch."""
        if self.task == "multilabel":
            return soft_binary_targets(student, shaped_like(teacher, student), self.temperature)
        if self.task in _OF_VALUES or not has_classes(student):
            return squared_error(student, shaped_like(teacher, student))
        axis = class_axis(student.dim())
        if self.standardize:
            student, teacher = standardized(student, axis), standardized(teacher, axis)
        return soft_targets(student, teacher, self.temperature, axis, batch.kept(position_shape(student, axis)))


class Decoupled(Term):
    """Decoupled distillation of classes."""

    def __init__(self, options: DkdOptions, temperature: float) -> None:
        super().__init__(options)
        self.temperature = options.temperature or temperature
        self.weights, self.standardize = (options.alpha, options.beta), options.standardize

    def __call__(self, batch: Compared) -> torch.Tensor:
        student, teacher, kept = batch.classes("dkd")
        if self.standardize:
            student, teacher = standardized(student), standardized(teacher)
        labels = batch.labels("dkd")
        known = (labels >= 0) if kept is None else (labels >= 0) & kept
        if not bool(known.any()):  # the mean of nothing
            return 0.0 * student.sum()
        return decoupled(student[known], teacher[known], labels[known], self.temperature, self.weights)


class Correlations(Term):
    """Correlations of the predicted classes."""

    def __init__(self, options: DistOptions, temperature: float) -> None:
        super().__init__(options)
        self.temperature, self.weights = options.temperature or temperature, (options.inter, options.intra)

    def __call__(self, batch: Compared) -> torch.Tensor:
        student, teacher, kept = batch.classes("dist")
        if kept is not None:
            student, teacher = student[kept], teacher[kept]
        return correlations(student, teacher, self.temperature, self.weights)


class OutputError(Term):
    """The squared error to the teacher's outputs."""

    def __init__(self, options: MseOptions) -> None:
        super().__init__(options)

    def __call__(self, batch: Compared) -> torch.Tensor:
        student = batch.prediction
        teacher = shaped_like(batch.taught, student)
        kept = None if student.dim() != 3 else batch.kept(position_shape(student, 2))
        return squared_error(student, teacher, None if kept is None else kept[..., None])


class Embeddings(Term):
    """The cosine of embeddings, or finding the teacher's one in the batch; through a projection if widths differ."""

    def __init__(self, options: CosineOptions | ContrastiveOptions, student: Program, teacher: Program) -> None:
        super().__init__(options)
        self.temperature = options.temperature if isinstance(options, ContrastiveOptions) else None
        spec = prediction_spec(student.signature)
        if len(spec.shape) not in (2, 3):
            raise UserError(
                f"the loss `{options.loss}` compares embeddings [N, width] or [N, tokens, width], and the output is "
                f"{spec.describe()}",
                "use kd or mse for dense outputs",
            )
        widths = [prediction_spec(program.signature).shape[-1] for program in (student, teacher)]
        known = all(isinstance(width, int) for width in widths)
        self.module = projection(int(widths[0]), int(widths[1])) if known else nn.Identity()
        if widths[0] != widths[1]:
            self.chosen = (f"embeddings of {widths[0]} values learn those of {widths[1]} through a projection",)

    def __call__(self, batch: Compared) -> torch.Tensor:
        student, teacher = self.module(batch.prediction), batch.taught
        kept = batch.kept(position_shape(student, -1)) if student.dim() == 3 else None
        if self.temperature is not None:
            return contrastive(pooled(student, kept), pooled(teacher, kept), self.temperature)
        rows = [values.reshape(-1, values.shape[-1]) for values in (student, teacher)]
        if kept is not None:
            rows = [values[kept.reshape(-1)] for values in rows]
        return cosine_distance(rows[0], rows[1])


class OwnAverage(Term):
    """Soft targets of the moving average of the student's weights, which is updated in every training batch."""

    def __init__(self, options: SelfOptions, temperature: float, task: Task, student: Program) -> None:
        super().__init__(options)
        self._soft = SoftTargets(KdOptions(temperature=options.temperature), temperature, task)
        self._student, self._average, self._decay = student, clone(student), options.decay
        set_training(self._average, False)
        self.module = nn.Module()
        self.module.average = self._average.module
        self.module.average.requires_grad_(False)
        self.module.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def __call__(self, batch: Compared) -> torch.Tensor:
        if torch.is_grad_enabled():
            self._update()
        with torch.no_grad():
            found = self._average.module(*batch.inputs.values())
        return self._soft.compare(batch, batch.prediction, prediction_of(found).float())

    def _update(self) -> None:
        """Move the average towards the student, faster in the first steps."""
        device = device_of(self._student)
        if device_of(self._average) != device:
            move(self._average, device)
        steps = self.module.steps
        assert isinstance(steps, torch.Tensor)
        decay = min(self._decay, (1 + int(steps)) / (10 + int(steps)))
        steps += 1
        ours = self._student.module.state_dict()
        with torch.no_grad():
            for name, value in self._average.module.state_dict().items():
                if value.is_floating_point():
                    value.lerp_(ours[name].to(value.dtype), 1 - decay)
                else:
                    value.copy_(ours[name])
