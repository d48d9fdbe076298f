"""Facts of the export stage: parity with PyTorch, kernels, half precision and zeros of the ONNX file."""

from __future__ import annotations

from typing import Literal

from ..options.stage_options import Target
from .record import Record


class ParityEntry(Record):
    """The difference of one output between PyTorch and the file, at one batch size.

    Attributes:
        output: its name.
        batch_size: rows per run.
        error: the largest error, relative to the largest magnitude of the output.
        tolerance: the largest accepted error.
        rms_error: root mean square of the error, relative to the same magnitude.
        rms_tolerance: the largest accepted root mean square; None in floating point.
        sqnr_db: signal-to-noise ratio between program and file, in dB; 300 if they are equal.
        agreement: share of rows with the same largest entry; None for outputs that are not rows of scores.
        refused: whether the difference is too large.
    """

    output: str
    batch_size: int
    error: float
    tolerance: float
    rms_error: float
    rms_tolerance: float | None
    sqnr_db: float
    agreement: float | None
    refused: bool


class HardInputs(Record):
    """The largest difference on inputs of one kind that are hard to compute, such as zeros.

    Attributes:
        inputs: the kind, in words.
        output: the output that differs most; empty if none differs.
        share: its largest difference, in units of the accepted one; above 1 where the program itself is unsteady.
        undefined: number of output values that are NaN in the program, with or without its quantization, or that are
            NaN or a number by rounding alone. A file in INT8 may give a number there, because codes have no NaN.
    """

    inputs: str
    output: str
    share: float
    undefined: int = 0


class Kernels(Record):
    """Nodes of the graph that ONNX Runtime runs, by operator.

    Attributes:
        integer: heavy nodes (convolution, matrix product, recurrence) that compute in integers.
        floating: heavy nodes that compute in floating point.
        integer_light: other integer nodes (QLinearAdd, QLinearGlobalAveragePool …).
        conversions: remaining Quantize, Dequantize and DynamicQuantizeLinear nodes.
        floating_names: names of the heavy nodes that compute in floating point.
        unfused_names: names of the heavy nodes that dequantize an operand on every run, which is slower than FP32.
    """

    integer: dict[str, int]
    floating: dict[str, int]
    integer_light: dict[str, int]
    conversions: dict[str, int]
    floating_names: tuple[str, ...]
    unfused_names: tuple[str, ...]

    @property
    def integer_heavy(self) -> int:
        """Number of heavy nodes that compute in integers."""
        return sum(self.integer.values())

    @property
    def floating_heavy(self) -> int:
        """Number of heavy nodes that compute in floating point."""
        return sum(self.floating.values())


class HalfPrecision(Record):
    """The result of a conversion to half precision.

    Attributes:
        half_nodes: number of nodes that compute in half precision.
        kept_fp32: names of nodes that stay in FP32, each with its reason.
        casts: number of added casts.
        errors: largest error of each output, relative to its largest value; only of an engine.
    """

    half_nodes: int
    kept_fp32: dict[str, str]
    casts: int
    errors: dict[str, float] | None = None


class SparseWeight(Record):
    """The zeros of one weight.

    Attributes:
        name: name of the initializer.
        values: number of its values.
        zeros: number of its values that are zero.
        valid: whether no group of M along the input channels has more than N values that are not zero.
    """

    name: str
    values: int
    zeros: int
    valid: bool


class FileSparsity(Record):
    """The zeros of a file.

    Attributes:
        pattern: ``2:4``, another N:M, or ``unstructured``.
        zeros: share of the values of all sparse weights that are zero.
        weights: the sparse weights.
    """

    pattern: str
    zeros: float
    weights: tuple[SparseWeight, ...]


class ExportFacts(Record):
    """Facts of the export stage.

    Attributes:
        target: the target that the file is made for.
        opset: its ONNX opset.
        quantized: whether it is quantized to INT8.
        batch_invariant: false if the outputs of a sample depend on the other samples in its batch.
        nodes: number of nodes.
        size_bytes: bytes of the model and its weights.
        parity: the difference from PyTorch, per output and batch size.
        hard_inputs: the same on inputs that no set of samples has; None in older files and where activations are
            quantized at run time.
        parity_unchecked: why no shorter input was compared; empty if one was, or if only the batch axis is dynamic.
        kernels: integer and floating-point nodes that ONNX Runtime runs on a CPU; only of a quantized file in FP32.
        precision: type of a file in half precision.
        half: which nodes are in half precision; only of such a file.
        recurrent: why recurrent layers with INT8 weights use FP32 kernels, if integer ones are too inaccurate.
        sparsity: the zeros of the weights; only of a sparse program.
        parameters: number of trainable values of the program, if its manifest has them.
        macs: multiply-accumulates of the program for one sample, if its manifest has them.
    """

    target: Target
    opset: int
    quantized: bool
    batch_invariant: bool = True
    nodes: int
    size_bytes: int
    parity: tuple[ParityEntry, ...] = ()
    parity_unchecked: str = ""
    hard_inputs: tuple[HardInputs, ...] | None = None
    kernels: Kernels | None = None
    precision: Literal["fp16", "bf16"] | None = None
    half: HalfPrecision | None = None
    recurrent: str | None = None
    sparsity: FileSparsity | None = None
    parameters: int | None = None
    macs: int | None = None
