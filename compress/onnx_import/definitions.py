"""Operators of ONNX that are defined by others: such a node is replaced by its definition, a function of its schema."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import onnx
from onnx import helper, inliner

from ...core.formats.onnx_graphs import all_nodes, bodies

_DOMAIN = "retort.definitions"
_ROUNDS = 4


def define_unknown(model: onnx.ModelProto, known: Collection[str]) -> onnx.ModelProto:
    """Replace every operator that is not among ``known`` and has a definition, also inside definitions."""
    for _ in range(_ROUNDS):
        types = _types(model)
        made = [
            function
            for node in all_nodes(model.graph)
            if node.op_type not in known and (function := _definition(node, model, types)) is not None
        ]
        if not made:
            break
        model.functions.extend(made)
        model.opset_import.append(helper.make_opsetid(_DOMAIN, 1))
        model = inliner.inline_local_functions(model, convert_version=False)
    return model


def _types(model: onnx.ModelProto) -> dict[str, onnx.TypeProto]:
    """The types of all values that ONNX can infer."""
    try:
        inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    except (onnx.shape_inference.InferenceError, ValueError):  # a wrong shape in the file, or one above 2 GiB
        inferred = model
    found = {item.name: _typed(item.data_type, item.dims) for item in model.graph.initializer}
    graphs = [inferred.graph, *(body for node in all_nodes(inferred.graph) for body in bodies(node))]
    for graph in graphs:
        found |= {item.name: item.type for item in (*graph.input, *graph.value_info, *graph.output)}
    return found


def _typed(kind: int, dims: Collection[int]) -> onnx.TypeProto:
    return helper.make_tensor_type_proto(kind, list(dims))


def _definition(
    node: onnx.NodeProto, model: onnx.ModelProto, types: dict[str, onnx.TypeProto]
) -> onnx.FunctionProto | None:
    """The definition of a node as a function of its own; the node becomes a call of it, with all its attributes."""
    version = next((item.version for item in model.opset_import if item.domain == node.domain), 1)
    if not onnx.defs.has(node.op_type, node.domain):
        return None
    try:
        schema: Any = onnx.defs.get_schema(node.op_type, version, node.domain)
    except onnx.defs.SchemaError:  # the operator is newer than the file's opset
        return None
    given = {item.name for item in node.attribute}
    node.attribute.extend(
        item.default_value for name, item in schema.attributes.items() if item.default_value.name and name not in given
    )
    function = _function(schema, version, node, types)
    if function is None:
        return None
    function.domain, function.name = _DOMAIN, f"{node.op_type}_{len(types)}_{node.output[0] or node.output[-1]}"
    # A function that depends on its node has the names of the schema, and takes fewer values where some are omitted.
    del function.input[len(node.input) :]
    del function.output[len(node.output) :]
    function.attribute.extend(item.name for item in node.attribute if item.name not in function.attribute)
    del function.attribute_proto[:]
    domains = {node.domain, *(item.domain for item in function.opset_import)}
    del function.opset_import[:]  # the definition is that of the file's opset, though it may be older
    function.opset_import.extend(item for item in model.opset_import if item.domain in domains)
    node.domain, node.op_type = _DOMAIN, function.name
    return function


def _function(
    schema: Any, version: int, node: onnx.NodeProto, types: dict[str, onnx.TypeProto]
) -> onnx.FunctionProto | None:
    if schema.has_function:
        found = schema.get_function_with_opset_version(version) or schema.function_body
        return found if isinstance(found, onnx.FunctionProto) else onnx.FunctionProto.FromString(found)
    if not schema.has_context_dependent_function or any(name and name not in types for name in node.input):
        return None
    given = [(types[name] if name else onnx.TypeProto()).SerializeToString() for name in node.input]
    text = schema.get_context_dependent_function_with_opset_version(version, node.SerializeToString(), given)
    return onnx.FunctionProto.FromString(text) if text else None
