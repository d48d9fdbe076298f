"""Limits of the target's integer kernels, for which a layer stays in floating point.

The limits of ``cpu`` were measured with ONNX Runtime 1.31 on an x86-64 server with AVX-512 VNNI. The suite
:mod:`retort.benchmarks.suites.integer_kernels` measures them on another machine; with AMX they hold
(docs/benchmarks/integer_kernels.md). They only decide where the search begins: whole files are timed afterwards.

Nothing was measured on ``arm``. Its limits follow from the sources of ONNX Runtime (docs/specs/compress.md, "Arm");
where the sources do not decide, a layer stays in FP32, which is more exact.
"""

from __future__ import annotations

import math

import torch
from torch import fx

from ....core.aten_names import ATTENTION, CONVOLUTIONS, RECURRENT, RECURRENT_CELLS, TRANSPOSED, name_of
from ....core.cpu_targets import is_for_cpu
from ....core.options.stage_options import Target
from ...graph.module_edit import Shapes
from ..operator_classes import Weighted, operand

_CHANNELS_PER_GROUP = 16
_ARM_TILE = 16
_FEW_INPUTS = 4
_LITTLE_WORK = 1024
_SMALL_PRODUCT = 8192
_TWO_ACTIVATIONS = ("matmul", "bmm", "baddbmm", "addbmm", "einsum", "mm", ATTENTION)


def reason(node: fx.Node, layer: Weighted | None, target: Target, shapes: Shapes) -> str | None:
    """The reason why a node with multiply-accumulates cannot be integer on ``target``; None if it can."""
    name = name_of(node)
    if layer is None:
        return _weightless(name)
    data, weight = shapes.get(layer.data), shapes[layer.weight]
    if data is None or data[1] != torch.float32 or weight[1] != torch.float32:
        return "it does not compute in float32"
    if name in ("addmm", "mm", "matmul") and len(weight[0]) != 2:
        return "its weight is not a matrix"
    if name in CONVOLUTIONS or name in TRANSPOSED:
        if len(data[0]) != len(weight[0]):
            return "it runs without a batch axis"
        if not is_for_cpu(target):
            return _tensorrt_convolution(node, weight[0])
        return _arm_convolution(node, weight[0]) if target == "arm" else _cpu_convolution(node, weight[0])
    return _tensorrt_matrix(weight[0]) if target == "tensorrt" else None


def _weightless(name: str) -> str:
    if name in (*RECURRENT, *RECURRENT_CELLS):
        return f"there is no integer kernel for {name} with fixed scales"
    if name in _TWO_ACTIVATIONS:
        return "both of its factors are activations"
    if not name:
        return "it is in a nested graph"
    return "its weight is computed in the graph, or its operator has no integer kernel"


def slow_first_layer(node: fx.Node, weight: torch.Size, target: Target = "cpu") -> str | None:
    """The reason why a convolution of the model's inputs stays in floating point on a CPU; None if it does not.

    Speed of INT8 relative to FP32 with overlapping 3x3 windows of 3 channels, conversions included, one thread: 0.6 for
    16 output channels, 0.7 for 32, 1.0 for 64; 7x7 to 64 channels: 1.2. Gathering 27 bytes per window takes longer than
    the faster multiplications save. On ``arm`` FP32 gathers the windows too, so that it may be otherwise.
    """
    stride = operand(node, "stride")
    little = len(weight) == 4 and weight[1] <= _FEW_INPUTS and math.prod(weight) <= _LITTLE_WORK
    if not little or min(stride) >= min(weight[2:]):
        return None
    if target == "arm":
        return _unknown(f"from {weight[1]} to {weight[0]} channels", "first_layer")
    return f"ONNX Runtime's integer convolution is slower than FP32 from {weight[1]} to {weight[0]} channels"


