"""An ONNX graph as an ``nn.Module``: weights become parameters with their names, operators become PyTorch's."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any

import torch
from numpy.typing import NDArray
from torch import nn

from ...core.errors import ModelError, RetortError
from ...core.faults import first_line, raise_if_defect
from . import (
    control_flow,
    elementwise_operators,
    fourier_operators,
    indexing_operators,
    layer_operators,
    movement_operators,
    pooling_operators,
    recurrent_cells,
    recurrent_operators,
    region_operators,
    sampling_operators,
    shape_arithmetic,
)
from .layer_forms import NUMBERS, STATISTICS, Constants, prepared, with_inner
from .operator_call import Call, Operator, as_tensor
from .reader import Body, Graph, Node

OPERATORS: dict[str, Operator] = {
    **elementwise_operators.OPERATORS,
    **movement_operators.OPERATORS,
    **layer_operators.OPERATORS,
    **recurrent_operators.OPERATORS,
    **fourier_operators.OPERATORS,
    **control_flow.OPERATORS,
    **recurrent_cells.OPERATORS,
    **pooling_operators.OPERATORS,
    **indexing_operators.OPERATORS,
    **sampling_operators.OPERATORS,
    **region_operators.OPERATORS,
}
KNOWN = frozenset(OPERATORS)
"""What an ONNX file may contain; other operators are replaced by ONNX's definition of them, if there is one."""
_WEIGHTED = ("Conv", "ConvTranspose", "Linear", "PRelu", "LayerNormalization", "BatchNormalization", "Gemm", "MatMul")
_INDEXED = ("Gather", "GatherND", "GatherElements", "ScatterND", "ScatterElements", "Scatter", "OneHot")
_HOST_LENGTH = 1024


