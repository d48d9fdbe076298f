"""Options of quantization: calibration, correction, which layers stay in FP32, and quantization-aware training."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from .distill_options import RecoverOptions
from .named_inputs import NAMES_FILE, NAMES_FUNCTION
from .option_types import Count, Options, Positive
from .quantities import Bytes

FirstLayer = Literal["auto", "int8", "float"]
Correction = Literal["none", "auto", "full", "equalise", "hessian", "adaround", "bias", "ranges"]


def listed(value: Any) -> Any:
    """Turn a single word into a list with one element."""
    return (value,) if isinstance(value, str) else value


class QatOptions(RecoverOptions):
    """Quantization-aware training of weights and scales. By default it distills from the FP32 program."""

    learning_rate: Positive = Field(default=5e-4, description="Highest learning rate of the schedule.")


class QuantizeOptions(Options):
    """INT8 post-training quantization."""

    method: Literal["auto", "minmax", "moving", "percentile", "mse", "entropy"] = Field(
        default="auto",
        description="How activation ranges are calibrated: smallest and largest value (minmax), their moving average "
        "over batches (moving), a share of the values (percentile), least squared error (mse) or least loss of "
        "information (entropy). auto chooses minmax or mse by the error on held-out samples.",
    )
    percentile: float = Field(
        default=99.99,
        gt=50,
        le=100,
        description="Percentage of the values that `method: percentile` keeps inside the range.",
    )
    samples: Count = Field(default=256, description="Largest number of calibration samples.")
    batch_size: Count = Field(
        default=32,
        description="Largest number of calibration samples per batch. Batches are smaller if `memory` requires it.",
    )
    memory: Bytes | None = Field(
        default=None,
        description="Largest memory that quantization uses on top of what the process uses before, such as 4GiB. The "
        "default is three times the model and 1 GB. Batches and matrices are made smaller to fit, and a correction "
        "that does not fit is left out with a warning.",
    )
    exclude: tuple[str, ...] = Field(
        default=(), description="Patterns of node names. Matching nodes stay in floating point."
    )
    correction: Annotated[tuple[Correction, ...], BeforeValidator(listed)] = Field(
        default=("auto",),
        description="Corrections to try after calibration. Each is kept only if it lowers the error on held-out "
        "samples. none tries nothing, auto takes seconds, full takes minutes; or name single corrections.",
    )
    weight_bits: int = Field(
        default=8,
        ge=2,
        le=8,
        description="Bits per weight, from 2 to 8. Weights below 8 bits have fewer distinct values and are still "
        "stored and run as INT8.",
    )
    first_layer: FirstLayer = Field(
        default="auto",
        description="Precision of the layers that read the model's inputs. auto keeps in FP32 those that INT8 usually "
        "makes slower; if the model is slower than FP32, `timed` also tries them in INT8.",
    )
    form: Literal["static", "dynamic", "auto"] = Field(
        default="static",
        description="Where matrix products on cpu and arm get the scales of their activations: from calibration "
        "(static), or from each whole batch at run time (dynamic). auto builds both, times them and keeps the better "
        "one; where they cannot be timed, it keeps static if it is accurate enough.",
    )
    embeddings: Literal["int8", "float"] = Field(
        default="int8",
        description="Precision of large embedding tables. int8 stores INT8 rows in a quarter of the bytes, float "
        "leaves the tables unchanged.",
    )
    smooth: bool = Field(
        default=True, description="Apply SmoothQuant to the linear layers whose output error it lowers."
    )
    last_layer: Literal["auto", "int8", "float"] = Field(
        default="auto",
        description="Precision of the final layers. auto keeps in FP32 those that INT8 would make slower.",
    )
    timed: bool = Field(
        default=True,
        description="Time the INT8 model against the FP32 model, on cpu, and on arm if this machine has an Arm "
        "processor. If INT8 is slower, the layers that are faster in FP32 stay in FP32. With `qat`, such layers are "
        "searched for before the training, which must resume on the same program.",
    )
    timer: Annotated[str | None, NAMES_FUNCTION] = Field(
        default=None,
        pattern=r"^edge:.",
        description="Device on which `timed` and `form: auto` time the models, as `edge:HOST`, through ssh as "
        "`retort edge run` does. The default is this machine.",
    )
    timed_batches: tuple[Count, ...] = Field(
        default=(1, 32), min_length=1, description="Batch sizes at which INT8 must not be slower than FP32."
    )
    float_layers: dict[str, str] = Field(
        default_factory=dict,
        description="Layers and operators that stay in FP32 because they are faster there, each with the measured "
        "reason. The search of `timed` fills this option.",
    )
    sensitivity: bool = Field(
        default=False, description="Measure the error that INT8 causes in each single layer, and report its cause."
    )
    mixed: Literal["none", "auto"] = Field(
        default="none",
        description="auto keeps in floating point the smallest number of layers with which `max_drop` or `min_sqnr` "
        "is met.",
    )
    max_drop: float | None = Field(
        default=None,
        ge=0,
        description="Bound of `mixed`: the largest loss of the recipe's metric on the validation split, in its unit. "
        "The default metric is that of the task, such as accuracy.",
    )
    min_sqnr: float | None = Field(
        default=None, description="Bound of `mixed` for data without labels: the smallest centred SQNR, in dB."
    )
    accept: bool = Field(
        default=False,
        description="Write the INT8 model even if it is ruined: if the centred SQNR of an output is below 10 dB, or if "
        "fewer than 90 % of the labelled samples keep their class and accuracy is certainly lower. By default, "
        "remedies are tried first, and if none helps, nothing is written.",
    )
    plan: Annotated[str | None, NAMES_FILE] = Field(
        default=None, description="File plan.yaml to repeat. It lists the layers that are INT8 and those that are not."
    )
    qat: QatOptions | None = Field(
        default=None,
        description="Quantization-aware training that starts from the calibrated scales, such as `{epochs: 5}`.",
    )
