"""The state that the coupling rules share: labels of the visited nodes, concrete shapes, cost terms and producers."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from ....core.faults import first_line
from ...graph.module_edit import fetch
from ...program import Program
from .broadcasting import consume, disjoint, keep_whole, meet
from .labels import Ids, Unions, Value, along, compact, lock_all, varying
from .shapes import describe, propagate

Result = Value | tuple[Value, ...]
Arguments = Mapping[str, Any]


class Unsupported(Exception):
    """A rule does not cover this form of its operator."""


@dataclass(frozen=True)
class Term:
    """A share of a node's multiply-accumulates, proportional to the product of the kept sizes of ``space``."""

    node: str
    share: float
    space: Value


@dataclass(frozen=True)
class Producer:
    """A parameter dimension that produces channels, such as the rows of a convolution or linear layer.

    Attributes:
        parameter: dotted name.
        dim: its dimension.
        node: name of the node that uses it.
        ids: its labels, ``int64[n]``.
    """

    parameter: str
    dim: int
    node: str
    ids: Tensor


@dataclass
class Coupler:
    """The state of one pass over a graph.

    Attributes:
        concrete: every node's fake tensor, size or tuple.
        narrow: contractions in which, if heads and head dimension both have labels, parts of the head dimension are
            removed from all heads; in the others, complete heads are removed.
        heads: labels of the heads that a contraction keeps complete, by node name.
        parameters: labels of every parameter and buffer per dimension, by the first name of its storage.
        aliases: first name of every parameter and buffer.
    """

    module: fx.GraphModule
    concrete: dict[fx.Node, Any]
    narrow: frozenset[str] = frozenset()
    heads: dict[str, list[Tensor]] = field(default_factory=dict)
    unions: Unions = field(default_factory=Unions)
    values: dict[fx.Node, Result] = field(default_factory=dict)
    parameters: dict[str, list[Tensor]] = field(default_factory=dict)
    aliases: dict[str, str] = field(default_factory=dict)
    terms: list[Term] = field(default_factory=list)
    producers: list[Producer] = field(default_factory=list)
    unknown: dict[str, str] = field(default_factory=dict)
    _first_names: dict[int, str] = field(default_factory=dict)

    def of(self, node: Any) -> Value:
        """The labels of a tensor node.

        Raises:
            Unsupported: it is not a tensor.
        """
        value = self.values.get(node)
        if not isinstance(value, Value):
            raise Unsupported("has an input that is not a tensor")
        return value

    def shape(self, node: fx.Node) -> tuple[int, ...]:
        """Concrete shape of a node's tensor."""
        return tuple(self.concrete[node].shape)

    def fill(self, argument: Any) -> Any:
        """An argument in which nodes are replaced by their concrete values."""
        return fx.map_arg(argument, lambda node: self.concrete[node])

    def run(self, node: fx.Node, source: fx.Node, array: Tensor) -> Any:
        """Run the node's operator with a label array instead of ``source``.

        Raises:
            Unsupported: the operator does not run on labels.
        """

        def _substitute(item: fx.Node) -> Any:
            value = self.concrete[item]
            if item is source:
                return array
            return torch.zeros((), dtype=torch.int64).expand(value.shape) if isinstance(value, Tensor) else value

        target: Any = _COPYING.get(node.target, node.target)
        kwargs = {key: item for key, item in node.kwargs.items() if key not in {"memory_format", "implicit"}}
        args, kwargs = fx.map_arg((node.args, kwargs), _substitute)
        try:
            return target(*args, **kwargs)
        except (RuntimeError, TypeError, ValueError, IndexError) as error:  # the operator does not accept labels
            raise Unsupported(f"does not run on labels: {first_line(error)}") from error

    def fresh(self, shape: Sequence[int], dims: Collection[int]) -> list[Tensor]:
        """Fresh weak labels along each of ``dims`` that has more than one index."""
        return [along(self.unions.fresh(shape[dim], weak=True), shape, dim) for dim in dims if shape[dim] > 1]

    def settled(self, shape: Sequence[int], arrays: Sequence[Tensor], why: str = "") -> Value:
        """A value with these arrays, in which labels are replaced by their class and each dimension has one array."""
        return disjoint(self.unions, Value(tuple(shape), [compact(array) for array in arrays], why))

    def keep(self, value: Value, dims: Collection[int], node: fx.Node) -> Value:
        """Forbid removal along ``dims`` because of ``node``."""
        why = f"{describe(node)} needs all of its channels"
        return keep_whole(self.unions, value, {dim % len(value.shape) for dim in dims}, why)

    def meet(self, node: fx.Node, operands: Sequence[Value]) -> Value:
        """Combine operands of any rank element by element, aligned at the last dimension."""
        rank = max(len(value.shape) for value in operands)
        aligned = [lift(value, rank) for value in operands]
        return meet(self.unions, aligned, f"is combined with values without channels in {describe(node)}")

    def contract(
        self,
        node: fx.Node,
        operands: Sequence[tuple[Value, Sequence[str]]],
        out: Sequence[str],
        share: float = 1.0,
    ) -> Value:
        """An Einstein summation: operands are combined letter by letter, and letters not in ``out`` are summed over."""
        space = list(dict.fromkeys(letter for _, letters in operands for letter in letters))
        spread = [_spread(value, letters, space) for value, letters in operands]
        met = meet(self.unions, spread, f"is combined with values without channels in {describe(node)}")
        self.terms.append(Term(node.name, share, met))
        summed = [place for place, letter in enumerate(space) if letter not in out]
        mixed = [array for array in met.arrays if varying(array) & set(summed) and varying(array) - set(summed)]
        self.heads.setdefault(node.name, []).extend(mixed)
        left = consume(self.unions, met, summed, node.name not in self.narrow)
        return _gather(left, space, out)

    def produce(self, node: fx.Node, weight: fx.Node, dim: int, shared: int = 1) -> None:
        """Record that ``dim`` of a weight produces channels.

        Args:
            shared: how many times the labels are repeated along the dimension (gates of a recurrent layer).
        """
        name = behind(weight)
        ids = self.parameters[self.aliases[name]] if name else []
        size, labels = self.shape(weight)[dim], self._along(weight, dim)
        fitting = [place for place in (dim, *range(len(ids))) if place < len(ids) and len(ids[place]) == size]
        if labels is not None:
            fitting = [place for place in fitting if np.array_equal(self.unions.find(ids[place].numpy()), labels)]
        if name and fitting:
            self.producers.append(
                Producer(self.aliases[name], fitting[0], node.name, ids[fitting[0]][: size // shared])
            )

    def _along(self, weight: fx.Node, dim: int) -> Ids | None:
        """Classes of the labels along one dimension of a weight, transposed or not; None if it has no labels."""
        for array in self.of(weight).arrays:
            if varying(array) == {dim}:
                place = tuple(slice(None) if axis == dim else 0 for axis in range(array.dim()))
                return self.unions.find(array[place].numpy())
        return None

    def parameter(self, node: fx.Node) -> Value:
        """Labels of a parameter or buffer: new ones at its first use, and the same for all names of one storage."""
        tensor = fetch(self.module, str(node.target))
        shape = tuple(tensor.shape)
        name = self._first_names.setdefault(id(tensor), str(node.target))
        self.aliases[str(node.target)] = name
        if name not in self.parameters:
            self.parameters[name] = [self.unions.fresh(size) for size in shape]
        ids = self.parameters[name]
        return Value(shape, [along(ids[dim], shape, dim) for dim, size in enumerate(shape) if size > 1])

    def lock(self, value: Result, why: str) -> None:
        """Lock every label of a value or tuple of values."""
        for item in value if isinstance(value, tuple) else (value,):
            lock_all(self.unions, item, why)

    def fixed(self, node: fx.Node, why: str) -> Result | None:
        """The node's output without labels; None if it contains no tensor."""
        result = self.concrete[node]
        if isinstance(result, Tensor):
            return Value(tuple(result.shape), [], why)
        if isinstance(result, list | tuple) and all(isinstance(item, Tensor) for item in result):
            return tuple(Value(tuple(item.shape), [], why) for item in result)
        return None


def start(program: Program, narrow: frozenset[str]) -> Coupler:
    """A coupler for a program's graph."""
    return Coupler(program.module, propagate(program), narrow)


def lift(value: Value, rank: int) -> Value:
    """The value with leading dimensions of size 1 added up to ``rank``."""
    extra = (1,) * (rank - len(value.shape))
    shape = (*extra, *value.shape)
    return Value(shape, [array.expand(shape) for array in value.arrays], value.why)


def place(value: Value, rank: int, dim: int) -> Value:
    """A vector along ``dim`` of a value of ``rank`` dimensions whose other dimensions have size 1."""
    shape = tuple(value.shape[0] if axis == dim else 1 for axis in range(rank))
    return Value(shape, [array.reshape(shape) for array in value.arrays], value.why)


def behind(node: fx.Node) -> str | None:
    """Name of the parameter that a weight is, or is computed from."""
    seen, queue = {node}, [node]
    while queue:
        item = queue.pop(0)
        if item.op == "get_attr":
            return str(item.target)
        new = [other for other in item.all_input_nodes if other not in seen and other.op != "placeholder"]
        seen.update(new)
        queue += new
    return None


def made_of_parameters(node: fx.Node) -> bool:
    """Whether a value is computed from parameters and buffers alone."""
    if node.op != "call_function":
        return node.op == "get_attr"
    return bool(node.all_input_nodes) and all(made_of_parameters(item) for item in node.all_input_nodes)


def _spread(value: Value, letters: Sequence[str], space: Sequence[str]) -> Value:
    order = [letters.index(letter) for letter in space if letter in letters]
    sizes = iter(value.shape[dim] for dim in order)
    shape = tuple(next(sizes) if letter in letters else 1 for letter in space)
    index = tuple(slice(None) if letter in letters else None for letter in space)
    return Value(shape, [array.permute(order)[index] for array in value.arrays], value.why)


def _gather(value: Value, space: Sequence[str], out: Sequence[str]) -> Value:
    index = tuple(slice(None) if letter in out else 0 for letter in space)
    left = [letter for letter in space if letter in out]
    order = [left.index(letter) for letter in out]
    shape = tuple(value.shape[space.index(letter)] for letter in out)
    return Value(shape, [array[index].permute(order) for array in value.arrays], value.why)


_aten = torch.ops.aten
_COPYING: dict[Any, Callable[..., Any]] = {
    _aten.view.default: _aten.reshape.default,
    _aten._unsafe_view.default: _aten.reshape.default,
    _aten.view_as.default: _aten.reshape_as.default,
}
