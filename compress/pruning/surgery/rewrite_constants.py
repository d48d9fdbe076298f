"""Rewrites the constants of a graph after a cut: sizes in reshapes, bounds of slices, numbers of groups, scales."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import fx

from ....core.aten_names import (
    ATTENTION,
    BROADCASTS,
    CONVOLUTIONS,
    CREATORS,
    NEW_CREATORS,
    REPEATS,
    TRAILING_NORMS,
    TRANSPOSED,
    operator_name,
)
from ....core.errors import VerificationError
from ...graph.train_eval_mode import argument, set_argument
from ..coupling.labels import Ids, Mask, Value
from ..coupling.propagate import Coupling
from ..coupling.shapes import bind, describe

_aten = torch.ops.aten


@dataclass
class Sizes:
    """The kept part of every value.

    Attributes:
        coupling: labels by node name.
        removed: boolean mask over labels.
    """

    coupling: Coupling
    removed: Mask

    def value(self, node: fx.Node) -> Value | None:
        """Labels of a tensor node."""
        value = self.coupling.values.get(node.name)
        return value if isinstance(value, Value) else None

    def kept(self, node: Any) -> list[Ids | None]:
        """Kept indices per dimension; None if all are kept."""
        value = self.value(node)
        return self.coupling.kept(value, self.removed) if value is not None else []

    def shape(self, node: fx.Node) -> list[int]:
        """Sizes after the cut."""
        value = self.value(node)
        assert value is not None
        return [size if kept is None else len(kept) for size, kept in zip(value.shape, self.kept(node))]

    def before(self, node: fx.Node) -> tuple[int, ...]:
        """Sizes before the cut."""
        value = self.value(node)
        assert value is not None
        return value.shape

    def parts(self, node: fx.Node) -> list[list[int]]:
        """Sizes after the cut of every tensor in a tuple."""
        value = self.coupling.values[node.name]
        parts = value if isinstance(value, tuple) else (value,)
        kept = [self.coupling.kept(part, self.removed) for part in parts]
        return [[size if k is None else len(k) for size, k in zip(part.shape, item)] for part, item in zip(parts, kept)]


def rewrite(node: fx.Node, sizes: Sizes) -> None:
    """Adapt the constants of one node to the kept part of its inputs and output."""
    if node.op == "call_function" and operator_name(node) in REWRITES:
        REWRITES[operator_name(node)](node, sizes)


def _listed(name: str, lead: bool = False) -> Callable[[fx.Node, Sizes], None]:
    """The rewrite of operators that have the sizes of their output in argument ``name``."""

    def _apply(node: fx.Node, sizes: Sizes) -> None:
        kept, after = sizes.kept(node), sizes.shape(node)
        listed = list(argument(node, name))
        first = int(argument(node, "dim")) % len(sizes.before(node.args[0])) if lead else 0  # type: ignore[arg-type]
        for place, size in enumerate(listed):
            if kept[first + place] is None or (isinstance(size, int) and size == -1):
                continue
            listed[place] = after[first + place] if isinstance(size, int) else -1
        if listed != list(argument(node, name)):
            set_argument(node, name, listed)

    return _apply


def _repeat(node: fx.Node, sizes: Sizes) -> None:
    name = "repeats" if "repeats" in bind(node) else "dims"
    counts, kept, after = list(argument(node, name)), sizes.kept(node), sizes.shape(node)
    before = sizes.before(node.args[0])  # type: ignore[arg-type]
    lead = len(kept) - len(before)
    for place in range(len(counts)):
        dim = len(kept) - len(counts) + place
        if kept[dim] is not None and (dim < lead or before[dim - lead] == 1):
            counts[place] = after[dim]
    set_argument(node, name, counts)


def _repeat_interleave(node: fx.Node, sizes: Sizes) -> None:
    dim = argument(node, "dim")
    if isinstance(argument(node, "output_size"), int) and dim is not None:
        set_argument(node, "output_size", sizes.shape(node)[int(dim)])


def _split(node: fx.Node, sizes: Sizes) -> None:
    source: Any = node.args[0]
    dim = int(argument(node, "dim")) % len(sizes.before(source))
    if sizes.kept(source)[dim] is not None:
        node.target = _aten.split_with_sizes.default
        node.args, node.kwargs = (source, [part[dim] for part in sizes.parts(node)], dim), {}


def _slice(node: fx.Node, sizes: Sizes) -> None:
    source: Any = node.args[0]
    size, dim = sizes.before(source), int(argument(node, "dim")) % len(sizes.before(source))
    kept = sizes.kept(source)[dim]
    if kept is None:
        return
    start, end, _ = slice(argument(node, "start"), argument(node, "end")).indices(size[dim])
    set_argument(node, "start", int((kept < start).sum()))
    set_argument(node, "end", int((kept < max(start, end)).sum()))


def _narrow(node: fx.Node, sizes: Sizes) -> None:
    source: Any = node.args[0]
    dim = int(argument(node, "dim")) % len(sizes.before(source))
    kept = sizes.kept(source)[dim]
    if kept is not None:
        start, length = int(argument(node, "start")), int(argument(node, "length"))
        start %= sizes.before(source)[dim]
        set_argument(node, "start", int((kept < start).sum()))
        set_argument(node, "length", int(((kept >= start) & (kept < start + length)).sum()))


def _select(node: fx.Node, sizes: Sizes) -> None:
    source: Any = node.args[0]
    dim = int(argument(node, "dim")) % len(sizes.before(source))
    kept, index = sizes.kept(source)[dim], argument(node, "index")
    if kept is not None:
        set_argument(node, "index", int((kept < int(index) % sizes.before(source)[dim]).sum()))


def _convolution(node: fx.Node, sizes: Sizes) -> None:
    if argument(node, "groups") == 1:
        return
    arguments = bind(node)
    transposed = arguments.get("transposed", "transpose" in str(node.target))
    channels = sizes.shape(node if transposed else arguments["input"])[1]
    set_argument(node, "groups", channels // sizes.shape(arguments["weight"])[1])


def _group_norm(node: fx.Node, sizes: Sizes) -> None:
    source: Any = node.args[0]
    kept, groups = sizes.kept(source)[1], int(argument(node, "num_groups"))
    if kept is None:
        return
    counts = np.bincount(kept // (sizes.before(source)[1] // groups), minlength=groups)
    left = counts[counts > 0]
    if len(set(left.tolist())) != 1:
        raise VerificationError(f"{describe(node)} would have groups of different widths", "exclude this layer")
    set_argument(node, "num_groups", len(left))


def _trailing_norm(node: fx.Node, sizes: Sizes) -> None:
    rank = len(argument(node, "normalized_shape"))
    set_argument(node, "normalized_shape", sizes.shape(node)[-rank:])


def _attention(node: fx.Node, sizes: Sizes) -> None:
    query: Any = argument(node, "query")
    if argument(node, "scale") is None and sizes.kept(query)[-1] is not None:
        set_argument(node, "scale", 1 / math.sqrt(sizes.before(query)[-1]))


def _squeeze(node: fx.Node, sizes: Sizes) -> None:
    """Name the dimensions to squeeze; otherwise a dimension cut to one channel would be squeezed too."""
    source: Any = node.args[0]
    if node.target is _aten.squeeze.default and any(kept is not None for kept in sizes.kept(source)):
        node.target = _aten.squeeze.dims
        node.args = (source, [dim for dim, size in enumerate(sizes.before(source)) if size == 1])


REWRITES: Mapping[str, Callable[[fx.Node, Sizes], None]] = {
    **dict.fromkeys(("view", "_unsafe_view", *BROADCASTS), _listed("size")),
    **dict.fromkeys((*CREATORS, *NEW_CREATORS), _listed("size")),
    "reshape": _listed("shape"),
    "unflatten": _listed("sizes", lead=True),
    **dict.fromkeys(REPEATS, _repeat),
    "repeat_interleave": _repeat_interleave,
    **dict.fromkeys(("split", "split_with_sizes", "chunk", "tensor_split"), _split),
    "slice": _slice,
    "narrow": _narrow,
    "select": _select,
    **dict.fromkeys((*CONVOLUTIONS, *TRANSPOSED, "convolution"), _convolution),
    "group_norm": _group_norm,
    **dict.fromkeys(TRAILING_NORMS, _trailing_norm),
    ATTENTION: _attention,
    "squeeze": _squeeze,
}
