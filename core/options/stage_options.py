"""The options of every stage: frozen pydantic models that reject unknown keys. The recipe contains them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from ..dynamic_kernels import RecurrentForm
from .distill_options import DistillOptions as DistillOptions
from .distill_options import RecoverOptions as RecoverOptions
from .distill_options import SoftTargetOptions as SoftTargetOptions
from .metric_names import MetricName as MetricName
from .metric_names import Task as Task
from .model_spec import ModelSpec as ModelSpec
from .named_inputs import NAMES_FUNCTION
from .option_types import Confidence, Count, Fraction, Positive, Probability, Seed
from .option_types import Options as Options
from .option_types import Provider as Provider
from .option_types import from_string as from_string
from .prune_options import PruneOptions as PruneOptions
from .prune_options import SparsifyOptions as SparsifyOptions
from .quantize_options import Correction as Correction
from .quantize_options import QatOptions as QatOptions
from .quantize_options import QuantizeOptions as QuantizeOptions
from .serving_options import BundleOptions as BundleOptions
from .serving_options import Deployment as Deployment
from .serving_options import PackOptions as PackOptions
from .serving_options import ServeOptions as ServeOptions
from .train_options import TrainOptions as TrainOptions

Target = Literal["cpu", "arm", "tensorrt"]


class DataSpec(Options):
    """The source of the data."""

    source: str = Field(
        description="The data: a built-in set (`digits`), `package.module:function`, a .csv, .tsv, .jsonl, .json, "
        ".parquet, .npz, .npy or .txt file, or a folder of images, recordings, texts or such files."
    )
    args: dict[str, Any] = Field(default_factory=dict, description="Keyword arguments for the function or the loader.")
    validation: Probability = Field(
        default=0.15,
        description="Share of the samples held out for validation when the source has no validation split.",
    )
    test: Probability = Field(
        default=0.2, description="Share of the samples held out for testing when the source has no test split."
    )
    calibration: Count = Field(default=256, description="Number of training samples used to calibrate INT8.")


class CaptureOptions(Options):
    """Capture of the model as a program."""

    dynamic: dict[str, dict[int, str]] = Field(
        default_factory=dict,
        description="Dynamic axes of each input in addition to the batch axis, such as `{input_ids: {1: sequence}}`.",
    )
    batch_axis: dict[str, Annotated[int, Field(ge=0)]] = Field(
        default_factory=dict,
        description="Axis of the batch in inputs of a module whose batch is not on axis 0, such as `{steps: 1}` for an "
        "`nn.LSTM` whose first axis is time. A data source still gives its samples on axis 0.",
    )
    fixed: dict[str, Any] = Field(
        default_factory=dict,
        description="Values of inputs of an .onnx file that become constants, such as `{sr: 16000}`, so that the "
        "branches that they choose are decided.",
    )
    classes: Count | None = Field(
        default=None,
        description="Number of classes of a new, untrained last layer, for fine-tuning on other classes. The default "
        "keeps the model's own.",
    )


class ExportOptions(Options):
    """ONNX export and its parity check."""

    target: Target | None = Field(
        default=None, description="The hardware that the file is written for. The default is the recipe's target."
    )
    opset: int | None = Field(
        default=None, ge=18, le=23, description="ONNX opset. The default is the opset that the target runs best."
    )
    tolerance: Positive = Field(
        default=1e-3, description="Largest relative error of the file against the program in eager PyTorch, in FP32."
    )
    batch_sizes: tuple[Count, ...] = Field(
        default=(1, 3, 8), min_length=1, description="Batch sizes at which the outputs are compared with PyTorch."
    )
    golden: Count = Field(
        default=4, description="Number of golden samples (inputs with their outputs) stored next to the model."
    )
    precision: Literal["fp32", "fp16", "bf16"] = Field(
        default="fp32",
        description="Type in which the parts that are not INT8 compute. A part stays in FP32 where the samples show "
        "that a smaller type is not safe.",
    )
    half_exclude: tuple[str, ...] = Field(
        default=(), description="Patterns of node names. Matching nodes stay in FP32."
    )
    recurrent: RecurrentForm = Field(
        default="auto",
        description="How recurrent layers with INT8 weights run on cpu and arm: with integer kernels (integer), or "
        "with FP32 kernels whose weights are unpacked when the model is loaded (weights). auto takes integer kernels "
        "on cpu where they are not slower at batch 1 and as accurate on samples, within 3 dB, or have 30 dB; on arm "
        "it takes FP32 kernels, because the speed of the others was not measured there.",
    )
    half_io: bool = Field(default=False, description="Make the model's inputs and outputs FP16 as well.")


class EngineOptions(Options):
    """The TensorRT engine."""

    batch_sizes: tuple[Count, ...] = Field(
        default=(1, 8, 32),
        min_length=1,
        description="Smallest, usual and largest batch size of the optimisation profile.",
    )
    axis: tuple[str, ...] = Field(
        default=(), description="Range of another dynamic axis, as name=min:opt:max, such as sequence=8:128:512."
    )
    profile: tuple[str, ...] = Field(
        default=(),
        description="Shapes of one input, such as input=1x3x64x64:8x3x64x64:32x3x64x64. Naming the same input again "
        "starts the next profile.",
    )
    precision: Literal["file", "fp16", "bf16"] = Field(
        default="file",
        description="Convert the FP32 parts of the file to this type first; file converts nothing. `retort export` "
        "does this better, because it checks the result.",
    )
    workspace_mib: Count | None = Field(
        default=None, description="Limit of scratch memory, in MiB. By default the whole memory of the GPU may be used."
    )
    level: int = Field(
        default=3, ge=0, le=5, description="Builder optimisation level: 0 builds fastest, 5 searches longest."
    )
    tf32: bool = Field(default=True, description="Allow FP32 multiplications to round their inputs to TF32.")
    timing_cache: str | None = Field(
        default=None, description="Folder of timing caches, or `off`. The default is the user's cache folder."
    )
    runtime: Literal["auto", "tensorrt", "tensorrt_rtx"] = Field(
        default="auto", description="The TensorRT library that builds the plan. tensorrt_rtx needs no GPU."
    )
    version_compatible: bool = Field(
        default=False, description="Allow later versions of TensorRT to run the plan. Such a plan is slower."
    )
    hardware: Literal["this", "ampere+", "same-capability"] = Field(
        default="this",
        description="The GPUs that can run the plan: this one, Ampere and later, or those with the same compute "
        "capability.",
    )
    lint: Literal["refuse", "warn"] = Field(
        default="refuse",
        description="What to do about faults that TensorRT accepts without an error: stop (refuse) or report them "
        "(warn).",
    )


class BenchOptions(Options):
    """Measurement of accuracy and latency; latency is timed in randomised interleaved blocks."""

    batch_sizes: tuple[Count, ...] = Field(
        default=(1, 32), min_length=1, description="Batch sizes (rows per call) to time."
    )
    threads: Count = Field(default=1, description="Number of runtime threads.")
    blocks: Count = Field(default=30, description="Smallest number of timed blocks per candidate.")
    block_ms: Positive = Field(default=5.0, description="Length of one timed block, in milliseconds.")
    budget_s: Positive = Field(
        default=20.0,
        description="Seconds of measurement per batch size. Calls that are too slow for an interval get up to ten "
        "times as long.",
    )
    precision: Fraction = Field(
        default=0.02,
        description="Precision at which the timing stops before the budget is used up: 0.02 means that every ratio is "
        "known to ± 2 %. About ± 0.5 % is possible within a minute.",
    )
    confidence: Confidence = Field(default=0.95, description="Confidence level of every interval.")
    seed: Seed = Field(default=0, description="Random seed of the order of blocks and of the bootstrap.")
    provider: Provider = Field(
        default="cpu",
        description="The execution provider on which ONNX Runtime must run .onnx files; openvino is another runtime "
        "for them. cuda also runs .pt2 files.",
    )
    timer: Annotated[str | None, NAMES_FUNCTION] = Field(
        default=None,
        pattern=r"^edge:.",
        description="Device on which the models are timed, as `edge:HOST`, through ssh as `retort edge run` does. "
        "Accuracy is computed on this machine, and memory is not measured.",
    )
    axis: tuple[str, ...] = Field(
        default=(),
        description="Range of a dynamic axis for the provider tensorrt, as name=min:opt:max. The range of the batch "
        "axis is set already.",
    )
    provider_option: tuple[str, ...] = Field(
        default=(),
        description="Option of the provider as key=value, such as trt_fp16_enable=1. It overrides the value that "
        "Retort derives.",
    )
    self_test: bool = Field(
        default=True,
        description="Whether the first comparison on a machine begins with a self-test of a few seconds, in which a "
        "file is compared with itself; smaller differences are then not called real. RETORT_SELF_TEST=off in the "
        "environment turns it off everywhere.",
    )
    engine_cache: str | None = Field(
        default=None,
        description="Folder in which the provider tensorrt keeps its engines, or `off`. The default is the user's "
        "cache folder.",
    )


class ReportOptions(Options):
    """The HTML report."""

    title: str | None = Field(default=None, description="Title of the report. The default is the name of the recipe.")


class Gate(Options):
    """A bound that must hold with the given confidence. The run stops if it does not."""

    after: str = Field(description="Name of the stage after which the gate is checked.")
    accuracy_drop: float | None = Field(
        default=None, ge=0, description="Largest allowed drop of the metric below the reference."
    )
    speedup: Positive | None = Field(
        default=None,
        description="Smallest allowed speedup: latency of the reference divided by latency of the candidate.",
    )
    size_ratio: Fraction | None = Field(
        default=None, description="Largest allowed size, as a share of the reference's bytes."
    )
    against: str | None = Field(
        default=None, description="Name of the reference stage. The default is the first program."
    )
    batch_size: Count = Field(default=1, description="Batch size at which the speedup is measured.")
    confidence: Confidence = Field(default=0.95, description="Confidence with which the bound must hold.")

    @model_validator(mode="after")
    def _one_bound(self) -> Gate:
        if sum(value is not None for value in (self.accuracy_drop, self.speedup, self.size_ratio)) != 1:
            raise ValueError("give exactly one of `accuracy_drop`, `speedup` and `size_ratio`")
        return self
