"""The options of every stage: frozen pydantic models, unknown keys refused; the recipe is made of them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

Fraction = Annotated[float, Field(gt=0, le=1)]
Probability = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
Confidence = Annotated[float, Field(ge=0.5, lt=1)]

Task = Literal["classification", "regression"]
Target = Literal["cpu", "tensorrt"]
MetricName = Literal["accuracy", "top5", "precision", "recall", "f1", "mse", "mae", "cosine", "agreement", "sqnr"]


def from_string(value: Any) -> Any:
    """A bare source such as ``digits`` as the mapping ``{source: digits}``."""
    return {"source": value} if isinstance(value, str) else value


class Options(BaseModel):
    """Base of all options: frozen, unknown keys refused, defaults documented in the JSON Schema."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


class ModelSpec(Options):
    """Where a model comes from."""

    source: str = Field(description="`package.module:factory`, or a path to a .pt2 written by Retort")
    args: dict[str, Any] = Field(default_factory=dict, description="keyword arguments for the factory")
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


class DistillOptions(TrainOptions):
    """Soft-target distillation (Hinton et al., 2015)."""

    student: Annotated[ModelSpec, BeforeValidator(from_string)] = Field(
        description="the smaller model that learns from the stage before"
    )
    temperature: Positive = Field(default=4.0, description="softens both distributions")
    alpha: float = Field(default=0.7, ge=0, le=1, description="weight of the soft loss; the hard loss gets the rest")


class RecoverOptions(TrainOptions):
    """Recovery training after a cut, distilling from the uncut program unless told otherwise."""

    epochs: Count = 5
    learning_rate: Positive = 1e-3
    distill: bool = True
    temperature: Positive = 4.0
    alpha: float = Field(default=0.7, ge=0, le=1)


class PruneOptions(Options):
    """Structured pruning by coupled channels."""

    macs: Fraction | None = Field(default=None, description="multiply-accumulates to keep, as a share of the input's")
    parameters: Fraction | None = Field(default=None, description="parameters to keep, as a share of the input's")
    importance: Literal["l1", "l2", "random"] = Field(default="l2", description="how channels are ranked")
    scope: Literal["global", "layer"] = Field(
        default="global", description="rank channels across the whole model, or cut each layer alike"
    )
    min_channels: Count = Field(default=4, description="channels that every layer keeps")
    align: Count = Field(
        default=1,
        description="keep channel counts at multiples of this; 8 or 16 suits vector units, odd counts run slower",
    )
    exclude: tuple[str, ...] = Field(default=(), description="parameter-name patterns whose channels stay")
    steps: Count = Field(default=1, description="cut in this many equal steps, recovering after each")
    tolerance: Positive = Field(default=1e-4, description="largest relative error that the proof accepts")
    recover: RecoverOptions | None = Field(default_factory=RecoverOptions)
    seed: int = 0

    @model_validator(mode="after")
    def _one_budget(self) -> PruneOptions:
        if (self.macs is None) == (self.parameters is None):
            raise ValueError("give exactly one of `macs` and `parameters`")
        return self


class QuantizeOptions(Options):
    """INT8 post-training quantization."""

    method: Literal["minmax", "percentile"] = Field(default="percentile", description="how ranges are calibrated")
    percentile: float = Field(default=99.99, gt=50, le=100, description="share of values inside the range, in percent")
    samples: Count = Field(default=256, description="calibration samples at most")
    batch_size: Count = Field(default=32, description="calibration samples per batch")
    exclude: tuple[str, ...] = Field(default=(), description="node-name patterns left in floating point")


class ExportOptions(Options):
    """ONNX export and its parity check."""

    target: Target | None = Field(default=None, description="defaults to the recipe's target")
    opset: int | None = Field(default=None, ge=18, le=23, description="defaults to what the target runs best")
    tolerance: Positive = Field(default=1e-3, description="largest relative error against the eager program, in FP32")
    batch_sizes: tuple[Count, ...] = Field(default=(1, 3, 8), min_length=1, description="batches checked for parity")
    golden: Count = Field(default=4, description="golden samples stored beside the model")


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
    startup_timeout_s: Count = 120
    java: str | None = Field(default=None, description="path of a java binary; found by itself when absent")
    samples: Count | None = Field(default=None, description="test samples to ask over HTTP; all when absent")
    rows_per_request: Count = Field(default=1, description="rows sent in one request")


class BenchOptions(Options):
    """Latency by randomised interleaved blocks."""

    batch_sizes: tuple[Count, ...] = Field(default=(1, 32), min_length=1)
    threads: Count = 1
    blocks: Count = Field(default=30, description="blocks per candidate at least")
    block_ms: Positive = Field(default=5.0, description="length of one block")
    budget_s: Positive = Field(default=20.0, description="time for one batch size at most")
    confidence: Confidence = 0.95
    seed: int = 0


class ReportOptions(Options):
    """The HTML report."""

    title: str | None = None


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
    confidence: Confidence = 0.95

    @model_validator(mode="after")
    def _one_bound(self) -> Gate:
        if sum(value is not None for value in (self.accuracy_drop, self.speedup, self.size_ratio)) != 1:
            raise ValueError("give exactly one of `accuracy_drop`, `speedup` and `size_ratio`")
        return self
