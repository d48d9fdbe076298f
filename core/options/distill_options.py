"""Options of distillation: what a student learns from a teacher, in the stage of that name, in recovery and in QAT."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, Field, model_validator

from .distill_losses import AnyLoss, LossOptions
from .metric_names import Task
from .model_spec import ModelSpec
from .option_types import Count, Positive, from_string
from .train_options import TrainOptions

LOSS_NAME = "loss-name"
"""Marks losses, which the command line reads as text."""
_ALPHA = 0.7


class SoftTargetOptions(TrainOptions):
    """Training on the outputs of another program, besides the targets (Hinton et al., 2015)."""

    temperature: Positive = Field(
        default=4.0, description="Temperature that softens the output distributions of the teacher and the student."
    )
    alpha: float = Field(
        default=_ALPHA,
        ge=0,
        le=1,
        description="Weight of the soft loss, from 0 to 1. The loss against the targets gets the rest.",
    )
    losses: Annotated[tuple[AnyLoss, ...], LOSS_NAME] = Field(
        default=(),
        description="What is learned from the teacher, each with its weight: kd, dkd, dist, mse, features, attention, "
        "similarity, rkd, minilm, cosine, contrastive, self, or module:function, such as `kd:0.7` or `features`. The "
        "default is kd with the weight `alpha`.",
    )
    hard_weight: float | None = Field(
        default=None,
        ge=0,
        description="Weight of the loss against the targets. The default is what kd, mse, cosine, contrastive and self "
        "leave of 1, and 0 if the samples have no labels and `losses` are given.",
    )

    @model_validator(mode="after")
    def _one_weight(self) -> SoftTargetOptions:
        if self.losses and self.alpha != _ALPHA:
            raise ValueError("`alpha` is the weight of kd alone; with `losses`, give each its weight, such as kd: 0.7")
        return self

    @property
    def target_weight(self) -> float:
        """Weight of the loss against the targets, if there are labels."""
        if self.hard_weight is not None:
            return self.hard_weight
        if not self.losses:
            return 1 - self.alpha
        taken = sum(loss.weight for loss in self.losses if loss.shares)
        return max(0.0, 1 - taken)

    @property
    def needs_targets(self) -> bool:
        """Whether samples without labels are refused."""
        if any(loss.needs_targets for loss in self.losses):
            return True
        return self.target_weight > 0 and (self.hard_weight is not None or not self.losses)

    @property
    def needs_equal_outputs(self) -> bool:
        """Whether teacher and student must predict the same classes or values."""
        return not self.losses or any(loss.needs_equal_outputs for loss in self.losses)

    def misfit(self, task: Task) -> tuple[str, str] | None:
        """What is wrong with a loss for this task or these samples, and what helps; None if nothing is."""
        mixer = next((step.name for step in self.augment if step.name in ("mixup", "cutmix")), None)
        for loss in self.losses:
            if loss.tasks is not None and task not in loss.tasks:
                text = f"the loss `{loss.loss}` compares classes of which one is right, and the task is {task}"
                return text, "use kd for labels, mse for values or cosine for embeddings"
            if loss.needs_targets and mixer is not None:
                return (
                    f"the loss `{loss.loss}` needs one class per sample, and `{mixer}` mixes two",
                    f"use kd or dist, or remove `{mixer}`",
                )
            if loss.needs_batch and self.batch_size == 1:
                text = f"the loss `{loss.loss}` compares the samples of a batch, and batch_size is 1"
                return text, "set batch_size to 2 or more"
        return None


class RecoverOptions(SoftTargetOptions):
    """Recovery training after a cut. By default it distills from the program before the cut."""

    epochs: Count = Field(default=5, description="Number of passes over the training split.")
    learning_rate: Positive = Field(default=1e-3, description="Highest learning rate of the schedule.")
    distill: bool = Field(default=True, description="Also learn from the outputs of the unchanged program.")


class DistillOptions(SoftTargetOptions):
    """Distillation: a student learns from the previous stage's program (Hinton et al., 2015)."""

    student: Annotated[ModelSpec, BeforeValidator(from_string)] = Field(
        description="The smaller model that learns from the previous stage's program: a model as in `model`, or a way "
        "to make it from that program, with its weights: `layers:3` or `layers:0.5` (equal layers, evenly spread), "
        "`blocks:0.5` (the most important residual blocks), `macs:0.3`, `parameters:0.3` or `size:0.3` (fewer "
        "channels), or a depth and a width joined by a comma. `retort distill PROGRAM --explain` shows what there is."
    )


__all__ = ["LOSS_NAME", "DistillOptions", "LossOptions", "RecoverOptions", "SoftTargetOptions"]
