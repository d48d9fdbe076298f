"""Options of training: the one loop that train, distill, recovery and QAT share."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from .option_types import Count, Options, Positive, Probability


class TrainOptions(Options):
    """Training: the one loop that train, distill, recovery and QAT share."""

    epochs: Count = Field(default=20, description="passes over the train split")
    batch_size: Count = Field(default=64, description="samples per batch")
    optimizer: Literal["sgd", "adam", "adamw", "rmsprop"] = Field(default="adamw", description="the optimizer")
    learning_rate: Positive = Field(default=2e-3, description="highest learning rate of the schedule")
    momentum: Probability = Field(default=0.9, description="momentum of SGD and RMSprop")
    weight_decay: float = Field(default=1e-4, ge=0, description="decay of the weights per step")
    schedule: Literal["constant", "step", "exponential", "cosine", "linear"] = Field(
        default="cosine", description="how the learning rate falls"
    )
    warmup_epochs: float = Field(default=0.0, ge=0, description="epochs over which the learning rate rises linearly")
    label_smoothing: Probability = Field(default=0.0, description="share of the target spread over all classes")
    class_weights: Literal["none", "balanced"] | tuple[float, ...] = Field(
        default="none", description="weights of the classes in the loss; `balanced` weighs by inverse frequency"
    )
    clip_norm: Positive | None = Field(default=None, description="largest norm of the gradient")
    accumulate: Count = Field(default=1, description="batches per optimizer step")
    patience: Count | None = Field(default=None, description="stop after this many epochs without improvement")
    ema: Probability | None = Field(default=None, description="decay of an exponential moving average of the weights")
    precision: Literal["no", "bf16", "fp16"] = Field(default="no", description="mixed precision")
    device: Literal["auto", "cpu", "cuda"] = Field(default="auto", description="where to train")
    checkpoint_epochs: Count = Field(default=1, description="write a resumable checkpoint every so many epochs")


class RecoverOptions(TrainOptions):
    """Recovery training after a cut, distilling from the uncut program unless told otherwise."""

    epochs: Count = Field(default=5, description="passes over the train split")
    learning_rate: Positive = Field(default=1e-3, description="highest learning rate of the schedule")
    distill: bool = Field(default=True, description="learn from the unchanged program as well as from the targets")
    temperature: Positive = Field(default=4.0, description="softens both distributions of the distillation")
    alpha: float = Field(default=0.7, ge=0, le=1, description="weight of the soft loss; the hard loss gets the rest")
