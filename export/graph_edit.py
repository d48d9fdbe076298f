"""Functions to read and edit an ONNX graph in onnx-ir, which all passes of the export use."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

Numbers = NDArray[Any]
Attributes = Mapping[str, int | float | str | Sequence[int] | Sequence[float]]


def every_node(model: ir.Model) -> list[ir.Node]:
    """All nodes in order, including those of subgraphs; it is a copy, so the graph may be edited during iteration."""
    return list(ir.traversal.RecursiveGraphIterator(model.graph))


def is_op(node: ir.Node | None, *names: str) -> bool:
    """Whether ``node`` is one of these operators of the standard domain."""
    return node is not None and node.domain in ("", "ai.onnx") and node.op_type in names


def constant(value: ir.Value | None) -> Numbers | None:
    """The array of an initializer or a Constant node; None for computed values and inputs."""
    if value is None or value.is_graph_input():
        return None
    tensor = ir.convenience.get_const_tensor(value)
    return None if tensor is None else tensor.numpy()


def constant_bytes(value: ir.Value) -> int:
    """Size of a constant in bytes, without reading it; 0 if the value is not a constant."""
    tensor = ir.convenience.get_const_tensor(value)
    return 0 if tensor is None else tensor.nbytes


def dims(value: ir.Value | None) -> tuple[int | str | None, ...] | None:
    """The shape: sizes as int, named axes as str, unknown ones as None; None when the rank is unknown."""
    if value is None or value.shape is None:
        return None
    return tuple(size if isinstance(size, int) else size.value for size in value.shape)


def attribute(node: ir.Node, name: str, default: int) -> int:
    """An integer attribute."""
    found = node.attributes.get(name)
    return default if found is None else found.as_int()


def producer(value: ir.Value | None) -> ir.Node | None:
    """The node that computes ``value``; None for inputs and constants, and if there is no value."""
    return None if value is None else value.producer()


def sole_user(value: ir.Value) -> ir.Node | None:
    """The only node that reads ``value``; None if there are several, or if it is an output of the graph."""
    users = list(value.uses())
    return users[0].node if len(users) == 1 and not value.is_graph_output() else None


def add_constant(model: ir.Model, name: str, array: Numbers) -> ir.Value:
    """A new initializer of the main graph, named ``name``, with a number appended if that name exists."""
    graph = model.graph
    taken = graph.initializers
    free = next(candidate for candidate in _numbered(name) if candidate not in taken)
    value = ir.Value(name=free, const_value=ir.tensor(np.asarray(array, order="C"), name=free))
    value.shape, value.type = ir.Shape(array.shape), ir.TensorType(ir.DataType.from_numpy(array.dtype))
    graph.register_initializer(value)
    return value


def insert_before(
    place: ir.Node,
    op: str,
    inputs: Sequence[ir.Value | None],
    attributes: Attributes,
    name: str,
    shape: ir.Shape | None,
    dtype: ir.DataType | None,
) -> ir.Value:
    """Put a new node with one output before ``place``.

    Args:
        place: the node before which it is inserted, in the same graph.
        op: an operator of the standard domain.
        inputs: its inputs.
        attributes: its attributes.
        name: name of the output; made unique when the graph is finished.
        shape: shape of the output, if known.
        dtype: type of the output's elements, if known.

    Returns:
        The output.
    """
    kind = None if dtype is None else ir.TensorType(dtype)
    output = ir.Value(name=name, shape=shape, type=kind)
    node = ir.Node("", op, inputs, ir.convenience.convert_attributes(attributes), outputs=[output], name=f"node_{name}")
    assert place.graph is not None
    place.graph.insert_before(place, node)
    return output


def substitute(old: ir.Value, new: ir.Value) -> None:
    """Replace ``old`` by ``new`` in all readers and graph outputs; remove the node that computed ``old``."""
    ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
    node = old.producer()
    if node is not None and node.graph is not None and not any(out.uses() for out in node.outputs):
        node.graph.remove(node, safe=True)


def evaluate(node: ir.Node, feeds: Sequence[Numbers], opset: int) -> list[Numbers]:
    """Compute one node of the standard domain from constants, with ONNX's reference implementation.

    Args:
        node: the node; only its operator and attributes are used.
        feeds: one array per input.
        opset: version of the standard domain.
    """
    names = [f"i{index}" for index in range(len(feeds))]
    outputs = [f"o{index}" for index in range(len(node.outputs))]
    single = onnx.helper.make_node(node.op_type, names, outputs)
    single.attribute.extend(ir.serde.serialize_attribute(item) for item in node.attributes.values())
    ins = [
        onnx.helper.make_tensor_value_info(name, onnx.helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
        for name, array in zip(names, feeds, strict=True)
    ]
    outs = [onnx.helper.make_value_info(name, onnx.TypeProto()) for name in outputs]
    graph = onnx.helper.make_graph([single], "one", ins, outs)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)])
    return [np.asarray(out) for out in ReferenceEvaluator(model).run(None, dict(zip(names, feeds, strict=True)))]


def _numbered(name: str) -> Iterator[str]:
    yield name
    number = 1
    while True:
        yield f"{name}_{number}"
        number += 1
