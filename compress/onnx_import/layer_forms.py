"""Operators with constants in the form of PyTorch's layers: linear, recurrent, and with statistics of their own."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...core.errors import ModelError
from . import layer_operators, recurrent_operators
from .reader import Graph, Node

STATISTICS = {"BatchNormalization": (3, 4)}
"""Inputs that are tracked and not trained."""
NUMBERS = {"Clip": (1, 2), "Resize": (1, 2, 3), "Upsample": (1,), "Pad": (1, 2, 3), "Col2Im": (1, 2)}
"""Inputs that are bounds, sizes and scales."""
_DATA = "the number of its results depends on data"
_RANDOM = "it draws random numbers"
_TEXT = "it works on text"
_LISTS = "it works on sequences of tensors"
_REASONS = {
    ("NonZero", "Unique", "NonMaxSuppression"): _DATA,
    ("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial"): _RANDOM,
    ("TfIdfVectorizer", "StringConcat", "StringNormalizer", "StringSplit", "RegexFullMatch"): _TEXT,
    (
        "SequenceAt", "SequenceConstruct", "SequenceEmpty", "SequenceErase", "SequenceInsert", "SequenceLength",
        "SplitToSequence", "ConcatFromSequence", "SequenceMap", "Optional", "OptionalHasElement",
    ): _LISTS,
}  # fmt: skip
_REMEDIES = {
    _DATA: "cut the model in front of it with `onnx.utils.extract_model`, and do the rest after the model",
    _RANDOM: "export the model in evaluation, or make the random numbers an input of the model",
    _TEXT: "cut the model behind it with `onnx.utils.extract_model`, and prepare the text before the model",
    _LISTS: "export the model again with tensors (`torch.stack`, `torch.cat`) in place of lists",
}


def with_inner(nodes: tuple[Node, ...]) -> Iterator[Node]:
    """The nodes, each followed by those of its branches or its loop."""
    for node in nodes:
        yield node
        for body in node.bodies().values():
            yield from with_inner(body.nodes)


class Constants(dict[str, NDArray[Any]]):
    """The constants of a graph, and those that are made of them under names that nothing in the file has."""

    def __init__(self, graph: Graph) -> None:
        super().__init__(graph.constants)
        ports = {spec.name for spec in graph.inputs} | set(graph.outputs)
        self._taken = {
            *graph.constants,
            *ports,
            *(name for node in with_inner(graph.nodes) for name in (*node.inputs, *node.outputs)),
            *(name for node in with_inner(graph.nodes) for body in node.bodies().values() for name in body.inputs),
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


def prepared(given: tuple[Node, ...], graph: Graph, constants: Constants, known: Collection[str]) -> tuple[Node, ...]:
    """The nodes, with products by constants as linear layers with bias, and recurrent layers with PyTorch's weights.

    Raises:
        ModelError: an operator is not supported.
    """
    readers: dict[str, list[Node]] = {}
    for node in given:
        for name in (name for one in with_inner((node,)) for name in one.inputs):
            readers.setdefault(name, []).append(node)
    nodes, skipped = [], set()
    for node in given:
        if id(node) in skipped:
            continue
        for name, body in node.bodies().items():
            inner = replace(body, nodes=prepared(body.nodes, graph, constants, known))
            node = replace(node, attributes={**node.attributes, name: inner})
        if node.operator in recurrent_operators.GATES:
            node = _recurrent(node, constants)
        elif node.operator == "BatchNormalization":
            node = _with_own_statistics(node, constants)
        elif node.operator in NUMBERS:
            node = _with_own_numbers(node, constants)
        elif (linear := _as_linear(node, constants)) is not None:
            node = linear
            only = readers.get(node.outputs[0], [])
            bias = _bias_after(node, only, graph, constants)
            if bias is not None:
                skipped.add(id(only[0]))
                node = replace(node, inputs=(*node.inputs, bias), outputs=only[0].outputs)
        if node.operator not in known:
            raise _unsupported(node)
        nodes.append(node)
    return tuple(nodes)


def _unsupported(node: Node) -> ModelError:
    """Why an operator has no form in a program, and what helps."""
    why = next((why for kinds, why in _REASONS.items() if node.operator in kinds), "the operator is not supported")
    remedy = _REMEDIES.get(why, "capture the PyTorch model instead, or export it with another operator there")
    return ModelError(f"{node.describe()} cannot be imported: {why}", remedy, operator=node.operator)


def _as_linear(node: Node, constants: Constants) -> Node | None:
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
    if bias and (bias not in constants or constants[bias].size != out or constants[bias].shape[-1] != out):
        return None
    name = node.inputs[1]
    if not get("transB", 0):
        name = constants.add(f"{name} transposed", f"{name}_transposed", np.ascontiguousarray(weight.T))
    if bias:
        flat = constants[bias].reshape(-1)
        bias = bias if constants[bias].ndim == 1 else constants.add(f"{bias} flat", f"{bias}_flat", flat)
    return Node("Linear", node.name, (node.inputs[0], name, *([bias] if bias else [])), node.outputs)


def _bias_after(node: Node, readers: list[Node], graph: Graph, constants: Constants) -> str | None:
    if len(node.inputs) > 2 or len(readers) != 1 or readers[0].operator != "Add" or node.outputs[0] in graph.outputs:
        return None
    other = [name for name in readers[0].inputs if name != node.outputs[0]]
    if len(other) != 1 or other[0] not in constants:
        return None
    bias, features = constants[other[0]], len(constants[node.inputs[1]])
    return other[0] if bias.ndim == 1 and bias.size == features else None


def _with_own_statistics(node: Node, constants: Constants) -> Node:
    """Separate a scale and a variance that share one constant, because one is trained and the other is tracked."""
    names = list(node.inputs)
    for index in STATISTICS[node.operator]:
        name = names[index]
        if name in constants:
            names[index] = constants.add(f"{name} tracked", name, constants[name], layer_operators.TRACKED)
    return replace(node, inputs=tuple(names))


def _with_own_numbers(node: Node, constants: Constants) -> Node:
    """Separate a bound, a size or a scale from a weight that has the same constant."""
    names = list(node.inputs)
    for index in NUMBERS[node.operator]:
        name = names[index] if index < len(names) else ""
        if name in constants:
            names[index] = constants.add(f"{name} number", name, constants[name], "_number")
    return replace(node, inputs=tuple(names))


def _recurrent(node: Node, constants: Constants) -> Node:
    """A layer of PyTorch with its weights, or the node itself, which is then computed step by step."""
    layer = recurrent_operators.as_layer(node, constants)
    if layer is None:
        return node
    origin, names = " ".join(node.inputs[1:4]), []
    for index, weight in enumerate(recurrent_operators.weights_of(node, constants)):
        names.append(constants.add(f"{node.operator} {origin} {index}", f"{node.inputs[1]}_{index}", weight))
    return replace(layer, inputs=(*layer.inputs, *names))
