"""The keyword arguments of the functions, for editors and type checkers: the options of the stages.

A test checks that they equal the options, which validate the values and define defaults and descriptions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypedDict

from ...core.dynamic_kernels import RecurrentForm
from ...core.options.option_types import Importance, Normalization
from ...core.options.serving_options import Deployment
from ...core.options.stage_options import Correction, Provider, Target, Task

Nested = Mapping[str, Any]
Share = float | str
Names = Sequence[str]


class SharedArguments(TypedDict, total=False):
    """Arguments of all functions on programs."""

    data: Any
    task: Task | None
    seed: int
    folder: str | Path | None
    progress: bool


class TrainArguments(TypedDict, total=False):
    """Options of ``train``."""

    epochs: int
    batch_size: int
    optimizer: Literal["sgd", "adam", "adamw", "rmsprop"]
    learning_rate: float
    momentum: float
    weight_decay: float
    l1: float
    l2: float
    schedule: Literal["constant", "step", "exponential", "cosine", "linear"]
    warmup_epochs: float
    label_smoothing: float
    class_weights: Literal["none", "balanced"] | Sequence[float]
    sampling: Literal["natural", "balanced"] | Sequence[float]
    augment: Sequence[Any]
    workers: int | Literal["auto"]
    freeze: Mapping[str, int | Literal["always"]]
    rates: Mapping[str, float]
    clip_norm: float | None
    accumulate: int
    patience: int | None
    keep: str | None
    ema: float | None
    precision: Literal["no", "bf16", "fp16"]
    device: Literal["auto", "cpu", "cuda"]
    checkpoint_epochs: int
    checkpoint_steps: int | None
    checkpoint_minutes: float
    tensorboard: bool


class TrainCall(TrainArguments, SharedArguments, total=False):
    """All keyword arguments of ``train``."""


class DistillArguments(TrainArguments, total=False):
    """Options of ``distill`` without the student."""

    temperature: float
    alpha: float
    losses: Sequence[str | Mapping[str, Any]]
    hard_weight: float | None


class PruneArguments(TypedDict, total=False):
    """Options of ``prune``."""

    macs: Share | None
    parameters: Share | None
    size: Share | None
    size_bytes: float | str | None
    latency: Share | None
    latency_ms: float | str | None
    batch: int
    threads: int
    timer: str | None
    layers: Mapping[str, Share]
    importance: Importance
    normalize: Normalization
    score_samples: int
    score_batch: int
    scope: Literal["global", "layer"]
    min_channels: int
    align: int | Literal["auto"]
    exclude: Names
    only: Names
    schedule: Literal["one_shot", "iterative", "gradual"] | None
    steps: int | None
    ramp: Literal["geometric", "cubic", "linear"] | None
    tolerance: float
    reconstruct: Literal["auto", "on", "off"]
    reconstruct_samples: int
    recover: Nested | None


class PruneCall(PruneArguments, SharedArguments, total=False):
    """All keyword arguments of ``prune``."""


class SparsifyArguments(TypedDict, total=False):
    """Options of ``sparsify``."""

    pattern: str
    sparsity: Share
    method: Literal["magnitude", "reconstruct"]
    scope: Literal["global", "layer"]
    exclude: Names
    only: Names
    samples: int
    batch: int
    damping: float
    recover: Nested | None


class SparsifyCall(SparsifyArguments, SharedArguments, total=False):
    """All keyword arguments of ``sparsify``."""


class QuantizeArguments(TypedDict, total=False):
    """Options of ``quantize``."""

    method: Literal["auto", "minmax", "moving", "percentile", "mse", "entropy"]
    percentile: float
    samples: int
    batch_size: int
    exclude: Names
    correction: Correction | Sequence[Correction]
    weight_bits: int
    first_layer: Literal["auto", "int8", "float"]
    form: Literal["static", "dynamic", "auto"]
    embeddings: Literal["int8", "float"]
    smooth: bool
    last_layer: Literal["auto", "int8", "float"]
    timed: bool
    timer: str | None
    timed_batches: Sequence[int]
    float_layers: Mapping[str, str]
    sensitivity: bool
    mixed: Literal["none", "auto"]
    max_drop: float | None
    min_sqnr: float | None
    memory: float | str | None
    accept: bool
    plan: str | None
    qat: Nested | None


class QuantizeCall(QuantizeArguments, SharedArguments, total=False):
    """All keyword arguments of ``quantize``."""

    target: Target


class ExportArguments(TypedDict, total=False):
    """Options of ``export`` without the target."""

    opset: int | None
    tolerance: float
    batch_sizes: Sequence[int]
    golden: int
    precision: Literal["fp32", "fp16", "bf16"]
    half_exclude: Names
    recurrent: RecurrentForm
    half_io: bool


class EngineArguments(TypedDict, total=False):
    """Options of ``engine``."""

    batch_sizes: Sequence[int]
    axis: Names
    profile: Names
    precision: Literal["file", "fp16", "bf16"]
    workspace_mib: int | None
    level: int
    tf32: bool
    timing_cache: str | None
    runtime: Literal["auto", "tensorrt", "tensorrt_rtx"]
    version_compatible: bool
    hardware: Literal["this", "ampere+", "same-capability"]
    lint: Literal["refuse", "warn"]


class BundleArguments(TypedDict, total=False):
    """Options of ``bundle``."""

    name: str
    version: str
    handler: str
    processor: str | None
    pixels: Mapping[str, Any] | None
    sound: Mapping[str, Any] | None
    vocabulary: Literal["bytes", "characters"] | None
    top_k: int
    scores: Literal["auto", "raw", "softmax", "sigmoid"]
    batch_size: int
    workers: int
    threads: int
    provider: Provider
    axis: Names
    provider_option: Names
    golden: str | None
    max_request_bytes: int
    max_rows: int
    sign: str | None


class PackArguments(BundleArguments, total=False):
    """Options of ``pack``."""

    target: Deployment
    p99_ms: int
    image: str | None
    storage: str | None
    max_batch_delay_ms: int
    response_timeout_s: int


class CompareArguments(TypedDict, total=False):
    """Options of ``compare``: those of ``retort bench``."""

    batch_sizes: Sequence[int]
    threads: int
    blocks: int
    block_ms: float
    budget_s: float
    precision: float
    timer: str | None
    confidence: float
    seed: int
    provider: Provider
    axis: Names
    provider_option: Names
    self_test: bool
    engine_cache: str | None


class CaptureArguments(TypedDict, total=False):
    """Options of ``capture``."""

    dynamic: Mapping[str, Mapping[int, str]]
    batch_axis: Mapping[str, int]
    fixed: Nested
    classes: int | None
    output_names: Names | None
    weights: str | None
    weights_fit: Literal["all", "matching"]
    weights_names: Mapping[str, str]
    args: Nested