def slow_last_layer(weight: torch.Size, target: Target = "cpu") -> str | None:
    """The reason why a linear layer with FP32 input and output ``[N, C]`` stays in FP32 on a CPU; None if it does not.

    Microseconds at batch 1 and 32, one thread, of Q, QGemm and the sum of the bias against Gemm: 64 x 64: 11.2 and 13.5
    against 9.2 and 12.3; 512 x 10: 11.3 and 18.0 against 10.2 and 17.0; 1024 x 10: 11.6 and 23.7 against 11.0 and 25.8;
    256 x 256: 15.3 and 21.7 against 13.7 and 47.4.
    """
    if math.prod(weight) > _SMALL_PRODUCT:
        return None
    if target == "arm":
        return _unknown(f"of a {weight[0]} x {weight[1]} product", "last_layer")
    return f"a {weight[0]} x {weight[1]} product takes less time in FP32 than the quantization of its input"


def _unknown(what: str, option: str) -> str:
    return f"its speed in INT8 {what} is not known on Arm, and FP32 is more exact (`{option}: int8` quantizes it)"


def _cpu_convolution(node: fx.Node, weight: torch.Size) -> str | None:
    """The reason why ONNX Runtime cannot run a convolution in integers, or runs it slower than FP32; None if neither.

    Speed of grouped convolutions in INT8 relative to FP32, one thread, by channels per group: 4: 0.2 to 0.4, 8: 0.7 to
    0.9, 16: 0.65 alone and 1.2 between integer layers, 32: 1.4; with a 1x1 kernel 8: 0.4, 16: 0.5, 32: 0.7, 80: 1.2.
    """
    if name_of(node) in TRANSPOSED:
        return "ONNX Runtime has no integer kernel for transposed convolutions"
    fewest = _CHANNELS_PER_GROUP if math.prod(weight[2:]) > 1 else 2 * _CHANNELS_PER_GROUP
    if int(operand(node, "groups")) > 1 and 1 < weight[1] < fewest:
        return f"ONNX Runtime's integer convolution is slower than FP32 with {weight[1]} channels per group"
    return None


def _arm_convolution(node: fx.Node, weight: torch.Size) -> str | None:
    """The reason why ONNX Runtime cannot run a convolution in integers on Arm, or would waste its kernels; else None.

    A grouped convolution is a product per group, and the kernels compute tiles of 16 columns (outputs of a group) from
    16 rows (its inputs, times the window). Depthwise convolutions have kernels of their own.
    """
    if name_of(node) in TRANSPOSED:
        return "ONNX Runtime has no integer kernel for transposed convolutions"
    groups = int(operand(node, "groups"))
    outputs, rows = weight[0] // groups, math.prod(weight[1:])
    if groups > 1 and weight[1] > 1 and min(outputs, rows) < _ARM_TILE:
        return f"ONNX Runtime's integer kernels for Arm compute 16 channels at a time, and a group has {outputs}"
    return None


def _tensorrt_convolution(node: fx.Node, weight: torch.Size) -> str | None:
    """The reason why TensorRT has no INT8 convolution for the channel counts (tensorrt.md 1.7); None if it has one."""
    groups = int(operand(node, "groups"))
    transposed = name_of(node) in TRANSPOSED
    outputs = weight[1] * groups if transposed else weight[0]
    inputs = weight[0] if transposed else weight[1] * groups
    if groups > 1:
        fits = outputs % 8 == 0 and min(weight[2:]) >= 3
        return (
            None
            if fits
            else "TensorRT's grouped INT8 convolutions need a multiple of 8 channels and a kernel size of 3 or more"
        )
    square = len(set(weight[2:])) == 1
    if min(inputs, outputs) >= 16 or (square and (outputs % 8 == 0 or inputs % 8 == 0) and max(inputs, outputs) >= 16):
        return None
    return f"TensorRT has no INT8 kernel for {inputs} to {outputs} channels"


def _tensorrt_matrix(weight: torch.Size) -> str | None:
    return None if min(weight) >= 16 else f"a {weight[0]} x {weight[1]} matrix is too small for TensorRT's INT8 kernels"
