"""The dual run of a proof: the masked original and the pruned program run node by node in double precision.

Both sides share their parameters with the programs. A parameter is converted to double precision when a node reads it
and freed after its last use, so that a proof needs the memory of two sets of activations only.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn

from ....core.aten_names import operator_name
from ....core.errors import VerificationError
from ....core.faults import raise_if_defect
from ...graph import train_eval_mode
from ...graph.module_edit import fetch
from ...program import Program, shared
from ..coupling.shapes import describe
from .masked_reference import Masks, run_masked
from .perturbation import Noise

_SLICE = 1 << 18


class DoesNotRunError(Exception):
    """The original graph does not run; the message names the node and the reason."""


@dataclass(frozen=True)
class Side:
    """One program in evaluation mode and in one precision.

    Attributes:
        module: shares parameters and buffers with the program, but has its own graph.
        wide: whether it computes in double precision.
        noise: noise that is added to the parameters; None for unchanged parameters.
    """

    module: fx.GraphModule
    wide: bool
    noise: Noise | None = None

    def attribute(self, node: fx.Node) -> Any:
        """The parameter, buffer or subgraph that a node reads; writes of the graph to it do not reach the program.

        The table of an embedding is returned unchanged: :meth:`looked_up` converts the selected rows instead.
        """
        value: Any = fetch(self.module, str(node.target))
        if not isinstance(value, Tensor):
            return value
        if _is_table(node, value):
            return value
        kept = isinstance(value, nn.Parameter)
        if self.noise is not None and kept and value.is_floating_point():
            value = self.noise.perturbed(str(node.target), value)
        wide = value.double() if self.wide and value.is_floating_point() else value
        return wide if kept or wide is not value else value.clone()

    def looked_up(self, node: fx.Node, args: Sequence[Any], result: Any) -> Any:
        """A node's result; rows of an embedding table get their noise and are converted to double precision."""
        if operator_name(node) != "embedding":
            return result
        rows, table = result.double() if self.wide else result, node.args[0]
        if self.noise is None or not isinstance(table, fx.Node) or not _is_table(table, args[0]):
            return rows
        return self.noise.looked_up(str(table.target), args[1], rows)


