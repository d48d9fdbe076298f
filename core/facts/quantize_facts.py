"""Facts of quantization: which layers are INT8, corrections, sensitivity, and the difference from FP32."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import SerializerFunctionWrapHandler, model_serializer

from ..metrics.ratio import Ratio
from ..options.stage_options import Target
from .program_facts import Epoch, ProgramFacts
from .record import Record


class FloatNode(Record):
    """An operator that stays in floating point.

    Attributes:
        node: its name in the graph.
        layer: the name of its layer in the model.
        op: its kind, such as ``conv2d``.
        reason: why it is not INT8.
    """

    node: str
    layer: str
    op: str
    reason: str


class Fidelity(Record):
    """The difference between the INT8 program and the FP32 program on held-out samples.

    Attributes:
        samples: number of samples.
        sqnr_db: signal-to-noise ratio over all floating-point outputs, each at its own scale, in dB; None if the
            outputs are equal; left out if there is no such output.
        sqnr_centred_db: the same, where only what differs between samples counts as signal.
        agreement: share of samples with the same class, the smallest over the outputs that are classes.
        per_output_db: the centred ratio of each output, if there are several.
        shortfall: what is so different that the program is ruined, in words; empty if nothing is. Only of a cut.
    """

    samples: int
    sqnr_db: float | None = None
    sqnr_centred_db: float | None = None
    agreement: float | None = None
    per_output_db: dict[str, float | None] | None = None
    shortfall: str | None = None

    def describe(self) -> str:
        """The figures in words: ``31.2 dB of centred SQNR, 99 % equal classes``; several outputs have one each."""
        same = [f"{self.agreement:.0%} equal classes"] if self.agreement is not None else []
        if self.samples and "sqnr_centred_db" not in self.model_fields_set:
            return ", ".join(same) or "no floating-point output"
        noise = self.sqnr_centred_db
        shown = ["equal outputs" if noise is None else f"{noise:.1f} dB of centred SQNR"]
        shown += same
        if self.per_output_db:
            each = (f"{name} {'equal' if db is None else f'{db:.1f}'}" for name, db in self.per_output_db.items())
            shown.append(f"by output: {', '.join(each)}")
        return ", ".join(shown)

    @model_serializer(mode="wrap")
    def _without_absent(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in dump(self).items() if name in self.model_fields_set}


class RemedyTrial(Record):
    """One remedy that was tried because the INT8 program was below the floor of quality.

    Attributes:
        remedy: what was changed.
        against_fp32: the difference from FP32 with it.
        integer_macs_percent: percentage of the multiply-accumulates that are integer with it.
        floating: names of the layers that it leaves in floating point.
        kept: whether the program is the one with this remedy.
    """

    remedy: str
    against_fp32: Fidelity
    integer_macs_percent: float
    floating: tuple[str, ...]
    kept: bool


class FloorFacts(Record):
    """The check of the INT8 program against the floor of quality.

    Attributes:
        sqnr_db: smallest centred signal-to-noise ratio of each output, in dB.
        agreement: smallest share of labelled samples with the same class.
        met: whether the program is above the floor.
        accepted: whether a program below the floor was accepted (``--accept``).
        shortfall: what is below the floor, or was before the remedies; None if nothing was.
        worst_layer: the layer whose INT8 harms the outputs most, and why; None if nothing was below the floor.
        tried: the remedies that were tried.
    """

    sqnr_db: float
    agreement: float
    met: bool
    accepted: bool = False
    shortfall: str | None = None
    worst_layer: str | None = None
    tried: tuple[RemedyTrial, ...] = ()


class CorrectionFacts(Record):
    """The result of one correction on held-out samples.

    Attributes:
        rung: name of the correction.
        before_db: centred signal-to-noise ratio before it, in dB; None if infinite.
        after_db: the same after it.
        agreement: share of samples with the same class as FP32; None for outputs that are not classes.
        kept: whether it was kept.
        detail: what it changed.
    """

    rung: str
    before_db: float | None
    after_db: float | None
    agreement: float | None
    kept: bool
    detail: str


class QuantizeTiming(Record):
    """Durations of a quantization.

    Attributes:
        correction_seconds: duration of each correction, by its name.
    """

    correction_seconds: dict[str, float]


class Sensitivity(Record):
    """The effect on the output if only one layer is INT8.

    Attributes:
        layer: the layer's name in the model, or the operator's name.
        kind: kind of the operator, such as ``conv2d``.
        sqnr_db: centred signal-to-noise ratio of the output, in dB; None if nothing changes.
        agreement: share of samples whose class does not change; None for outputs that are not classes.
        accuracy_drop: loss of accuracy on those samples; None without labels.
        cost: multiply-accumulates, or the number of computed values.
        cause: ``outlier channel``, ``clipping``, ``few levels``, ``saturation``, ``constant``, ``outlier weight`` or
            ``rounding``.
        detail: the cause in numbers.
    """

    layer: str
    kind: str
    sqnr_db: float | None
    agreement: float | None
    accuracy_drop: float | None
    cost: int
    cause: str
    detail: str


class MixedPrecision(Record):
    """The result of mixed precision.

    Attributes:
        gate: the bound in words.
        float: names of the layers that stay in floating point to meet it.
    """

    gate: str
    float: tuple[str, ...]


class QatFacts(Record):
    """The result of quantization-aware training.

    Attributes:
        metric: name of the validation metric.
        before: value of the metric before the training; None without labelled samples.
        after: the same after the training.
        kept: whether the training was kept; it is undone if it made the metric worse.
        epochs: number of epochs.
        best_epoch: the epoch whose weights were kept.
        history: one entry per epoch.
    """

    metric: str
    before: float | None
    after: float | None
    kept: bool
    epochs: int
    best_epoch: int
    history: tuple[Epoch, ...]


class FormTrial(Record):
    """The results of one form compared with the FP32 file.

    Attributes:
        sqnr_db: centred signal-to-noise ratio over all floating-point outputs, in dB; 300 if they are equal.
        accuracy_drop: loss of accuracy; None without labels.
        speedup: speedup over FP32, by batch size.
    """

    sqnr_db: float
    accuracy_drop: float | None
    speedup: dict[str, Ratio]


class FormChoice(Record):
    """The choice between static and dynamic INT8 with ``form: auto``.

    Attributes:
        kept: the form of the program.
        why: the reason.
        static: results of the static form, if both were measured.
        dynamic: results of the dynamic form, if both were measured.
    """

    kept: Literal["static", "dynamic"]
    why: str
    static: FormTrial | None = None
    dynamic: FormTrial | None = None


class QuantizeFacts(ProgramFacts):
    """Facts of the quantize stage.

    Attributes:
        target: the target that the program is quantized for.
        method: the method that chose the ranges of activations.
        quantized_nodes: number of integer operators, by kind.
        integer_macs_percent: percentage of the multiply-accumulates that are integer.
        float_nodes: the operators that stay in floating point.
        float_for_speed: layers that are faster in floating point, each with the measured reason.
        against_fp32: the difference from the FP32 program.
        correction: the corrections that were tried.
        timing: durations, if there were corrections.
        sensitivity: the effect of each layer, if it was measured, the most harmful first.
        floor: the check against the floor of quality; None in artifacts of earlier versions.
        mixed: the result of mixed precision, if there was a bound.
        qat: the result of quantization-aware training, if there was one.
        form: the choice between static and dynamic INT8, with ``form: auto``.
        not_timed: why INT8 was not timed against FP32; None if it was, if it was not asked for, and on a GPU.
    """

    target: Target
    method: str
    quantized_nodes: dict[str, int]
    integer_macs_percent: float
    float_nodes: tuple[FloatNode, ...]
    float_for_speed: dict[str, str] | None = None
    against_fp32: Fidelity
    correction: tuple[CorrectionFacts, ...] | None = None
    timing: QuantizeTiming | None = None
    sensitivity: tuple[Sensitivity, ...] | None = None
    floor: FloorFacts | None = None
    mixed: MixedPrecision | None = None
    qat: QatFacts | None = None
    form: FormChoice | None = None
    not_timed: str | None = None
