"""Rules about quantization, Q01 to Q20 (tensorrt.md 1.7), including faults that NVIDIA's parser does not report."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import onnx
from onnx import TensorProto

from ...core.counts import counted
from .graph_view import (
    DEQUANTIZE,
    HEAVY,
    QUANTIZE,
    WEIGHT_AXIS,
    Finding,
    View,
    attribute,
    finding,
    type_name,
)

Rule = Callable[[View], Iterator[Finding]]
FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16)
_FP8 = (TensorProto.FLOAT8E4M3FN,)
_BITS = (TensorProto.INT8, TensorProto.UINT8, TensorProto.INT4, TensorProto.FLOAT4E2M1, *_FP8)
_NEEDS: dict[int, int] = {TensorProto.FLOAT16: 19, TensorProto.BFLOAT16: 19}


def q01_zero_point_zero(view: View) -> Iterator[Finding]:
    """Q01: zero points are 0."""
    for node in view.pairs():
        zero = view.array(node, 2)
        if zero is not None and np.any(zero.astype(np.float32)):
            yield finding("Q01", node, "has a zero point other than 0", "quantize symmetrically")


def q02_no_uint8(view: View) -> Iterator[Finding]:
    """Q02: nothing is quantized to UINT8, which the parser reads as INT8."""
    for node in view.pairs():
        if TensorProto.UINT8 not in (view.stored_type(node, 2), _data_type(view, node), _output_type(node)):
            continue
        # codes that are stored as UINT8 are rejected; computed codes are read as INT8
        verdict = "reject" if view.stored_type(node, 0) == TensorProto.UINT8 else "silent"
        yield finding("Q02", node, "quantizes to UINT8", "export with --target tensorrt", verdict)  # type: ignore[arg-type]


def q03_zero_point_present(view: View) -> Iterator[Finding]:
    """Q03: a QuantizeLinear states its type; without it, the type is UINT8 in ONNX and INT8 for the parser."""
    for node in view.pairs():
        given = len(node.input) > 2 and node.input[2] != ""
        stated = _output_type(node) or (node.op_type == DEQUANTIZE and _codes_have_type(view, node))
        if not given and not stated:
            message = "has no zero point, so its type is ambiguous"
            yield finding("Q03", node, message, "give an INT8 zero point", "silent")


def q04_scale_positive(view: View) -> Iterator[Finding]:
    """Q04: scales are positive and finite; the parser accepts an infinite scale, which sets the tensor to zero."""
    for node in view.pairs():
        scale = view.array(node, 1)
        if scale is None:
            continue
        values = scale.astype(np.float32)
        if not (values > 0).all():
            yield finding("Q04", node, "has a scale that is not positive", "calibrate again")
        elif not np.isfinite(values).all():
            yield finding("Q04", node, "has an infinite scale", "calibrate again", "silent")


def q05_activation_per_tensor(view: View) -> Iterator[Finding]:
    """Q05: activations have one scale."""
    for node in view.pairs():
        scale = view.array(node, 1)
        if scale is not None and scale.size > 1 and not holds_weight(view, node):
            yield finding("Q05", node, f"quantizes an activation with {scale.size} scales", "use one scale", "silent")
            axis, shape = _axis(node), view.shape_of(node.input[0])
            size = shape[axis] if shape is not None and -len(shape) <= axis < len(shape) else None
            if size is not None and size != scale.size:
                yield finding("Q05", node, f"has {scale.size} scales for {counted(size, 'channel')}", "use one scale")


def q06_weight_axis(view: View) -> Iterator[Finding]:
    """Q06: a weight's scales lie along its output channels."""
    for node in view.pairs():
        scale = view.array(node, 1)
        if scale is None or scale.ndim == 0 or not holds_weight(view, node):
            continue
        blocked = attribute(node, "block_size", 0) > 0
        shape = _weight_shape(view, node)
        if scale.ndim > 1 and not blocked:
            verdict = "silent" if _fits_blocks(scale.shape, shape, _axis(node)) else "reject"
            message = f"has scales of rank {scale.ndim}"
            yield finding("Q06", node, message, "use one scale per output channel", verdict)  # type: ignore[arg-type]
            continue
        axis = _axis(node) % max(len(shape), 1)
        if scale.size > 1 and shape and not blocked and shape[axis] != scale.size:
            message = f"has {counted(scale.size, 'scale')} along axis {axis}, which has size {shape[axis]}"
            yield finding("Q06", node, message, "use one scale per output channel")
            continue
        if node.op_type == DEQUANTIZE and scale.size > 1 and not blocked:
            yield from _wrong_axis(view, node, axis, len(shape))


