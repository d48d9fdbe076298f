"""Normal form of an ONNX file: functions are inlined, names unique, weights dense, and constants computed."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, inliner, numpy_helper

from ...core.errors import UserError
from ...core.formats.onnx_graphs import bodies
from .constant_folding import Folder, dense
from .definitions import define_unknown


def normalize(model: onnx.ModelProto, known: Collection[str] | None, values: Mapping[str, Any]) -> onnx.ModelProto:
    """The model without local functions, sparse weights, computed constants and branches that are never taken.

    Args:
        model: the file with its weights; it may be changed.
        known: operators that have a form here; others are replaced by ONNX's own definition, where it has one. None
            replaces none.
        values: inputs that become constants, with their values.

    Raises:
        UserError: ``values`` names no input of the model, or a value has another shape.
    """
    for name, array in fixed_values(model.graph, values).items():
        model.graph.input.remove(next(item for item in model.graph.input if item.name == name))
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    if model.functions:
        model = inliner.inline_local_functions(model, convert_version=True)
    if known is not None:
        model = define_unknown(model, known)
    _make_dense(model.graph)
    _make_unique(model.graph)
    Folder(model).run()
    return model


def fixed_values(graph: onnx.GraphProto, values: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
    """The values of inputs that become constants, with their types and shapes.

    Raises:
        UserError: there is no such input, or a value is no number or has another shape.
    """
    ports, found = {item.name: item for item in graph.input}, {}
    for name, value in values.items():
        if name not in ports:
            raise UserError(f"the model has no input '{name}' that could be fixed", f"its inputs: {', '.join(ports)}")
        kind = ports[name].type.tensor_type
        array = _as_constant(name, value, helper.tensor_dtype_to_np_dtype(kind.elem_type))
        shape = [size.dim_value for size in kind.shape.dim]
        if array.ndim == 0 and shape and all(shape):
            array = np.full(shape, array)
        if array.ndim != len(shape) or any(want not in (0, size) for want, size in zip(shape, array.shape)):
            raise UserError(
                f"the value of the input '{name}' has the shape {list(array.shape)}, the model takes {shape}",
                "give a value of that shape",
            )
        found[name] = array
    return found


def _as_constant(name: str, value: Any, dtype: np.dtype[Any]) -> NDArray[Any]:
    """A value as an array of the input's type.

    Raises:
        UserError: it is no number, or no list of numbers whose rows are equally long.
    """
    try:
        if value is None:
            raise TypeError("no value")
        return np.asarray(value).astype(dtype)
    except (TypeError, ValueError, OverflowError) as error:
        raise UserError(
            f"the input '{name}' cannot be fixed to {value!r}: it takes {dtype.name}",
            f"give a number or a list of numbers, such as {name}=1",
        ) from error


def _make_dense(graph: onnx.GraphProto) -> None:
    """Store sparse initializers and constants as dense tensors."""
    for sparse in graph.sparse_initializer:
        graph.initializer.append(numpy_helper.from_array(dense(sparse), sparse.values.name))
    del graph.sparse_initializer[:]
    for node in graph.node:
        for body in bodies(node):
            _make_dense(body)


def _make_unique(graph: onnx.GraphProto) -> None:
    """Rename values inside branches and loops that have the name of another value, so that one table can hold all."""
    taken = set(_defined(graph))
    for node in graph.node:
        for body in bodies(node):
            _rename(body, {}, taken)


def _defined(graph: onnx.GraphProto) -> Iterator[str]:
    yield from (item.name for item in (*graph.input, *graph.initializer))
    yield from (name for node in graph.node for name in node.output if name)


def _rename(graph: onnx.GraphProto, outer: Mapping[str, str], taken: set[str]) -> None:
    names = dict(outer)
    for name in dict.fromkeys(_defined(graph)):
        new, number = name, 0
        while new in taken:
            number += 1
            new = f"{name}_{number}"
        taken.add(new)
        names[name] = new
    for item in (*graph.input, *graph.initializer, *graph.output):
        item.name = names.get(item.name, item.name)
    for node in graph.node:
        _replace(node.input, names)
        _replace(node.output, names)
        for body in bodies(node):
            _rename(body, names, taken)


def _replace(items: Any, names: Mapping[str, str]) -> None:
    renamed: Iterable[str] = [names.get(name, name) for name in items]
    del items[:]
    items.extend(renamed)
