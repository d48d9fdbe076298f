"""Constants of an ONNX graph that are computed: they are folded, and branches whose condition is known are taken."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

from ...core.formats.onnx_graphs import all_nodes, bodies, captured, nested

STANDARD = ("", "ai.onnx")
FREE_BYTES = 1 << 20
"""A folded constant may be this large, or as large as all that it is made of, so that files do not grow much."""
_RANDOM = ("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial")
_KEPT = ("Dropout", "If", "Loop", "Scan", "QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear")
_SMALL = 1024
_NO_KERNEL = (NotImplementedError, RuntimeError, TypeError, ValueError, IndexError, KeyError, AttributeError)
"""What onnx's reference evaluator raises for operators and attributes that it does not have."""


class Folder:
    """Folding of one model, in place."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._model = model
        self._opsets = [item for item in model.opset_import if item.domain in STANDARD]
        self._values: dict[str, NDArray[Any]] = {}

    def run(self) -> None:
        """Fold constants until nothing changes; remove initializers and nodes that nothing reads any more.

        Old files list their initializers among the inputs as well; those that are removed are no inputs either.
        """
        graph = self._model.graph
        stored: dict[str, onnx.TensorProto] = {}
        for part in nested(graph):
            stored |= {item.name: item for item in part.initializer}
            part.ClearField("initializer")
        self._values = {name: numpy_helper.to_array(item) for name, item in stored.items()}
        while self._fold(graph):
            pass
        _remove_unread(graph)
        read = _read(graph)
        graph.initializer.extend(item for name, item in stored.items() if name in read)
        inputs = [item for item in graph.input if item.name in read or item.name not in stored]
        del graph.input[:]
        graph.input.extend(inputs)
        made = [name for name in self._values if name in read and name not in stored]
        graph.initializer.extend(numpy_helper.from_array(self._values[name], name) for name in made)

    def _fold(self, graph: onnx.GraphProto, outermost: bool = True) -> bool:
        """One pass over a graph; whether a branch was put in the place of an ``If``, which needs another pass."""
        again, nodes = False, []
        readers = _readers(graph) if outermost else {}
        for node in graph.node:
            if node.op_type == "If" and node.input[0] in self._values:
                nodes += self._branch(node)
                again = True
                continue
            for body in bodies(node):
                again |= self._fold(body, outermost=False)
            if not self._is_constant(node) or self._is_tied(node, readers) or not self._computed(node):
                nodes.append(node)
        del graph.node[:]
        graph.node.extend(nodes)
        return again

    def _branch(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        """The nodes of the branch that is taken, and one ``Identity`` per output."""
        taken = "then_branch" if bool(self._values[node.input[0]].reshape(-1)[0]) else "else_branch"
        body = next(item.g for item in node.attribute if item.name == taken)
        results = [item.name for item in body.output]
        ends = [onnx.helper.make_node("Identity", [a], [b]) for a, b in zip(results, node.output, strict=True) if b]
        return [*body.node, *ends]

    def _is_constant(self, node: onnx.NodeProto) -> bool:
        if node.domain not in STANDARD or node.op_type in (*_RANDOM, *_KEPT) or bodies(node):
            return False
        return all(name in self._values for name in node.input if name)

    def _is_tied(self, node: onnx.NodeProto, readers: dict[str, list[onnx.NodeProto]]) -> bool:
        """Whether a weight is also read as it is, such as an embedding that is the matrix of the last layer too."""
        if node.op_type not in ("Transpose", "Cast", "Identity") or self._values[node.input[0]].size <= _SMALL:
            return False
        others = readers.get(node.input[0], [])
        return self._values[node.input[0]].dtype.kind == "f" and any(not self._is_constant(one) for one in others)

    def _computed(self, node: onnx.NodeProto) -> bool:
        """Whether the outputs of a node are known now."""
        if node.op_type == "Constant" and (held := _held(node)) is not None:
            self._values[node.output[0]] = held
            return True
        given = [self._values[name] for name in node.input if name]
        room = max(FREE_BYTES, sum(array.nbytes for array in given))
        if _least_bytes(node, given) > room:
            return False
        results = self._evaluate(node)
        if results is None or sum(array.nbytes for array in results) > room:
            return False
        self._values.update(zip(node.output, results, strict=True))
        return True

    def _evaluate(self, node: onnx.NodeProto) -> list[NDArray[Any]] | None:
        outputs = [onnx.ValueInfoProto(name=name) for name in node.output if name]
        try:
            ports = [
                onnx.helper.make_tensor_value_info(name, _code(self._values[name]), self._values[name].shape)
                for name in dict.fromkeys(node.input)
                if name
            ]
            graph = onnx.helper.make_graph([node], "constant", ports, outputs)
            model = onnx.helper.make_model(graph, opset_imports=self._opsets)
            with warnings.catch_warnings(), np.errstate(all="ignore"):
                warnings.simplefilter("ignore")
                found = ReferenceEvaluator(model).run(None, {name: self._values[name] for name in node.input if name})
        except _NO_KERNEL:  # ReferenceEvaluator has no common class for what it does not have; the node stays
            return None
        arrays = dict(zip((name for name in node.output if name), found, strict=True))
        if not all(isinstance(value, np.ndarray | np.generic) for value in arrays.values()):
            return None
        return [np.asarray(arrays.get(name, np.zeros(0))) for name in node.output]


def _held(node: onnx.NodeProto) -> NDArray[Any] | None:
    """The tensor of a ``Constant`` node; None if it is text."""
    (attribute,) = node.attribute
    if attribute.type == onnx.AttributeProto.SPARSE_TENSOR:
        return dense(attribute.sparse_tensor)
    if attribute.type == onnx.AttributeProto.TENSOR:
        return numpy_helper.to_array(attribute.t)
    kinds = {"value_float": np.float32, "value_floats": np.float32, "value_int": np.int64, "value_ints": np.int64}
    kind = kinds.get(attribute.name)
    return None if kind is None else np.asarray(onnx.helper.get_attribute_value(attribute), kind)


def dense(sparse: onnx.SparseTensorProto) -> NDArray[Any]:
    """The array of a sparse tensor, whose indices are flat or one row per value."""
    values, indices = numpy_helper.to_array(sparse.values), numpy_helper.to_array(sparse.indices)
    found = np.zeros(tuple(sparse.dims), values.dtype)
    if indices.ndim == 1:
        found.reshape(-1)[indices] = values
    else:
        found[tuple(indices.T)] = values
    return found


def _code(array: NDArray[Any]) -> int:
    return int(onnx.helper.np_dtype_to_tensor_dtype(array.dtype))


def _least_bytes(node: onnx.NodeProto, given: list[NDArray[Any]]) -> float:
    """The size of a result that follows from its inputs alone, so that nothing huge is computed in vain."""
    kind = node.op_type
    if kind == "ConstantOfShape":
        return math.prod(map(float, given[0].reshape(-1)))
    if kind == "Expand":
        return math.prod(map(float, given[1].reshape(-1))) * given[0].itemsize
    if kind == "Tile":
        return math.prod(map(float, given[1].reshape(-1))) * given[0].nbytes
    if kind == "Range":
        return float(abs((given[1] - given[0]) / (given[2] or 1)).item()) * given[0].itemsize
    if kind in ("OneHot", "EyeLike", "Resize", "Upsample", "Conv", "ConvTranspose"):
        return float(FREE_BYTES if kind in ("OneHot", "EyeLike") and given[0].size < _SMALL else math.inf)
    return 0.0


def _readers(graph: onnx.GraphProto) -> dict[str, list[onnx.NodeProto]]:
    found: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in {*node.input, *captured(node)}:
            found.setdefault(name, []).append(node)
    return found


def _read(graph: onnx.GraphProto) -> set[str]:
    outputs = {item.name for item in graph.output}
    for node in all_nodes(graph):
        outputs.update(node.input)
        outputs.update(item.name for body in bodies(node) for item in body.output)
    return outputs


def _remove_unread(graph: onnx.GraphProto) -> None:
    """Remove nodes whose outputs nothing reads, from the end."""
    needed = {item.name for item in graph.output}
    kept = []
    for node in reversed(graph.node):
        if not needed.isdisjoint(node.output):
            kept.append(node)
            needed.update(node.input)
            needed.update(captured(node))
            needed.update(item.name for body in bodies(node) for item in body.output)
    del graph.node[:]
    graph.node.extend(reversed(kept))
