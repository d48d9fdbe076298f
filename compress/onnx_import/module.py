"""An ONNX graph as an ``nn.Module``: weights become parameters with their names, operators become PyTorch's."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ...core.errors import ModelError, RetortError
from ...core.faults import first_line, raise_if_defect
from . import (
    elementwise_operators,
    fourier_operators,
    layer_operators,
    movement_operators,
    recurrent_operators,
    shape_arithmetic,
)
from .operator_call import Call, Operator, as_tensor
from .reader import Graph, Node

OPERATORS: dict[str, Operator] = {
    **elementwise_operators.OPERATORS,
    **movement_operators.OPERATORS,
    **layer_operators.OPERATORS,
    **recurrent_operators.OPERATORS,
    **fourier_operators.OPERATORS,
}
_STATISTICS = {"BatchNormalization": (3, 4)}
_WEIGHTED = ("Conv", "ConvTranspose", "Linear", "PRelu", "LayerNormalization", "BatchNormalization", "Gemm", "MatMul")
_NUMBERS = {"Clip": (1, 2), "Resize": (1, 2, 3), "Upsample": (1,), "Pad": (1, 2, 3), "Col2Im": (1, 2)}
_INDEXED = ("Gather", "GatherND", "GatherElements", "ScatterND", "ScatterElements")
_HOST_LENGTH = 1024


class Imported(nn.Module):
    """A module that computes what the graph does.

    Args:
        graph: the result of :func:`retort.compress.onnx_import.reader.read_graph`.
        batch: the fixed batch size of the file, or None if it is dynamic.

    Raises:
        ModelError: an operator cannot be imported; the message names it.
    """

    def __init__(self, graph: Graph, batch: int | None = None) -> None:
        super().__init__()
        constants = _Constants(graph)
        self._nodes = _prepared(graph, constants)
        self._graph, self._batch = graph, batch
        self._host: dict[str, Any] = {}
        self._places: dict[str, tuple[nn.Module, str]] = {}
        self._store(constants)

    def forward(self, *values: torch.Tensor) -> dict[str, torch.Tensor]:
        """The outputs by name, from the inputs in order."""
        found: dict[str, Any] = {spec.name: value for spec, value in zip(self._graph.inputs, values, strict=True)}
        for node in self._nodes:
            given = tuple(self._value(name, found) if name else None for name in node.inputs)
            result = self._run(node, given)
            results = result if isinstance(result, tuple) else (result,)
            found.update(zip(node.outputs, results, strict=False))
        outputs = {name: self._value(name, found) for name in self._graph.outputs}
        return {name: value if isinstance(value, torch.Tensor) else as_tensor(value) for name, value in outputs.items()}

    def _value(self, name: str, found: dict[str, Any]) -> Any:
        if name in found:
            return found[name]
        if name in self._host:
            return self._host[name]
        owner, attribute = self._places[name]
        return getattr(owner, attribute)

    def _run(self, node: Node, given: tuple[Any, ...]) -> Any:
        on_host = node.operator in shape_arithmetic.TAKEN and not any(
            isinstance(value, torch.Tensor) for value in given
        )
        try:
            if on_host:
                result = shape_arithmetic.compute(node.operator, given, node.attributes, len(node.outputs))
                if result is not None:
                    return result
            return OPERATORS[node.operator](Call(node, given, self._graph.opset, self.training, self._batch))
        except RetortError:
            raise
        except (RuntimeError, TypeError, ValueError, IndexError, KeyError) as error:
            raise_if_defect(error)
            if type(error).__module__.startswith("torch"):
                raise  # errors about symbolic sizes are handled or explained by the capture
            raise ModelError(
                f"{node.describe()} cannot be imported: {type(error).__name__}: {first_line(error)}",
                "capture the PyTorch model instead, or export it with another operator there",
            ) from error

    def _store(self, constants: dict[str, NDArray[Any]]) -> None:
        """Keep numbers about shapes as numbers; make weights parameters, and statistics and tables buffers."""
        roles = _roles(self._nodes)
        taken: Counter[str] = Counter()
        for name in roles:
            if name not in constants:
                continue
            array, role = constants[name], roles[name]
            if role == "number" or (
                role in ("any", "index") and _is_number(array) and (role == "any" or array.ndim < 2)
            ):
                self._host[name] = array.reshape(-1).tolist() if array.ndim == 1 else array.reshape(-1)[0].item()
                continue
            trained = array.dtype.kind == "f" and role != "statistic"
            self._places[name] = _attach(self, name, torch.from_numpy(array.copy()), trained, taken)


def _roles(nodes: tuple[Node, ...]) -> dict[str, str]:
    """The role of each constant: a number, an index (whose rank matters), a statistic, a weight, or any of these."""
    roles: dict[str, str] = {}
    rank = {"any": 0, "index": 1, "number": 2, "statistic": 3, "weight": 4}
    for node in nodes:
        for index, name in enumerate(node.inputs):
            role = "any"
            if index in _NUMBERS.get(node.operator, ()):
                role = "number"
            elif index == 1 and node.operator in _INDEXED:
                role = "index"
            elif index in _STATISTICS.get(node.operator, ()):
                role = "statistic"
            elif node.operator in _WEIGHTED or node.operator.startswith("Recurrent."):
                role = "weight"
            if name and rank[role] >= rank[roles.get(name, "any")]:
                roles[name] = role
    return roles


def _is_number(array: NDArray[Any]) -> bool:
    if array.dtype.kind == "f":
        return array.size == 1
    return (array.ndim <= 1 and 0 < array.size <= _HOST_LENGTH) or array.size == 1


def _attach(
    module: nn.Module, name: str, value: torch.Tensor, trained: bool, taken: Counter[str]
) -> tuple[nn.Module, str]:
    """Store a tensor under its dotted name, in submodules that are created for it."""
    parts = [re.sub(r"\W", "_", part) or "_" for part in name.strip("./").split(".")]
    owner = module
    for part in parts[:-1]:
        child = getattr(owner, part, None)
        if child is None:
            child = nn.Module()
            owner.add_module(part, child)
        if not isinstance(child, nn.Module):
            return _attach(module, name.replace(".", "_"), value, trained, taken)
        owner = child
    last = parts[-1]
    while hasattr(owner, last):
        taken[last] += 1
        last = f"{parts[-1]}_{taken[parts[-1]]}"
    if trained:
        owner.register_parameter(last, nn.Parameter(value))
    else:
        owner.register_buffer(last, value)
    return owner, last


class _Constants(dict[str, NDArray[Any]]):
    """The constants of a graph, and those that are made of them under names that nothing in the file has."""

    def __init__(self, graph: Graph) -> None:
        super().__init__(graph.constants)
        ports = {spec.name for spec in graph.inputs} | set(graph.outputs)
        self._taken = {
            *graph.constants,
            *ports,
            *(name for node in graph.nodes for name in (*node.inputs, *node.outputs)),
        }
        self._made: dict[str, str] = {}

    def add(self, origin: str, stem: str, value: NDArray[Any], ending: str = "") -> str:
        """Store a constant that is made of others, once for the same ``origin``, so that what is tied stays tied.

        Returns:
            Its name: ``stem`` and ``ending``, with a number between them where that name is taken.
        """
        if origin not in self._made:
            name, number = f"{stem}{ending}", 0
            while name in self._taken:
                number += 1
                name = f"{stem}_{number}{ending}"
            self._taken.add(name)
            self._made[origin] = name
            self[name] = value
        return self._made[origin]


def _prepared(graph: Graph, constants: _Constants) -> tuple[Node, ...]:
    """The nodes, with products by constants as linear layers with bias, and recurrent layers with PyTorch's weights.

    Raises:
        ModelError: an operator is not supported.
    """
    readers: dict[str, list[Node]] = {}
    for node in graph.nodes:
        for name in node.inputs:
            readers.setdefault(name, []).append(node)
    nodes, skipped = [], set()
    for node in graph.nodes:
        if id(node) in skipped:
            continue
        if node.operator in recurrent_operators.GATES:
            node = _recurrent(node, constants)
        elif node.operator == "BatchNormalization":
            node = _with_own_statistics(node, constants)
        elif node.operator in _NUMBERS:
            node = _with_own_numbers(node, constants)
        elif (linear := _as_linear(node, constants)) is not None:
            node = linear
            only = readers.get(node.outputs[0], [])
            bias = _bias_after(node, only, graph, constants)
            if bias is not None:
                skipped.add(id(only[0]))
                node = replace(node, inputs=(*node.inputs, bias), outputs=only[0].outputs)
        if node.operator not in OPERATORS:
            raise ModelError(
                f"{node.describe()} cannot be imported: the operator is not supported",
                "capture the PyTorch model instead, or export it with another operator there",
            )
        nodes.append(node)
    return tuple(nodes)


def _as_linear(node: Node, constants: _Constants) -> Node | None:
    """``MatMul`` and ``Gemm`` with a constant matrix as a linear layer, whose weight is ``[out, in]``."""
    if node.operator not in ("MatMul", "Gemm") or node.inputs[1] not in constants or node.inputs[0] in constants:
        return None
    weight, get = constants[node.inputs[1]], node.attributes.get
    if weight.ndim != 2 or weight.dtype.kind != "f":
        return None
    if get("transA", 0) or get("alpha", 1.0) != 1 or get("beta", 1.0) != 1:
        return None
    bias = node.inputs[2] if len(node.inputs) > 2 else ""
    out = weight.shape[0] if get("transB", 0) else weight.shape[1]
    if bias and (bias not in constants or constants[bias].size != out):
        return None
    name = node.inputs[1]
    if not get("transB", 0):
        name = constants.add(f"{name} transposed", f"{name}_transposed", np.ascontiguousarray(weight.T))
    if bias:
        flat = constants[bias].reshape(-1)
        bias = bias if constants[bias].ndim == 1 else constants.add(f"{bias} flat", f"{bias}_flat", flat)
    return Node("Linear", node.name, (node.inputs[0], name, *([bias] if bias else [])), node.outputs)


def _bias_after(node: Node, readers: list[Node], graph: Graph, constants: _Constants) -> str | None:
    if len(node.inputs) > 2 or len(readers) != 1 or readers[0].operator != "Add" or node.outputs[0] in graph.outputs:
        return None
    other = [name for name in readers[0].inputs if name != node.outputs[0]]
    if len(other) != 1 or other[0] not in constants:
        return None
    bias, features = constants[other[0]], len(constants[node.inputs[1]])
    return other[0] if bias.ndim == 1 and bias.size == features else None


def _with_own_statistics(node: Node, constants: _Constants) -> Node:
    """Separate a scale and a variance that share one constant, because one is trained and the other is tracked."""
    names = list(node.inputs)
    for index in _STATISTICS[node.operator]:
        name = names[index]
        if name in constants:
            names[index] = constants.add(f"{name} tracked", name, constants[name], layer_operators.TRACKED)
    return replace(node, inputs=tuple(names))


def _with_own_numbers(node: Node, constants: _Constants) -> Node:
    """Separate a bound, a size or a scale from a weight that has the same constant."""
    names = list(node.inputs)
    for index in _NUMBERS[node.operator]:
        name = names[index] if index < len(names) else ""
        if name in constants:
            names[index] = constants.add(f"{name} number", name, constants[name], "_number")
    return replace(node, inputs=tuple(names))


def _recurrent(node: Node, constants: _Constants) -> Node:
    origin, names = " ".join(node.inputs[1:4]), []
    for index, weight in enumerate(recurrent_operators.weights_of(node, constants)):
        names.append(constants.add(f"{node.operator} {origin} {index}", f"{node.inputs[1]}_{index}", weight))
    padded = (*node.inputs, "", "", "", "", "", "")
    return replace(node, operator=f"Recurrent.{node.operator}", inputs=(node.inputs[0], padded[5], padded[6], *names))
