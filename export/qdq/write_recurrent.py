"""LSTM, GRU and RNN nodes with INT8 weights, in the forms that ONNX Runtime runs fastest on a CPU.

* LSTM: ``com.microsoft.DynamicQuantizeLSTM``, one scale per gate row. It computes the scale of its input from the whole
  batch, and that of its state from the whole batch at every step, so rows depend on each other.
* GRU: ONNX Runtime has no integer kernel. A ``Scan`` around ``DynamicQuantizeMatMul`` is faster than FP32 in wide
  layers.
* All others keep their FP32 kernel and have INT8 weights in the file. ``Cast`` and ``Mul`` unpack them and are folded
  when the file is loaded. ``DequantizeLinear`` would not be folded and would run every time (GRU: 0.80 to 0.97 times
  as fast as FP32).
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from ...core.dynamic_kernels import RecurrentForm, runs_in_integers
from ..graph_edit import Numbers, add_constant, attribute, every_node, insert_before, is_op
from .gru_scan import write_gru
from .recurrent_weights import Codes, codes_of
from .write_qdq import has_qdq

MICROSOFT = "com.microsoft"
KINDS = ("LSTM", "GRU", "RNN")
_LENGTHS, _PEEPHOLES = 4, 7


def write_recurrent(model: ir.Model, form: RecurrentForm = "auto") -> tuple[ir.Model, bool]:
    """Write recurrent nodes whose weights are fake-quantized; runs before Q/DQ is written.

    Args:
        form: ``auto`` uses integer kernels where they are not slower than FP32 at batch 1.
    """
    opset, changed = model.graph.opset_imports.get("", 21), False
    for node in every_node(model) if has_qdq(model) else ():
        if not is_op(node, *KINDS):
            continue
        weights = [codes_of(value, opset) for value in node.inputs[1:3]]
        if weights[0] is None or weights[1] is None:
            continue
        _write(model, node, (weights[0], weights[1]), form)
        changed = True
    return model, changed


def unpack_recurrent(model: ir.Model) -> tuple[ir.Model, bool]:
    """Write fake-quantized weights of recurrent nodes as the FP32 values of their codes, for other targets."""
    opset, changed = model.graph.opset_imports.get("", 21), False
    for node in every_node(model) if has_qdq(model) else ():
        for place in (1, 2) if is_op(node, *KINDS) else ():
            codes, old = codes_of(node.inputs[place], opset), node.inputs[place]
            if codes is not None and old is not None:
                numbers = codes.values.astype(np.float32) * codes.scales[:, :, None]
                node.replace_input_with(place, add_constant(model, f"{old.name}_rounded", numbers))
                changed = True
    return model, changed


def _write(model: ir.Model, node: ir.Node, weights: tuple[Codes, Codes], form: RecurrentForm) -> None:
    hidden = weights[1].values.shape[2]
    if runs_in_integers(node.op_type.lower(), hidden, form) and _plain(node):
        model.graph.opset_imports[MICROSOFT] = 1
        (_write_lstm if node.op_type == "LSTM" else write_gru)(model, node, *weights)
        return
    for place, codes in zip((1, 2), weights):
        node.replace_input_with(place, _unpacked(model, node, place, codes))


def _plain(node: ir.Node) -> bool:
    """Whether PyTorch's layers can produce this node: no lengths, peepholes, clipping or other activations."""
    given = {place for place, value in enumerate(node.inputs) if value is not None}
    odd = set(node.attributes) & {"activations", "activation_alpha", "activation_beta", "clip"}
    odd |= {name for name in ("layout", "input_forget") if attribute(node, name, 0)}
    gates = node.op_type != "GRU" or attribute(node, "linear_before_reset", 0) == 1
    return gates and not odd and not given & {_LENGTHS, _PEEPHOLES}


def _write_lstm(model: ir.Model, node: ir.Node, inputs: Codes, recurrent: Codes) -> None:
    stored: list[ir.Value] = []
    grids: list[ir.Value] = []
    for place, codes in ((1, inputs), (2, recurrent)):
        base = _base(node, place)
        stored.append(add_constant(model, f"{base}_quantized", np.ascontiguousarray(codes.values.transpose(0, 2, 1))))
        zeros: Numbers = np.zeros(codes.scales.shape, np.int8)
        grids += [
            add_constant(model, f"{base}_scale", codes.scales),
            add_constant(model, f"{base}_zero_point", zeros),
        ]
    rest = [*node.inputs[3:], None, None, None, None][:5]
    outputs = [ir.Value(name=old.name, shape=old.shape, type=old.type) for old in node.outputs]
    attributes = [item for name, item in node.attributes.items() if name != "layout"]
    fresh = ir.Node(
        MICROSOFT,
        "DynamicQuantizeLSTM",
        [node.inputs[0], *stored, *rest, *grids],
        attributes,
        outputs=outputs,
        name=node.name,
    )
    assert node.graph is not None
    node.graph.insert_before(node, fresh)
    for old, new in zip(node.outputs, outputs):
        ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
    node.graph.remove(node, safe=True)


def _unpacked(model: ir.Model, node: ir.Node, place: int, codes: Codes) -> ir.Value:
    """``Mul(Cast(codes), scales)``, with the shape and type of the weight that it replaces."""
    base, shape = _base(node, place), ir.Shape(codes.values.shape)
    stored = add_constant(model, f"{base}_quantized", codes.values)
    scales = add_constant(model, f"{base}_scale", codes.scales[:, :, None])
    kind = ir.DataType.FLOAT
    numbers = insert_before(node, "Cast", [stored], {"to": int(kind)}, f"{base}_numbers", shape, kind)
    return insert_before(node, "Mul", [numbers, scales], {}, f"{base}_unpacked", shape, kind)


def _base(node: ir.Node, place: int) -> str:
    name = node.outputs[0].name or node.op_type.lower()
    return f"{name}_{'inputs' if place == 1 else 'states'}"
