"""Options of training: the one loop that train, distill, recovery and QAT share."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from .augment_options import AnyStep
from .metric_names import MetricName
from .named_inputs import NAMES_METRIC
from .option_types import Count, Options, Positive, Probability
from .quantities import Workers


class TrainOptions(Options):
    """Training: the one loop that train, distill, recovery and QAT share."""

    epochs: Count = Field(default=20, description="Number of passes over the training split.")
    batch_size: Count = Field(default=64, description="Number of samples per batch.")
    optimizer: Literal["sgd", "adam", "adamw", "rmsprop"] = Field(default="adamw", description="The optimizer.")
    learning_rate: Positive = Field(default=2e-3, description="Highest learning rate of the schedule.")
    momentum: Probability = Field(default=0.9, description="Momentum of sgd and rmsprop.")
    weight_decay: float = Field(default=1e-4, ge=0, description="Weight decay of the optimizer.")
    l1: float = Field(
        default=0.0, ge=0, description="Weight of the sum of absolute weights of matrices and kernels in the loss."
    )
    l2: float = Field(
        default=0.0,
        ge=0,
        description="Weight of half the sum of squared weights in the loss. Unlike the weight decay of adamw, its "
        "gradient is scaled by adaptive optimizers.",
    )
    schedule: Literal["constant", "step", "exponential", "cosine", "linear"] = Field(
        default="cosine", description="How the learning rate falls."
    )
    warmup_epochs: float = Field(
        default=0.0, ge=0, description="Number of epochs during which the learning rate rises linearly."
    )
    label_smoothing: Probability = Field(
        default=0.0, description="Share of the target probability that is spread over all classes."
    )
    class_weights: Literal["none", "balanced"] | tuple[Annotated[float, Field(ge=0)], ...] = Field(
        default="none",
        description="Weights of the classes in the loss. `balanced` weights each class by its inverse frequency.",
    )
    sampling: Literal["natural", "balanced"] | tuple[Annotated[float, Field(ge=0)], ...] = Field(
        default="natural",
        description="How samples are drawn. `natural` takes every sample once per epoch. `balanced` draws all classes "
        "equally often, and a list draws the classes in these proportions; samples are drawn with replacement, and an "
        "epoch stays as long as the training split.",
    )
    augment: tuple[AnyStep, ...] = Field(
        default=(),
        description="Random changes of the training samples, in this order, such as `[flip, {crop: 4}, {rotate: 10}]`. "
        "Validation and calibration samples stay as they are. `retort data SOURCE --augment flip --preview sheet.png` "
        "shows what becomes of samples.",
    )
    workers: Workers = Field(
        default="auto",
        description="Number of processes that read and change samples ahead of the training. The batches are the same "
        "for any number. auto times the first batches, and starts workers only where they save time; 0 starts none.",
    )
    freeze: dict[str, Count | Literal["always"]] = Field(
        default_factory=dict,
        description="Weights that do not change, by patterns of their names, with the number of first epochs or "
        "always, such as `{body.*: 2, embeddings.*: always}`. BatchNorm's statistics of the same names stay, too.",
    )
    rates: dict[str, Positive] = Field(
        default_factory=dict,
        description="Factors of the learning rate by patterns of weight names, such as `{body.*: 0.1}`. The first "
        "pattern that matches is used.",
    )
    clip_norm: Positive | None = Field(
        default=None, description="Largest norm of the gradient. Larger gradients are scaled down."
    )
    accumulate: Count = Field(default=1, description="Number of batches per optimizer step.")
    patience: Count | None = Field(default=None, description="Stop after this number of epochs without improvement.")
    keep: Annotated[MetricName | None, NAMES_METRIC] = Field(
        default=None,
        description="Metric of the validation split that decides which epoch is kept and when patience ends, such as "
        "f1, miou or package.module:function. The default is that of the task: accuracy, average_precision, mse, "
        "recall@1 or cer.",
    )
    ema: Probability | None = Field(default=None, description="Decay of an exponential moving average of the weights.")
    precision: Literal["no", "bf16", "fp16"] = Field(default="no", description="Type of mixed-precision training.")
    device: Literal["auto", "cpu", "cuda"] = Field(
        default="auto", description="Device to train on. auto takes the GPU where there is one."
    )
    checkpoint_epochs: Count = Field(default=1, description="Number of epochs between resumable checkpoints.")
    checkpoint_steps: Count | None = Field(
        default=None, description="Number of optimizer steps between further checkpoints inside an epoch."
    )
    checkpoint_minutes: Positive = Field(
        default=10.0,
        description="A further checkpoint is written inside an epoch when the last one is so many minutes old.",
    )
    tensorboard: bool = Field(
        default=False,
        description="Write events for TensorBoard into the folder of the run: loss, learning rate, metric and "
        "histograms of weights by epoch.",
    )
