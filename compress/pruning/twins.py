"""The two sides of a proof, run node by node: the masked original and the pruned program, in double precision.

Neither side is a copy: both share their parameters with the programs, which are widened one by one as nodes fetch
them and freed behind their last use, so that a proof takes the memory of two sets of activations.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn

from ...core.errors import VerificationError
from .. import modes
from ..program import Program, shared
from .context import fetch
from .coupling import Coupling
from .labels import Mask
from .masked import Masks, run_masked
from .shapes import describe, operator
from .surgery import kept_of, sliced

_NOISE = 0.25
_SLICE = 1 << 20

Noise = Callable[[str, Tensor], Tensor]


class DoesNotRunError(Exception):
    """The original graph does not run; says at which node and why."""


@dataclass(frozen=True)
class Side:
    """One program in evaluation form and in one precision.

    Attributes:
        module: shares parameters and buffers with the program; its graph is its own.
        wide: whether it computes in double precision.
        noise: what moves a parameter, by its name; None to take parameters as they are.
    """

    module: fx.GraphModule
    wide: bool
    noise: Noise | None = None

    def attribute(self, node: fx.Node) -> Any:
        """A parameter, buffer or body that a node fetches; nothing the graph does to it reaches the program.

        A table that rows are looked up in stays as it is: what is looked up is widened (:meth:`looked_up`).
        """
        value: Any = fetch(self.module, str(node.target))
        if not isinstance(value, Tensor):
            return value
        kept = isinstance(value, nn.Parameter)
        if self.noise is not None and kept and value.is_floating_point():
            value = self.noise(str(node.target), value)
        wide = value.double() if self.wide and value.is_floating_point() and not _table(node) else value
        return wide if kept or wide is not value else value.clone()

    def looked_up(self, node: fx.Node, result: Any) -> Any:
        """A node's result, widened where it is a row of a table."""
        return result.double() if self.wide and operator(node) == "embedding" else result


