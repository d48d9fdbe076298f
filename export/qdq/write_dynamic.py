"""Matrix products whose input is quantized at run time, in the form that ONNX Runtime runs fastest on a CPU.

``DynamicQuantizeLinear`` runs once per tensor, even if several products read it, followed by ``MatMulIntegerToFloat``
with the bias. ``DynamicQuantizeMatMul`` would compute the extremes again for each product.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnxscript import values

from ...core.cpu_targets import is_for_cpu
from ...core.errors import ArtifactError
from ...core.options.stage_options import Target
from ..graph_edit import (
    Numbers,
    add_constant,
    attribute,
    constant,
    every_node,
    insert_before,
    is_op,
    sole_user,
    substitute,
)
from .recurrent_weights import follow
from .write_qdq import DOMAIN

OP = "DynamicQDQ"
MICROSOFT = "com.microsoft"


def _operator() -> Any:
    """The operator that represents ``retort::dynamic_qdq`` until :func:`write_dynamic` replaces it."""
    parameter = onnx.defs.OpSchema.FormalParameter
    floats = ["tensor(float)", "tensor(float16)", "tensor(bfloat16)", "tensor(double)"]
    schema = onnx.defs.OpSchema(
        OP,
        DOMAIN,
        1,
        inputs=[parameter("x", "T")],
        outputs=[parameter("y", "T")],
        type_constraints=[("T", floats, "")],
    )
    return values.Op(values.Opset(DOMAIN, 1), OP, schema)


_OPERATOR = _operator()


def translate(x: Any) -> Any:
    """Translation of ``retort::dynamic_qdq`` for the exporter."""
    return _OPERATOR(x)


def write_dynamic(model: ir.Model, target: Target) -> tuple[ir.Model, bool]:
    """Replace every ``DynamicQDQ`` and the products that read it; runs before Q/DQ is written.

    Raises:
        ArtifactError: the target does not support this form.
    """
    found = [node for node in every_node(model) if node.domain == DOMAIN and node.op_type == OP]
    if found and not is_for_cpu(target):
        raise ArtifactError(
            f"the program quantizes activations at run time, which {target} does not support",
            "quantize it with `form: static`",
        )
    for node in found:
        _write(model, node)
    return model, bool(found)


def _write(model: ir.Model, node: ir.Node) -> None:
    opset, value = model.graph.opset_imports.get("", 21), node.outputs[0]
    codes: list[ir.Value] = []
    for use in list(value.uses()):
        weight = _weight(use.node, opset) if use.idx == 0 else None
        if weight is None:
            continue
        codes = codes or _quantized(node)
        _product(model, use.node, codes, weight)
    if value.uses() or value.is_graph_output():
        _rounded(node, codes or _quantized(node))
    elif node.graph is not None:
        node.graph.remove(node, safe=True)


def _weight(node: ir.Node, opset: int) -> tuple[Numbers, Numbers] | None:
    """Codes ``[K, N]`` and scales ``[N]`` of the right factor of a product; None if it is not a quantized constant."""
    plain = is_op(node, "MatMul") or (is_op(node, "Gemm") and attribute(node, "transA", 0) == 0 and _unscaled(node))
    found = follow(node.inputs[1], opset) if plain else None
    if found is None or found[0].ndim != 2:
        return None
    numbers, spread = (part.T for part in found) if attribute(node, "transB", 0) else found
    return (numbers, spread[0]) if bool((spread == spread[:1]).all()) else None


def _unscaled(node: ir.Node) -> bool:
    factors = [node.attributes[name].as_float() for name in ("alpha", "beta") if name in node.attributes]
    return all(factor == 1.0 for factor in factors)


def _quantized(node: ir.Node) -> list[ir.Value]:
    """Codes, scale and zero point of the input of a ``DynamicQDQ``."""
    source, base = node.inputs[0], node.outputs[0].name or "value"
    made = ir.Node("", "DynamicQuantizeLinear", [source], num_outputs=3, name=f"node_{base}_codes")
    kinds = (ir.DataType.UINT8, ir.DataType.FLOAT, ir.DataType.UINT8)
    shapes = (None if source is None else source.shape, ir.Shape([]), ir.Shape([]))
    for output, part, kind, shape in zip(made.outputs, ("codes", "scale", "zero_point"), kinds, shapes):
        output.name, output.type, output.shape = f"{base}_{part}", ir.TensorType(kind), shape
    assert node.graph is not None
    node.graph.insert_before(node, made)
    return list(made.outputs)


def _product(model: ir.Model, node: ir.Node, codes: list[ir.Value], weight: tuple[Numbers, Numbers]) -> None:
    numbers, scales = weight
    last, bias = _bias(node, numbers.shape[1])
    old = last.outputs[0]
    base = old.name or "product"
    stored = [
        add_constant(model, f"{base}_weight_quantized", np.ascontiguousarray(numbers)),
        add_constant(model, f"{base}_weight_scale", np.ascontiguousarray(scales, dtype=np.float32)),
    ]
    inputs = [codes[0], stored[0], codes[1], stored[1], codes[2], None, bias]
    output = ir.Value(name=base, shape=old.shape, type=old.type)
    fresh = ir.Node(MICROSOFT, "MatMulIntegerToFloat", inputs, outputs=[output], name=f"node_{base}")
    assert last.graph is not None
    last.graph.insert_before(last, fresh)
    ir.convenience.replace_all_uses_with(old, output, replace_graph_outputs=True)
    for item in dict.fromkeys((last, node)):
        assert item.graph is not None
        item.graph.remove(item, safe=True)
    model.graph.opset_imports[MICROSOFT] = 1


def _bias(node: ir.Node, columns: int) -> tuple[ir.Node, ir.Value | None]:
    """The last node of a product and its bias: a Gemm has its own bias, a MatMul is followed by an Add."""
    if is_op(node, "Gemm"):
        return node, node.inputs[2] if len(node.inputs) > 2 else None
    reader = sole_user(node.outputs[0])
    if reader is not None and is_op(reader, "Add"):
        other = next((value for value in reader.inputs if value is not node.outputs[0]), None)
        array = constant(other)
        if array is not None and array.shape == (columns,):
            return reader, other
    return node, None


def _rounded(node: ir.Node, codes: list[ir.Value]) -> None:
    """The dequantized values, for readers that are not products."""
    value = node.outputs[0]
    name = f"{value.name}_rounded"
    substitute(value, insert_before(node, "DequantizeLinear", codes, {}, name, value.shape, value.dtype))