class Imported(nn.Module):
    """A module that computes what the graph does.

    Args:
        graph: the result of :func:`retort.compress.onnx_import.reader.read_graph`.
        batch: the fixed batch size of the file, or None if it is dynamic.
        axes: the batch axis of each input, or None, by name.

    Raises:
        ModelError: an operator cannot be imported; the message names it.
    """

    def __init__(
        self, graph: Graph, batch: int | None = None, axes: Mapping[str, int | None] = MappingProxyType({})
    ) -> None:
        super().__init__()
        constants = Constants(graph)
        self._nodes = prepared(graph.nodes, graph, constants, OPERATORS)
        self._graph, self._batch = graph, batch
        self._rows: Any = None
        self._negative: set[str] = set()
        self._axes = [axes.get(spec.name) for spec in graph.inputs]
        self._host: dict[str, Any] = {}
        self._places: dict[str, tuple[nn.Module, str]] = {}
        self._store(constants)

    def forward(self, *values: torch.Tensor) -> dict[str, torch.Tensor]:
        """The outputs by name, from the inputs in order."""
        found: dict[str, Any] = {spec.name: value for spec, value in zip(self._graph.inputs, values, strict=True)}
        self._rows = next((value.shape[axis] for value, axis in zip(values, self._axes) if axis is not None), None)
        self._walk(self._nodes, found)
        self._rows = None
        return {name: self._output(name, kind, found) for name, kind in self._graph.outputs.items()}

    def _output(self, name: str, kind: str, found: dict[str, Any]) -> torch.Tensor:
        """An output with the dtype of the file; each is a tensor of its own, also if it is an input or a weight."""
        value = self._value(name, found)
        tensor: torch.Tensor = value if isinstance(value, torch.Tensor) else as_tensor(value)
        return tensor.to(getattr(torch, kind)) if kind else tensor

    def _walk(self, nodes: tuple[Node, ...], found: dict[str, Any]) -> None:
        """Run nodes in order, and add their results to what has been found."""
        for node in nodes:
            given = tuple(self._value(name, found) if name else None for name in node.inputs)
            result = self._run(node, given, found)
            results = result if isinstance(result, tuple) else (result,)
            found.update(zip(node.outputs, results, strict=False))

    def _run_body(self, found: dict[str, Any], body: Body, given: Sequence[Any]) -> list[Any]:
        inner = {**found, **dict(zip(body.inputs, given, strict=True))}
        self._walk(body.nodes, inner)
        return [self._value(name, inner) for name in body.outputs]

    def _value(self, name: str, found: dict[str, Any]) -> Any:
        if name in found:
            return found[name]
        if name in self._host:
            return self._host[name]
        owner, attribute = self._places[name]
        return getattr(owner, attribute)

    def _run(self, node: Node, given: tuple[Any, ...], found: dict[str, Any]) -> Any:
        on_host = node.operator in shape_arithmetic.TAKEN and not any(
            isinstance(value, torch.Tensor) for value in given
        )
        try:
            if on_host:
                result = shape_arithmetic.compute(node.operator, given, node.attributes, len(node.outputs))
                if result is not None:
                    return result
            inner = partial(self._run_body, found) if node.bodies() else None
            call = Call(node, given, self._graph.opset, self.training, self._batch, self._rows, self._negative, inner)
            return OPERATORS[node.operator](call)
        except RetortError:
            raise
        except (RuntimeError, TypeError, ValueError, IndexError, KeyError) as error:
            raise_if_defect(error)
            if type(error).__module__.startswith("torch"):
                raise  # errors about symbolic sizes are handled or explained by the capture
            kinds = sorted({str(value.dtype)[6:] for value in given if isinstance(value, torch.Tensor)})
            kernel = f"PyTorch has no kernel for it in {', '.join(kinds)}"
            why = kernel if isinstance(error, NotImplementedError) else f"{type(error).__name__}: {first_line(error)}"
            raise ModelError(
                f"{node.describe()} cannot be imported: {why}",
                "capture the PyTorch model instead, or export it with another operator there",
            ) from error

    def _store(self, constants: dict[str, NDArray[Any]]) -> None:
        """Keep numbers about shapes as numbers; make weights parameters, and statistics and tables buffers."""
        roles = _roles(self._nodes, self._graph.outputs)
        taken: Counter[str] = Counter()
        for name in roles:
            if name not in constants:
                continue
            array, role = constants[name], roles[name]
            if role == "number" or (
                role in ("any", "index") and _is_number(array) and (role == "any" or array.ndim < 2)
            ):
                self._host[name] = shape_arithmetic.host(array)
                continue
            trained = array.dtype.kind == "f" and role != "statistic"
            self._places[name] = _attach(self, name, torch.from_numpy(array.copy()), trained, taken)


def _roles(nodes: tuple[Node, ...], outputs: Iterable[str]) -> dict[str, str]:
    """The role of each constant: a number, an index (whose rank matters), a statistic, a weight, or any of these."""
    roles: dict[str, str] = {}
    rank = {"any": 0, "index": 1, "number": 2, "statistic": 3, "weight": 4}
    for node in with_inner(nodes):
        for index, name in enumerate(node.inputs):
            role = "any"
            if index in NUMBERS.get(node.operator, ()):
                role = "number"
            elif index == 1 and node.operator in _INDEXED:
                role = "index"
            elif index in STATISTICS.get(node.operator, ()):
                role = "statistic"
            elif node.operator in recurrent_operators.GATES:
                role = "weight" if 0 < index < 4 else "any"
            elif node.operator in _WEIGHTED or node.operator.startswith("Recurrent."):
                role = "weight"
            if name and rank[role] >= rank[roles.get(name, "any")]:
                roles[name] = role
        for name in (name for body in node.bodies().values() for name in body.outputs):
            roles.setdefault(name, "any")
    return {**dict.fromkeys(outputs, "any"), **roles}


def _is_number(array: NDArray[Any]) -> bool:
    if array.dtype.name not in ("float32", "int64", "int32", "bool"):
        return False
    return array.size == 1 if array.dtype.kind == "f" else array.size <= _HOST_LENGTH


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