@dataclass(frozen=True)
class Twin:
    """A value on both sides.

    Attributes:
        node: of the original graph.
        masked: the original's, of which a part is kept.
        pruned: the pruned program's.
        scale: largest magnitude of what it was made from.
        kept: indices along every dimension; None where all are.
    """

    node: fx.Node
    masked: Tensor
    pruned: Tensor
    scale: float
    kept: Sequence[Tensor | None] = ()

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the kept part."""
        kept = [*self.kept, *[None] * self.masked.dim()]
        return tuple(size if item is None else len(item) for size, item in zip(self.masked.shape, kept))

    def parts(self) -> Iterator[tuple[Tensor, Tensor]]:
        """The kept part of the masked value beside the pruned one, in slices of the first dimension."""
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
    """One run of both sides.

    Attributes:
        outputs: the masked program's, once the run is over.
    """

    dense: Side
    pruned: Side
    feeds: Mapping[str, Tensor]
    masks: Masks
    outputs: list[Any] = field(default_factory=list)

    def twins(self) -> Iterator[Twin]:
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
        twin_of = dict(zip(theirs, ours, strict=True))
        order = _late(theirs)
        last = {item: node for node in order for item in node.all_input_nodes}
        for node in order:
            twin = twin_of[node]
            if node.op == "output":
                results: Any = node.args[0]
                self.outputs = list(fx.map_arg(results, left.__getitem__))
                return
            if node.op == "placeholder":
                left[node] = next(feeds)
                right[twin] = left[node].clone()
                continue
            left[node] = _run_dense(self.dense, node, left, self.masks)
            right[twin] = _run_pruned(self.pruned, twin, right)
            scale = max((magnitude(left[item]) for item in node.all_input_nodes), default=0.0)
            for value, (one, two) in zip(self.masks.values(node), _tensors(left[node], right[twin])):
                yield Twin(node, one, two, scale, self.masks.kept_indices(value))
            for item in (node, *node.all_input_nodes):
                if last.get(item) is node or item not in last:
                    left.pop(item, None)
                    right.pop(twin_of[item], None)


def _late(nodes: Iterable[fx.Node]) -> list[fx.Node]:
    """Nodes in graph order, those that fetch a parameter right before their first user: few are held at once."""
    order: dict[fx.Node, None] = {}
    for node in nodes:
        if node.op != "get_attr" or not node.users:
            order |= dict.fromkeys([*(item for item in node.all_input_nodes if item.op == "get_attr"), node])
    return list(order)


def side(program: Program, wide: bool, noise: Noise | None = None) -> Side:
    """A program in evaluation form, in double precision where ``wide``; shares its parameters."""
    module = shared(program).module
    modes.apply(module, False)
    if wide:
        _widen(module)
    return Side(module, wide, noise)


def _widen(module: fx.GraphModule) -> None:
    """Turn the dtypes written into the graph, and what its bodies hold, to double precision."""

    def _wide(item: Any) -> Any:
        return torch.float64 if isinstance(item, torch.dtype) and item.is_floating_point else item

    for graph in modes.graphs(module):
        if graph is not module:
            graph.double()
        for node in graph.graph.nodes:
            node.args = tuple(_wide(item) for item in node.args)
            node.kwargs = {key: _wide(item) for key, item in node.kwargs.items()}
        graph.recompile()


def shaken(before: Program, coupling: Coupling, removed: Mask) -> tuple[Noise, Noise]:
    """What moves every parameter at random, in the original and in the pruned program alike."""
    order = {name: place for place, name in enumerate(coupling.parameters)}

    def _noise(name: str) -> Iterator[tuple[slice, Tensor]]:
        """The noise of a parameter, some rows after the others."""
        tensor = _rows(fetch(before.module, name).detach())
        generator = torch.Generator().manual_seed(order[name])
        spread = float(tensor.float().std()) if tensor.numel() > 1 else 0.0
        size = max(1, _SLICE * len(tensor) // max(1, tensor.numel()))
        for start in range(0, len(tensor), size):
            part = tensor[start : start + size]
            noise = torch.randn(part.shape, generator=generator).mul_(_NOISE * (spread if spread > 0 else 0.5))
            yield slice(start, start + len(part)), noise.to(tensor)

    def _moved(name: str, tensor: Tensor, cut: bool) -> Tensor:
        leader = coupling.aliases.get(name)
        if leader is None:
            return tensor
        moved, place = tensor.detach().clone(), 0
        first, *others = (kept_of(coupling, leader, removed) if cut else []) or [None]
        for rows, noise in _noise(leader):
            inside = None if first is None else first[(first >= rows.start) & (first < rows.stop)] - rows.start
            part = sliced(noise, [inside, *others])
            _rows(moved)[place : place + len(part)] += part
            place += len(part)
        return moved

    return partial(_moved, cut=False), partial(_moved, cut=True)


def _rows(tensor: Tensor) -> Tensor:
    """A scalar as one row."""
    return tensor if tensor.dim() else tensor.unsqueeze(0)


def _table(node: fx.Node) -> bool:
    """Whether a parameter is nothing but a table that embeddings read."""
    return all(operator(user) == "embedding" and user.args[0] is node for user in node.users)


def _run_dense(given: Side, node: fx.Node, env: dict[fx.Node, Any], masks: Masks) -> Any:
    if node.op == "get_attr":
        value = given.attribute(node)
        own = isinstance(value, Tensor) and value is not fetch(given.module, str(node.target))
        return masks.zeroed(value, masks.values(node), in_place=own)
    args, kwargs = fx.map_arg((node.args, node.kwargs), env.__getitem__)
    try:
        return given.looked_up(node, run_masked(node, args, kwargs, masks))
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        raise DoesNotRunError(f"{describe(node)}: {error}") from error


def _run_pruned(given: Side, node: fx.Node, env: dict[fx.Node, Any]) -> Any:
    if node.op == "get_attr":
        return given.attribute(node)
    args, kwargs = fx.map_arg((node.args, node.kwargs), env.__getitem__)
    try:
        return given.looked_up(node, node.target(*args, **kwargs))  # type: ignore[operator]
    except (RuntimeError, ValueError, IndexError, TypeError) as error:
        raise VerificationError(
            f"the cut is refused: the pruned program does not run at {describe(node)}: {error}",
            "the input is untouched; exclude this layer, and report the operator",
            node=node.name,
        ) from error


def _tensors(first: Any, second: Any) -> Iterator[tuple[Tensor, Tensor]]:
    pairs = zip(first, second) if isinstance(first, list | tuple) else [(first, second)]
    for one, two in pairs:
        if isinstance(one, Tensor) and isinstance(two, Tensor):
            yield one, two


def magnitude(value: Any) -> float:
    """Largest finite magnitude of a floating-point tensor; 0 for anything else."""
    if not isinstance(value, Tensor) or not value.is_floating_point() or value.numel() == 0:
        return 0.0
    low, high = torch.aminmax(value)
    if bool(low.isfinite() & high.isfinite()):
        return max(-float(low), float(high))
    finite = torch.nan_to_num(value, nan=0.0, posinf=0.0, neginf=0.0)
    return float(finite.abs().max())
