"""Inspection of an ONNX file: quantized tensors on samples, axes of weight scales, and weights by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from ...core.backends.ort import CPU, exact_settings, start_session
from ...core.counts import counted
from ...core.metrics.relative_error import error_by_largest
from ...core.tensors import Array, Feeds
from .tensor_symptoms import Finding, Seen, seen

_RANGES = {"uint8": (0, 255), "int8": (-128, 127)}
_LEAST_MATCH = 1e-3


def _constants(model: onnx.ModelProto) -> dict[str, Array]:
    values = {item.name: numpy_helper.to_array(item) for item in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            values[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
    return values


def is_quantized(path: Path) -> bool:
    """Whether a file has QuantizeLinear nodes."""
    return any(node.op_type == "QuantizeLinear" for node in onnx.load(str(path)).graph.node)


def tensors_of(path: Path, feeds: Feeds) -> list[Seen]:
    """All quantized activations on samples, computed with all activations in floating point."""
    import onnxruntime as ort

    model = onnx.load(str(path))
    constants = _constants(model)
    writers = {name: node for node in model.graph.node for name in node.output}
    quantizers = [node for node in model.graph.node if node.op_type == "QuantizeLinear"]
    sources = list(dict.fromkeys(_origin(node.input[0], writers) for node in quantizers))
    _bypass(model, quantizers)
    inputs = {item.name for item in model.graph.input}
    known = {item.name for item in model.graph.output}
    model.graph.output.extend(
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
        for name in sources
        if name not in inputs | known
    )
    session = start_session(ort, model.SerializeToString(), exact_settings(ort), [CPU])
    names = [name for name in sources if name not in inputs]
    values = dict(zip(names, session.run(names, dict(feeds)), strict=True)) | {name: feeds[name] for name in inputs}
    found = []
    for node in quantizers:
        name = _origin(node.input[0], writers)
        scale, zero = constants.get(node.input[1]), constants.get(node.input[2]) if len(node.input) > 2 else None
        if name in values and scale is not None and scale.size == 1 and np.ndim(values[name]) > 0:
            kind = "uint8" if zero is None else zero.dtype.name
            shift = 0.0 if zero is None else float(zero.reshape(-1)[0])
            op = writers[name].op_type.lower() if name in writers else ""
            found.append(seen(name, op, values[name], float(scale.reshape(-1)[0]), shift, _RANGES[kind]))
    return found


def _origin(name: str, writers: dict[str, onnx.NodeProto]) -> str:
    """The tensor before a chain of Q and DQ nodes."""
    while name in writers and writers[name].op_type in ("QuantizeLinear", "DequantizeLinear"):
        name = writers[name].input[0]
    return name


def _bypass(model: onnx.ModelProto, quantizers: list[onnx.NodeProto]) -> None:
    """Make readers of a dequantized activation read the original value; readers of codes are not changed."""
    coded = {node.output[0]: node.input[0] for node in quantizers}
    plain = {
        node.output[0]: coded[node.input[0]]
        for node in model.graph.node
        if node.op_type == "DequantizeLinear" and node.input[0] in coded
    }
    for node in model.graph.node:
        for place, name in enumerate(node.input):
            while name in plain:
                name = plain[name]
            node.input[place] = name
    outputs = {item.name for item in model.graph.output}
    for name in outputs & set(plain):
        model.graph.node.append(onnx.helper.make_node("Identity", [plain[name]], [f"{name}"]))
    rest = [node for node in model.graph.node if not (node.op_type == "DequantizeLinear" and node.output[0] in plain)]
    read = {name for node in rest for name in node.input} | outputs
    kept = [node for node in rest if not (node.op_type == "QuantizeLinear" and node.output[0] not in read)]
    del model.graph.node[:]
    model.graph.node.extend(kept)


def structure_faults(path: Path) -> list[Finding]:
    """Weights whose scales are along the wrong axis, and scales that differ between a Q and its DQ."""
    model = onnx.load(str(path))
    constants = _constants(model)
    writers = {name: node for node in model.graph.node for name in node.output}
    found = []
    for node in model.graph.node:
        for place, name in enumerate(node.input):
            source = writers.get(name)
            if source is None or source.op_type != "DequantizeLinear":
                continue
            if place == 1 and source.input[0] in constants:
                found += _axis(node, source, constants)
            elif source.input[0] in writers and writers[source.input[0]].op_type == "QuantizeLinear":
                found += _grids(node, writers[source.input[0]], source, constants)
    return list(dict.fromkeys(found))


def _axis(node: onnx.NodeProto, source: onnx.NodeProto, constants: dict[str, Array]) -> list[Finding]:
    weight, scale = constants[source.input[0]], constants.get(source.input[1])
    if scale is None or scale.size == 1:
        return []
    axis = next((item.i for item in source.attribute if item.name == "axis"), 1) % weight.ndim
    transposed = any(item.name == "transB" and item.i for item in node.attribute)
    wanted = {"Conv": 0, "ConvTranspose": 1, "Gemm": 0 if transposed else 1, "MatMul": weight.ndim - 1}
    right = wanted.get(node.op_type)
    if right is None or axis == right:
        return []
    scales = counted(scale.size, "scale")
    detail = f"{scales} along axis {axis} of {list(weight.shape)}; its output channels are on axis {right}"
    return [Finding("weight axis", node.name or node.output[0], detail)]


def _grids(
    node: onnx.NodeProto, quantizer: onnx.NodeProto, source: onnx.NodeProto, constants: dict[str, Array]
) -> list[Finding]:
    pairs = [
        tuple(constants.get(item.input[place]) if len(item.input) > place else None for item in (quantizer, source))
        for place in (1, 2)
    ]
    for (one, other), word in zip(pairs, ("scale", "zero point")):
        if one is not None and other is not None and not np.array_equal(one, other):
            detail = f"{word} {one.reshape(-1)[0]} in QuantizeLinear, {other.reshape(-1)[0]} in DequantizeLinear"
            return [Finding("zero point", quantizer.input[0] or node.name, detail)]
    return []


def weight_faults(path: Path, parameters: dict[str, Array]) -> list[Finding]:
    """Weights of the file that have another order than in the program, or other values.

    Args:
        parameters: the parameters of the program, by name.
    """
    found = []
    for name, values in _constants(onnx.load(str(path))).items():
        own = parameters.get(name)
        if own is None or own.shape != values.shape or values.dtype.kind != "f" or np.allclose(own, values, atol=1e-4):
            continue
        axis = next((axis for axis in range(own.ndim) if _permuted(own, values, axis)), None)
        if axis is not None:
            found.append(Finding("swapped channels", name, f"axis {axis} has another order than in the program"))
        else:
            found.append(Finding("other weights", name, "its values differ from the program's"))
    return found


def _permuted(one: Array, other: Array, axis: int) -> bool:
    if one.shape[axis] < 2:
        return False
    rows = [np.moveaxis(item, axis, 0).reshape(item.shape[axis], -1).astype(np.float64) for item in (one, other)]
    ordered = [item[np.lexsort(item.T[::-1])] for item in rows]
    return error_by_largest(ordered[0], ordered[1], least=1e-12) <= _LEAST_MATCH