@dataclass(frozen=True)
class ComparedValue:
    """A value that both sides compute.

    Attributes:
        node: its node in the original graph.
        masked: the value in the masked original, of which a part is kept.
        pruned: the value in the pruned program.
        scale: largest magnitude of the inputs from which it was computed.
        kept: kept indices along every dimension; None if all are kept.
    """

    node: fx.Node
    masked: Tensor
    pruned: Tensor
    scale: float
    kept: Sequence[Tensor | None] = ()

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the kept part."""
        kept = [*self.kept, *[None] * self.masked.dim()]
        return tuple(size if item is None else len(item) for size, item in zip(self.masked.shape, kept))

    def parts(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Pairs of the kept part of the masked value and the pruned value, in slices of the first dimension."""
        if not self.masked.dim():
            yield self.masked, self.pruned
            return
        rows, size = self.shape[0], max(1, _SLICE // max(1, math.prod(self.shape[1:])))
        first, *others = [*self.kept] or [None]
        for start in range(0, rows, size):
            stop = min(start + size, rows)
            part = self.masked[start:stop] if first is None else self.masked.index_select(0, first[start:stop])
            for dim, indices in enumerate(others, 1):
                part = part if indices is None else part.index_select(dim, indices)
            yield part, self.pruned[start:stop]


@dataclass
class Run:
    """One dual run of both sides.

    Attributes:
        outputs: outputs of the masked program after the run.
    """

    dense: Side
    pruned: Side
    feeds: Mapping[str, Tensor]
    masks: Masks
    outputs: list[Any] = field(default_factory=list)

    def compared_values(self) -> Iterator[ComparedValue]:
        """Every tensor that both programs compute, in graph order.

        Raises:
            DoesNotRunError: the original does not run.
            VerificationError: the pruned program does not run.
        """
        given = [
            item.double() if self.dense.wide and item.is_floating_point() else item for item in self.feeds.values()
        ]
        feeds = iter(given)
        left: dict[fx.Node, Any] = {}
        right: dict[fx.Node, Any] = {}
        theirs, ours = self.dense.module.graph.nodes, self.pruned.module.graph.nodes
        counterpart_of = dict(zip(theirs, ours, strict=True))
        order = _late(theirs)
        last = {item: node for node in order for item in node.all_input_nodes}
        for node in order:
            counterpart = counterpart_of[node]
            if node.op == "output":
                results: Any = node.args[0]
                self.outputs = list(fx.map_arg(results, left.__getitem__))
                return
            if node.op == "placeholder":
                left[node] = next(feeds)
                right[counterpart] = left[node].clone()
                continue
            left[node] = _run_dense(self.dense, node, left, self.masks)
            right[counterpart] = _run_pruned(self.pruned, counterpart, right)
            scale = max((magnitude(left[item]) for item in node.all_input_nodes), default=0.0)
            for value, (one, two) in zip(self.masks.values(node), _tensors(left[node], right[counterpart])):
                yield ComparedValue(node, one, two, scale, self.masks.kept_indices(value))
            for item in (node, *node.all_input_nodes):
                if last.get(item) is node or item not in last:
                    left.pop(item, None)
                    right.pop(counterpart_of[item], None)


def _late(nodes: Iterable[fx.Node]) -> list[fx.Node]:
    """Nodes in graph order, but parameters are read directly before their first use, so that few are in memory."""
    order: dict[fx.Node, None] = {}
    for node in nodes:
        if node.op != "get_attr" or not node.users:
            order |= dict.fromkeys([*(item for item in node.all_input_nodes if item.op == "get_attr"), node])
    return list(order)


def side(program: Program, wide: bool, noise: Noise | None = None) -> Side:
    """A side for a program in evaluation mode, in double precision if ``wide``; it shares the parameters."""
    module = shared(program).module
    train_eval_mode.apply(module, False)
    if wide:
        _widen(module)
    return Side(module, wide, noise)


def _widen(module: fx.GraphModule) -> None:
    """Convert the dtypes in the graph's arguments, and the constants of its subgraphs, to double precision."""

    def _wide(item: Any) -> Any:
        return torch.float64 if isinstance(item, torch.dtype) and item.is_floating_point else item

    for graph in train_eval_mode.graphs(module):
        if graph is not module:
            graph.double()
        for node in graph.graph.nodes:
            node.args = tuple(_wide(item) for item in node.args)
            node.kwargs = {key: _wide(item) for key, item in node.kwargs.items()}
        graph.recompile()


def _is_table(node: fx.Node, value: Any) -> bool:
    """Whether a node reads a parameter that is used only as the table of embeddings."""
    read = all(operator_name(user) == "embedding" and user.args[0] is node for user in node.users)
    return read and node.op == "get_attr" and isinstance(value, nn.Parameter) and value.is_floating_point()


def _run_dense(given: Side, node: fx.Node, env: dict[fx.Node, Any], masks: Masks) -> Any:
    if node.op == "get_attr":
        value = given.attribute(node)
        if _is_table(node, value):  # no row is removed, and the selected rows are masked
            return value
        own = isinstance(value, Tensor) and value is not fetch(given.module, str(node.target))
        return masks.zeroed(value, masks.values(node), in_place=own)
    args, kwargs = fx.map_arg((node.args, node.kwargs), env.__getitem__)
    try:
        return given.looked_up(node, args, run_masked(node, args, kwargs, masks))
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        raise_if_defect(error)
        raise DoesNotRunError(f"{describe(node)}: {error}") from error


def _run_pruned(given: Side, node: fx.Node, env: dict[fx.Node, Any]) -> Any:
    if node.op == "get_attr":
        return given.attribute(node)
    args, kwargs = fx.map_arg((node.args, node.kwargs), env.__getitem__)
    try:
        return given.looked_up(node, args, node.target(*args, **kwargs))  # type: ignore[operator]
    except (RuntimeError, ValueError, IndexError, TypeError) as error:
        raise_if_defect(error)
        raise VerificationError(
            f"the cut is rejected: the pruned program does not run at {describe(node)}: {error}",
            "the original program is unchanged; exclude this layer, and please report the operator",
            node=node.name,
        ) from error


def _tensors(first: Any, second: Any) -> Iterator[tuple[Tensor, Tensor]]:
    pairs = zip(first, second) if isinstance(first, list | tuple) else [(first, second)]
    for one, two in pairs:
        if isinstance(one, Tensor) and isinstance(two, Tensor):
            yield one, two


def magnitude(value: Any) -> float:
    """Largest finite magnitude of a floating-point tensor; 0 for other values."""
    if not isinstance(value, Tensor) or not value.is_floating_point() or value.numel() == 0:
        return 0.0
    low, high = torch.aminmax(value)
    if bool(low.isfinite() & high.isfinite()):
        return max(-float(low), float(high))
    finite = torch.nan_to_num(value, nan=0.0, posinf=0.0, neginf=0.0)
    return float(finite.abs().max())
