"""A GRU in integers: a ``Scan`` over time with ``DynamicQuantizeMatMul``, after the products with all inputs.

``z, r = σ(x W + h R + b)``, ``n = tanh(x W + b + r · (h R + b))``, ``h' = n + z · (h - n)``: the reset gate is applied
after the product, as in PyTorch and cuDNN (ONNX ``linear_before_reset``).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from ..graph_edit import Numbers, add_constant, constant, insert_before
from .recurrent_weights import Codes

_FLOAT = ir.DataType.FLOAT
_STATE = 5


def write_gru(model: ir.Model, node: ir.Node, inputs: Codes, recurrent: Codes) -> None:
    """Replace a GRU node whose weights are INT8."""
    base, (ways, _, hidden) = node.outputs[0].name or "gru", recurrent.values.shape
    biases = _biases(node, ways, hidden)
    steps, lasts = [], []
    for way in range(ways):
        stem = f"{base}_{way}" if ways > 1 else base
        product = _product(
            model, node, node.inputs[0], (inputs.values[way], inputs.scales[way]), biases[0][way], f"{stem}_inputs"
        )
        sizes = add_constant(model, f"{stem}_gates", np.asarray([2 * hidden, hidden], np.int64))
        parts = _call("Split", [product, sizes], {"axis": 2}, [f"{stem}_zr", f"{stem}_n"])
        assert node.graph is not None
        node.graph.insert_before(node, parts)
        state = _state(model, node, way, hidden, stem)
        loop = _scan(model, node, state, parts.outputs, recurrent, biases[1][way], way, sizes, stem)
        steps.append(_unsqueeze(model, node, loop.outputs[1], 1, f"{stem}_steps"))
        lasts.append(_unsqueeze(model, node, loop.outputs[0], 0, f"{stem}_last"))
    results = [_joined(node, steps, 1, f"{base}_all"), _joined(node, lasts, 0, f"{base}_ends")]
    for old, new in zip(node.outputs, results):
        new.shape, new.type = old.shape, old.type
        ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
    assert node.graph is not None
    node.graph.remove(node, safe=True)


def _biases(node: ir.Node, ways: int, hidden: int) -> tuple[Numbers, Numbers]:
    """The biases of the products with inputs and with states, ``[D, 3H]`` each.

    All parts except the state's bias of ``n`` are added to the first product.
    """
    given = constant(node.inputs[3]) if len(node.inputs) > 3 else None
    both = np.zeros((ways, 6 * hidden), np.float32) if given is None else given.astype(np.float32)
    first, second = both[:, : 3 * hidden].copy(), both[:, 3 * hidden :].copy()
    first[:, : 2 * hidden] += second[:, : 2 * hidden]
    second[:, : 2 * hidden] = 0
    return first, second


def _product(
    model: ir.Model,
    place: ir.Node,
    data: ir.Value | None,
    codes: tuple[Numbers, Numbers],
    bias: Numbers,
    base: str,
) -> ir.Value:
    """``data`` times an INT8 matrix ``[outputs, inputs]``; the scale of ``data`` is computed from its extremes."""
    node = ir.Node("com.microsoft", "DynamicQuantizeMatMul", [data, *_matrix(model, codes, bias, base)], num_outputs=1)
    node.outputs[0].name, node.outputs[0].type = base, ir.TensorType(_FLOAT)
    assert place.graph is not None
    place.graph.insert_before(place, node)
    return node.outputs[0]


def _matrix(model: ir.Model, codes: tuple[Numbers, Numbers], bias: Numbers, base: str) -> list[ir.Value]:
    values, scales = codes
    return [
        add_constant(model, f"{base}_quantized", np.ascontiguousarray(values.T)),
        add_constant(model, f"{base}_scale", scales),
        add_constant(model, f"{base}_zero_point", np.zeros(scales.shape, np.int8)),
        add_constant(model, f"{base}_bias", bias),
    ]


def _state(model: ir.Model, node: ir.Node, way: int, hidden: int, base: str) -> ir.Value:
    """The first state of one direction, ``[N, H]``."""
    given = node.inputs[_STATE] if len(node.inputs) > _STATE else None
    if given is not None:
        index = add_constant(model, f"{base}_way", np.asarray(way, np.int64))
        return insert_before(node, "Gather", [given, index], {"axis": 0}, f"{base}_state", None, _FLOAT)
    rows = insert_before(
        node, "Shape", [node.inputs[0]], {"start": 1, "end": 2}, f"{base}_rows", None, ir.DataType.INT64
    )
    width = add_constant(model, f"{base}_width", np.asarray([hidden], np.int64))
    size = insert_before(node, "Concat", [rows, width], {"axis": 0}, f"{base}_size", None, ir.DataType.INT64)
    zero = add_constant(model, f"{base}_zero", np.zeros(1, np.float32))
    return insert_before(node, "Expand", [zero, size], {}, f"{base}_state", None, _FLOAT)


def _scan(
    model: ir.Model,
    node: ir.Node,
    state: ir.Value,
    series: Sequence[ir.Value],
    recurrent: Codes,
    bias: Numbers,
    way: int,
    sizes: ir.Value,
    base: str,
) -> ir.Node:
    matrix = _matrix(model, (recurrent.values[way], recurrent.scales[way]), bias, f"{base}_states")
    body = _body(matrix, sizes, base, recurrent.values.shape[2])
    attributes: dict[str, int | list[int]] = {
        "num_scan_inputs": len(series),
        "scan_input_directions": [way] * len(series),
        "scan_output_directions": [way],
    }
    made = [*ir.convenience.convert_attributes(attributes), ir.AttrGraph("body", body)]
    loop = ir.Node("", "Scan", [state, *series], made, num_outputs=2, name=f"node_{base}_scan")
    for output, name in zip(loop.outputs, (f"{base}_end", f"{base}_each")):
        output.name, output.type = name, ir.TensorType(_FLOAT)
    assert node.graph is not None
    node.graph.insert_before(node, loop)
    return loop


def _body(matrix: Sequence[ir.Value], sizes: ir.Value, base: str, hidden: int) -> ir.Graph:
    """One time step: computes the next state from the state and the gates' products with the inputs."""
    kind = ir.TensorType(_FLOAT)
    before, gates, fresh = (
        ir.Value(name=f"{base}_{name}", shape=ir.Shape([None, width]), type=kind)
        for name, width in (("h", hidden), ("x_zr", 2 * hidden), ("x_n", hidden))
    )
    product = ir.Node("com.microsoft", "DynamicQuantizeMatMul", [before, *matrix], num_outputs=1)
    product.outputs[0].name = f"{base}_product"
    parts = _call("Split", [product.outputs[0], sizes], {"axis": 1}, [f"{base}_h_zr", f"{base}_h_n"])
    nodes = [product, parts]

    def _then(op: str, *inputs: ir.Value) -> ir.Value:
        nodes.append(_call(op, inputs, {}, [f"{base}_step{len(nodes)}"]))
        return nodes[-1].outputs[0]

    both = _then("Sigmoid", _then("Add", gates, parts.outputs[0]))
    nodes.append(_call("Split", [both], {"axis": 1, "num_outputs": 2}, [f"{base}_z", f"{base}_r"]))
    update, reset = nodes[-1].outputs
    new = _then("Tanh", _then("Add", fresh, _then("Mul", reset, parts.outputs[1])))
    after = _then("Add", new, _then("Mul", update, _then("Sub", before, new)))
    copied = _then("Identity", after)
    for value in (after, copied):
        value.shape, value.type = ir.Shape([None, hidden]), kind
    return ir.Graph([before, gates, fresh], [after, copied], nodes=nodes, name=f"{base}_body")


def _call(op: str, inputs: Sequence[ir.Value], attributes: dict[str, int], names: Sequence[str]) -> ir.Node:
    node = ir.Node("", op, inputs, ir.convenience.convert_attributes(attributes), num_outputs=len(names))
    for output, name in zip(node.outputs, names):
        output.name, output.type = name, ir.TensorType(_FLOAT)
    return node


def _unsqueeze(model: ir.Model, place: ir.Node, value: ir.Value, axis: int, name: str) -> ir.Value:
    axes = add_constant(model, f"{name}_axis", np.asarray([axis], np.int64))
    return insert_before(place, "Unsqueeze", [value, axes], {}, name, None, _FLOAT)


def _joined(place: ir.Node, parts: Sequence[ir.Value], axis: int, name: str) -> ir.Value:
    if len(parts) == 1:
        return parts[0]
    return insert_before(place, "Concat", parts, {"axis": axis}, name, None, _FLOAT)