def _wrong_axis(view: View, node: onnx.NodeProto, axis: int, rank: int) -> Iterator[Finding]:
    for user, index in view.readers.get(node.output[0], []):
        expected = output_axis(user, index, rank)
        if expected is not None and axis != expected:
            message = f"has its scales along axis {axis}, but {user.op_type} needs them along axis {expected}"
            yield finding("Q06", node, message, "quantize the weight per output channel", "silent")


def q07_bias_not_integer(view: View) -> Iterator[Finding]:
    """Q07 and Q08: biases stay in floating point; INT32 biases are rejected, INT8 biases lose accuracy."""
    for node in view.pairs():
        if node.op_type != DEQUANTIZE:
            continue
        readers = view.readers.get(node.output[0], [])
        if _data_type(view, node) == TensorProto.INT32:
            yield finding("Q07", node, "dequantizes INT32 codes", "keep the bias in FP32")
        elif any(user.op_type in HEAVY and index == 2 for user, index in readers):
            yield finding("Q08", node, "dequantizes a bias", "keep the bias in floating point", "silent")


def q09_weight_stored_as_codes(view: View) -> Iterator[Finding]:
    """Q09: a weight is stored as INT8; FP32 with a QuantizeLinear makes the file 3.5 times larger."""
    for node in view.pairs():
        if node.op_type == QUANTIZE and view.is_constant(node.input[0]):
            yield finding("Q09", node, "quantizes a constant at run time", "store its INT8 codes", "advice")


def q10_scale_constant(view: View) -> Iterator[Finding]:
    """Q10: scales and zero points are constants; the parser accepts computed ones, but the build of a plan fails."""
    for node in view.pairs():
        lacking = [i for i in (1, 2) if i < len(node.input) and node.input[i] and not view.is_constant(node.input[i])]
        if not lacking:
            continue
        named = "scale" if 1 in lacking else "zero point"
        refused = node.input[lacking[0]] in {value.name for value in view.graph.input} and named == "zero point"
        verdict = "reject" if refused else "silent"
        yield finding("Q10", node, f"has a computed {named}", "make it an initializer", verdict)  # type: ignore[arg-type]


def q11_equal_volumes(view: View) -> Iterator[Finding]:
    """Q11: a zero point has as many values as its scale."""
    for node in view.pairs():
        scale, zero = view.array(node, 1), view.array(node, 2)
        if scale is not None and zero is not None and scale.size != zero.size:
            message = f"has {counted(scale.size, 'scale')} and {zero.size} zero points"
            yield finding("Q11", node, message, "give each scale one zero point")


def q13_eight_bits(view: View) -> Iterator[Finding]:
    """Q13: quantized types have 8 bits or less."""
    for node in view.pairs():
        kind = view.stored_type(node, 2) or _output_type(node)
        if kind and kind not in _BITS and kind != TensorProto.INT32:
            yield finding("Q13", node, f"quantizes to {type_name(kind)}", "quantize to INT8")


def q14_standard_domain(view: View) -> Iterator[Finding]:
    """Q14: Q/DQ nodes are in the domain of ONNX, not in com.microsoft."""
    for node in view.pairs():
        if node.domain not in ("", "ai.onnx"):
            yield finding("Q14", node, f"is in the domain {node.domain}", "write it in the domain of ONNX", "advice")


def q15_opset(view: View) -> Iterator[Finding]:
    """Q15: the opset supports the graph: 13 for scales per channel, 19 for FP16 scales, 21 for INT4 and blocks."""
    if 0 < view.opset < 9:
        first = view.graph.node[0] if view.graph.node else onnx.NodeProto(name="graph")
        message = (
            f"opset {view.opset} is older than the oldest opset that the parser supports (9), although it accepts the "
            "file"
        )
        yield finding("Q15", first, message, "export with opset 18 or later", "silent")
    for node in view.pairs():
        needed = max(_NEEDS.get(view.stored_type(node, 1), 10), 13 if _scales(view, node) > 1 else 10)
        small = view.stored_type(node, 2) or view.stored_type(node, 0)
        if small in (TensorProto.INT4, TensorProto.UINT4) or attribute(node, "block_size", 0):
            needed = 21
        if node.domain in ("", "ai.onnx") and view.opset < needed:
            message = f"needs opset {needed}, but the file has opset {view.opset}"
            yield finding("Q15", node, message, f"export with opset {needed} or later", "silent")


