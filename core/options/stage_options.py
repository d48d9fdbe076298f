"""The options of every stage: frozen pydantic models, unknown keys refused; the recipe is made of them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from ..dynamic_kernels import RecurrentForm
from .option_types import Confidence, Count, Fraction, Positive, Probability
from .option_types import Options as Options
from .option_types import from_string as from_string
from .prune_options import PruneOptions as PruneOptions
from .prune_options import SparsifyOptions as SparsifyOptions
from .train_options import RecoverOptions as RecoverOptions
from .train_options import TrainOptions as TrainOptions

Task = Literal["classification", "regression"]
Target = Literal["cpu", "tensorrt"]
Provider = Literal["cpu", "cuda", "tensorrt"]
MetricName = Literal["accuracy", "top5", "precision", "recall", "f1", "mse", "mae", "cosine", "agreement", "sqnr"]
Rung = Literal["none", "auto", "full", "equalise", "hessian", "adaround", "bias", "ranges"]


def listed(value: Any) -> Any:
    """A bare word as a list of one."""
    return (value,) if isinstance(value, str) else value


class ModelSpec(Options):
    """Where a model comes from."""

    source: str = Field(
        description="`package.module:factory`, a .pt2, an .onnx, or a directory written by `save_pretrained`"
    )
    args: dict[str, Any] = Field(
        default_factory=dict, description="keyword arguments for the factory; `task` for a `save_pretrained` directory"
    )
    weights: str | None = Field(
        default=None, description="a .safetensors file, or a state dict read with weights_only=True"
    )


class DataSpec(Options):
    """Where the data come from."""

    source: str = Field(
        description="a built-in (`digits`), `package.module:function`, a .npz file, or a folder of images"
    )
    args: dict[str, Any] = Field(default_factory=dict, description="keyword arguments for the function or loader")
    validation: Probability = Field(default=0.15, description="share held out for validation when the source has none")
    test: Probability = Field(default=0.2, description="share held out for test when the source has none")
    calibration: Count = Field(default=256, description="training samples used to calibrate INT8")


class CaptureOptions(Options):
    """Capture of the model as a program."""

    dynamic: dict[str, dict[int, str]] = Field(
        default_factory=dict, description="further dynamic axes per input, such as {input_ids: {1: sequence}}"
    )


class DistillOptions(TrainOptions):
    """Soft-target distillation (Hinton et al., 2015)."""

    student: Annotated[ModelSpec, BeforeValidator(from_string)] = Field(
        description="the smaller model that learns from the stage before"
    )
    temperature: Positive = Field(default=4.0, description="softens both distributions")
    alpha: float = Field(default=0.7, ge=0, le=1, description="weight of the soft loss; the hard loss gets the rest")


class QatOptions(RecoverOptions):
    """Quantization-aware training of weights and scales, distilling from the FP32 program unless told otherwise."""

    learning_rate: Positive = Field(default=5e-4, description="highest learning rate of the schedule")


class QuantizeOptions(Options):
    """INT8 post-training quantization."""

    method: Literal["auto", "minmax", "moving", "percentile", "mse", "entropy"] = Field(
        default="auto",
        description="how ranges are calibrated: extremes, their moving average over batches, a share of the values, "
        "least squared error, least loss of information; auto takes extremes or squared error by held-out samples",
    )
    percentile: float = Field(default=99.99, gt=50, le=100, description="share of values inside the range, in percent")
    samples: Count = Field(default=256, description="calibration samples at most")
    batch_size: Count = Field(default=32, description="calibration samples per batch")
    exclude: tuple[str, ...] = Field(default=(), description="node-name patterns left in floating point")
    correction: Annotated[tuple[Rung, ...], BeforeValidator(listed)] = Field(
        default=("auto",),
        description="rungs to try after calibration, each kept only if held-out samples say so: none, auto (seconds), "
        "full (minutes), or some by name",
    )
    weight_bits: int = Field(default=8, ge=2, le=8, description="codes of weights; below 8 they still run as INT8")
    first_layer: Literal["auto", "int8", "float"] = Field(
        default="auto", description="layers that read the inputs; `auto` keeps those in FP32 that INT8 would slow down"
    )
    form: Literal["static", "dynamic", "auto"] = Field(
        default="static",
        description="what matrix products read on cpu: calibrated grids, or grids taken while the model runs, from the "
        "whole batch; auto makes both, times them and keeps the better",
    )
    embeddings: Literal["int8", "float"] = Field(
        default="int8", description="large embedding tables: INT8 rows, a quarter of the bytes, or as they are"
    )
    smooth: bool = Field(default=True, description="SmoothQuant where it makes a linear layer's output more exact")
    last_layer: Literal["auto", "int8", "float"] = Field(
        default="auto",
        description="layers behind which no other comes; `auto` keeps those in FP32 that INT8 slows down",
    )
    timed: bool = Field(
        default=True,
        description="on cpu `retort quantize` and recipes time INT8 against FP32; where it is slower, layers that are "
        "faster so stay in floating point (with qat in the command alone), and what keeps it slow is said",
    )
    timed_batches: tuple[Count, ...] = Field(
        default=(1, 32), min_length=1, description="batch sizes at which INT8 shall not be slower than FP32"
    )
    float_layers: dict[str, str] = Field(
        default_factory=dict,
        description="layers and operators that stay in FP32 because they are faster there, with the measured reason; "
        "the search that `timed` asks for fills it",
    )
    sensitivity: bool = Field(default=False, description="measure what INT8 costs in each layer alone, and why")
    mixed: Literal["none", "auto"] = Field(
        default="none", description="auto leaves the fewest layers in floating point that meet max_drop or min_sqnr"
    )
    max_drop: float | None = Field(
        default=None, ge=0, description="gate of `mixed`: largest loss of accuracy on the validation split"
    )
    min_sqnr: float | None = Field(default=None, description="gate of `mixed` without labels: centred SQNR in dB")
    plan: str | None = Field(default=None, description="a plan.yaml to replay: which layers are INT8, which are not")
    qat: QatOptions | None = Field(
        default=None, description="train on with the fake-quantize nodes, from the calibrated scales: {epochs: 5}"
    )


class ExportOptions(Options):
    """ONNX export and its parity check."""

    target: Target | None = Field(default=None, description="defaults to the recipe's target")
    opset: int | None = Field(default=None, ge=18, le=23, description="defaults to what the target runs best")
    tolerance: Positive = Field(default=1e-3, description="largest relative error against the eager program, in FP32")
    batch_sizes: tuple[Count, ...] = Field(default=(1, 3, 8), min_length=1, description="batches checked for parity")
    golden: Count = Field(default=4, description="golden samples stored beside the model")
    precision: Literal["fp32", "fp16", "bf16"] = Field(
        default="fp32", description="what is not INT8 computes in this type where the samples show that it is safe"
    )
    half_exclude: tuple[str, ...] = Field(default=(), description="node-name patterns that stay in FP32")
    recurrent: RecurrentForm = Field(
        default="auto",
        description="layers with INT8 weights on cpu: integer kernels, or FP32 ones with the weights unpacked at load; "
        "auto takes integers where they are not slower at batch 1",
    )
    half_io: bool = Field(default=False, description="inputs and outputs in FP16 as well")


class EngineOptions(Options):
    """The TensorRT engine."""

    batch_sizes: tuple[Count, ...] = Field(
        default=(1, 8, 32), min_length=1, description="smallest, usual and largest batch of the profile"
    )
    axis: tuple[str, ...] = Field(
        default=(), description="range of another dynamic axis by name, name=min:opt:max, such as sequence=8:128:512"
    )
    profile: tuple[str, ...] = Field(
        default=(),
        description="shapes of one input, input=1x3x64x64:8x3x64x64:32x3x64x64; an input named again begins the next "
        "profile",
    )
    precision: Literal["file", "fp16", "bf16"] = Field(
        default="file", description="bring the FP32 parts of the file to this type first; better done by `export`"
    )
    workspace_mib: Count | None = Field(default=None, description="scratch memory at most; the GPU's own by default")
    level: int = Field(default=3, ge=0, le=5, description="optimisation level: 0 builds fastest, 5 searches longest")
    tf32: bool = Field(default=True, description="let FP32 multiplications round to TF32")
    timing_cache: str | None = Field(
        default=None, description="folder of timing caches, or `off`; the user's cache folder when absent"
    )
    runtime: Literal["auto", "tensorrt", "tensorrt_rtx"] = Field(
        default="auto", description="which TensorRT builds; tensorrt_rtx needs no GPU"
    )
    version_compatible: bool = Field(default=False, description="let later TensorRT versions run the plan, slower")
    hardware: Literal["this", "ampere+", "same-capability"] = Field(
        default="this", description="which GPUs the plan runs on"
    )
    lint: Literal["refuse", "warn"] = Field(
        default="refuse", description="what to do about faults that TensorRT accepts in silence"
    )


class PackOptions(Options):
    """The TorchServe archive."""

    name: str = Field(default="model", pattern=r"^[A-Za-z0-9_-]+$", description="name of the endpoint")
    version: str = Field(default="1.0", pattern=r"^[A-Za-z0-9_.-]+$", description="version of the model")
    handler: Literal["tensor"] = Field(default="tensor", description="what requests carry")
    batch_size: Count = Field(default=8, description="requests that TorchServe may put into one batch")
    max_batch_delay_ms: Count = Field(default=1, description="how long a batch may wait for more requests")
    workers: Count = Field(default=1, description="worker processes")
    threads: Count = Field(default=1, description="runtime threads per worker")
    response_timeout_s: Count = Field(default=60, description="seconds after which a worker counts as hung")
    max_request_bytes: Count = Field(default=6_553_500, description="largest request body")
    max_rows: Count = Field(default=256, description="rows that one request may carry")


class ServeOptions(Options):
    """A TorchServe instance on loopback."""

    host: Literal["127.0.0.1"] = Field(default="127.0.0.1", description="loopback only; TorchServe 0.12 has no IPv6")
    port: int = Field(default=0, ge=0, le=65535, description="inference port; 0 takes a free one")
    startup_timeout_s: Count = Field(default=120, description="seconds until the first golden request must be answered")
    java: str | None = Field(default=None, description="path of a java binary; found by itself when absent")
    samples: Count | None = Field(default=None, description="test samples to ask over HTTP; all when absent")
    rows_per_request: Count = Field(default=1, description="rows sent in one request")


class BenchOptions(Options):
    """Latency by randomised interleaved blocks."""

    batch_sizes: tuple[Count, ...] = Field(default=(1, 32), min_length=1, description="rows per call to time")
    threads: Count = Field(default=1, description="runtime threads")
    blocks: Count = Field(default=30, description="blocks per candidate at least")
    block_ms: Positive = Field(default=5.0, description="length of one block")
    budget_s: Positive = Field(
        default=20.0,
        description="seconds for one batch size; calls too slow for an interval get up to ten times as many",
    )
    confidence: Confidence = Field(default=0.95, description="confidence of every interval")
    seed: int = Field(default=0, description="seed of the order of blocks and of the bootstrap")
    provider: Provider = Field(
        default="cpu",
        description="what ONNX Runtime must really run .onnx files on; cuda takes .pt2 files, too",
    )
    axis: tuple[str, ...] = Field(
        default=(),
        description="range of a dynamic axis for the provider tensorrt, name=min:opt:max; the batch has one already",
    )
    provider_option: tuple[str, ...] = Field(
        default=(), description="key=value for the provider, such as trt_fp16_enable=1; wins over what is derived"
    )
    engine_cache: str | None = Field(
        default=None, description="folder where the provider tensorrt keeps engines, or `off`; the user's by default"
    )


class ReportOptions(Options):
    """The HTML report."""

    title: str | None = Field(default=None, description="title of the report; the recipe's name when absent")


class Gate(Options):
    """A bound that must hold with the stated confidence, or the line stops."""

    after: str = Field(description="the stage after which it is checked")
    accuracy_drop: float | None = Field(
        default=None, ge=0, description="largest drop of the metric against the reference"
    )
    speedup: Positive | None = Field(default=None, description="smallest latency ratio reference / candidate")
    size_ratio: Fraction | None = Field(default=None, description="largest share of the reference's bytes")
    against: str | None = Field(default=None, description="the reference stage; the first program when absent")
    batch_size: Count = Field(default=1, description="batch size of the speedup")
    confidence: Confidence = Field(default=0.95, description="confidence with which the bound must hold")

    @model_validator(mode="after")
    def _one_bound(self) -> Gate:
        if sum(value is not None for value in (self.accuracy_drop, self.speedup, self.size_ratio)) != 1:
            raise ValueError("give exactly one of `accuracy_drop`, `speedup` and `size_ratio`")
        return self