def q16_scale_type(view: View) -> Iterator[Finding]:
    """Q16: a scale has the type of the data: the output of a DequantizeLinear has the type of its scale."""
    for node in view.pairs():
        scale = view.stored_type(node, 1)
        data = view.type_of(node.input[0]) if node.op_type == QUANTIZE else 0
        if scale and data in FLOATS and scale != data:
            message = f"quantizes {type_name(data)} with an {type_name(scale)} scale"
            yield finding("Q16", node, message, f"store the scale in {type_name(data)}", "silent")
        if node.op_type == QUANTIZE and data and data not in FLOATS and data != TensorProto.DOUBLE:
            yield finding("Q16", node, f"quantizes {type_name(data)}", "quantize floating-point data")


def q18_narrow_weights(view: View) -> Iterator[Finding]:
    """Q18: weights are in -127 … 127, so that no runtime's multiplication saturates."""
    for node in view.pairs():
        if node.op_type != DEQUANTIZE or view.stored_type(node, 0) != TensorProto.INT8:
            continue
        codes = view.array(node, 0)
        if codes is not None and codes.size and int(codes.min()) == -128:
            yield finding("Q18", node, "contains the code -128", "quantize weights to -127 … 127", "advice")


def q19_one_quantize(view: View) -> Iterator[Finding]:
    """Q19: a tensor is quantized once; its DequantizeLinear may have many readers."""
    for name, readers in view.readers.items():
        takers = [node for node, index in readers if node.op_type == QUANTIZE and index == 0]
        for extra in takers[1:]:
            message = f"quantizes '{name}' a second time"
            yield finding("Q19", extra, message, "let the readers share one QuantizeLinear", "advice")


def q20_no_scalars(view: View) -> Iterator[Finding]:
    """Q20: scalars are not quantized."""
    for node in view.pairs():
        if view.shape_of(node.input[0]) == ():
            yield finding("Q20", node, "quantizes a scalar", "leave scalars in floating point", "silent")


RULES: tuple[Rule, ...] = (
    q01_zero_point_zero,
    q02_no_uint8,
    q03_zero_point_present,
    q04_scale_positive,
    q05_activation_per_tensor,
    q06_weight_axis,
    q07_bias_not_integer,
    q09_weight_stored_as_codes,
    q10_scale_constant,
    q11_equal_volumes,
    q13_eight_bits,
    q14_standard_domain,
    q15_opset,
    q16_scale_type,
    q18_narrow_weights,
    q19_one_quantize,
    q20_no_scalars,
)


def holds_weight(view: View, node: onnx.NodeProto) -> bool:
    """Whether the data is a constant, directly or through a QuantizeLinear of one."""
    producer = view.producer.get(node.input[0])
    quantized = producer is not None and producer.op_type == QUANTIZE and view.is_constant(producer.input[0])
    return view.is_constant(node.input[0]) or quantized


def output_axis(user: onnx.NodeProto, index: int, rank: int) -> int | None:
    """The axis of a weight that holds the output channels of its reader; None when it reads no weight there."""
    if user.op_type in WEIGHT_AXIS and index == 1:
        return WEIGHT_AXIS[user.op_type]
    if user.op_type == "Gemm" and index == 1:
        return 0 if attribute(user, "transB", 0) else 1
    return rank - 1 if user.op_type == "MatMul" and index == 1 else None


def _fits_blocks(scales: tuple[int, ...], shape: tuple[int, ...], axis: int) -> bool:
    """Whether the parser reads scales of rank 2 as scales of blocks along the axis."""
    if len(scales) != 2 or len(shape) != 2:
        return False
    along = axis % 2
    return scales[1 - along] == shape[1 - along] and shape[along] % scales[along] == 0


def _axis(node: onnx.NodeProto) -> int:
    return attribute(node, "axis", 1)


def _output_type(node: onnx.NodeProto) -> int:
    return attribute(node, "output_dtype", 0) if node.op_type == QUANTIZE else 0


def _scales(view: View, node: onnx.NodeProto) -> int:
    scale = view.array(node, 1)
    return 0 if scale is None else scale.size


def _codes_have_type(view: View, node: onnx.NodeProto) -> bool:
    """Whether the codes that a DequantizeLinear reads have a type that the file states."""
    producer = view.producer.get(node.input[0])
    if producer is not None and producer.op_type == QUANTIZE:
        return bool(_output_type(producer) or (len(producer.input) > 2 and producer.input[2]))
    return view.type_of(node.input[0]) != 0


def _data_type(view: View, node: onnx.NodeProto) -> int:
    return view.type_of(node.input[0]) if node.op_type == DEQUANTIZE else 0


def _weight_shape(view: View, node: onnx.NodeProto) -> tuple[int, ...]:
    name = node.input[0]
    if name not in view.stored:
        name = view.producer[name].input[0]
    return tuple(view.stored[name].dims)
