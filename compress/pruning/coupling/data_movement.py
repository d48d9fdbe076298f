"""Coupling rules of data movement: the operator itself runs on the label arrays."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from ....core.aten_names import (
    BROADCASTS,
    CONCATENATIONS,
    CREATORS,
    NEW_CREATORS,
    REPEATS,
    RESHAPES,
    SPLITS,
    TURNS,
)
from .broadcasting import meet
from .coupler import Arguments, Coupler, Result, Unsupported, lift
from .labels import FIXED, Value, settle, varying
from .shapes import describe, words

_Rule = Callable[[Coupler, fx.Node, Arguments], Result]


_MOVES = words("""
    swapaxes swapdims movedim moveaxis adjoint mT squeeze unsqueeze flatten flip channel_shuffle
    pixel_unshuffle repeat_interleave
""")


def source_of(node: fx.Node) -> fx.Node:
    """The tensor that a node moves: its first argument.

    Raises:
        Unsupported: its first argument is not a tensor.
    """
    first = node.args[0] if node.args else next(iter(node.kwargs.values()))
    if not isinstance(first, fx.Node):
        raise Unsupported("has an input in an unusual form")
    return first


def move(c: Coupler, node: fx.Node, a: Arguments) -> Result:
    """Any operator that only moves elements."""
    return moved(c, node, c.of(source_of(node)))


def moved(c: Coupler, node: fx.Node, value: Value) -> Result:
    """Run the node on every label array of ``value``, which replaces its first argument."""
    results = [c.run(node, source_of(node), array) for array in value.arrays]
    concrete = c.concrete[node]
    if isinstance(concrete, Tensor):
        return c.settled(concrete.shape, results, value.why)
    parts = [[result[place] for result in results] for place in range(len(concrete))]
    return tuple(c.settled(item.shape, part, value.why) for item, part in zip(concrete, parts))


def expand(c: Coupler, node: fx.Node, a: Arguments) -> Value:
    """An expansion: any part of the expanded dimensions can be removed, so they get new labels."""
    source = c.of(source_of(node))
    result = moved(c, node, source)
    assert isinstance(result, Value)
    sizes = list(a.get("size", a.get("shape", ())))
    before = lift(source, len(result.shape)).shape
    new = [dim for dim, size in enumerate(before) if size == 1 and isinstance(sizes[dim], int)]
    return Value(result.shape, [*result.arrays, *c.fresh(result.shape, new)], result.why)


def repeat(c: Coupler, node: fx.Node, a: Arguments) -> Value:
    """An expansion in dimensions where a single index is repeated; labels are repeated in the others."""
    source = c.of(source_of(node))
    result = moved(c, node, source)
    assert isinstance(result, Value)
    counts = list(a.get("repeats", a.get("dims", ())))
    before = lift(source, len(result.shape)).shape
    lead = len(result.shape) - len(counts)
    new = [dim for dim in range(lead, len(before)) if before[dim] == 1 and isinstance(counts[dim - lead], int)]
    return Value(result.shape, [*result.arrays, *c.fresh(result.shape, new)], result.why)


def like_other(c: Coupler, node: fx.Node, a: Arguments) -> Value:
    """``expand_as``, ``view_as`` …: a movement to the shape of the other operand."""
    result = moved(c, node, c.of(source_of(node)))
    assert isinstance(result, Value)
    if "expand" in str(node.target):
        return c.meet(node, [c.of(source_of(node)), c.of(a["other"])])
    return c.meet(node, [result, c.of(a["other"])])


def concatenate(c: Coupler, node: fx.Node, a: Arguments) -> Value:
    """Labels are concatenated along the joined dimension and united along the others."""
    listed = a.get("tensors")
    if not isinstance(listed, list | tuple):
        raise Unsupported("has inputs in an unusual form")
    values = [c.of(item) for item in listed]
    return join(c, node, [value for value in values if value.shape != (0,)], int(a["dim"]) % len(c.shape(node)))


def stack(c: Coupler, node: fx.Node, a: Arguments) -> Value:
    """A concatenation along a new dimension."""
    dim = int(a["dim"]) % len(c.shape(node))
    values = [c.of(item) for item in a["tensors"]]
    return join(c, node, [_with_dimension(value, dim) for value in values], dim)


def _with_dimension(value: Value, dim: int) -> Value:
    shape = (*value.shape[:dim], 1, *value.shape[dim:])
    return Value(shape, [array.unsqueeze(dim) for array in value.arrays], value.why)


def join(c: Coupler, node: fx.Node, values: Sequence[Value], dim: int) -> Value:
    """See :func:`concatenate`."""
    values = [settle(c.unions, value) for value in values]
    across, sides = [], []
    for value in values:
        index = tuple(slice(0, 1) if place == dim else slice(None) for place in range(len(value.shape)))
        flat = [array[index] for array in value.arrays if dim not in varying(array)]
        across.append(Value((*value.shape[:dim], 1, *value.shape[dim + 1 :]), flat, value.why))
        sides.append([array for array in value.arrays if dim in varying(array)])
    shape = c.shape(node)
    met = meet(c.unions, across, f"is combined with values without channels in {describe(node)}")
    joined = []
    if any(sides):
        fixed = torch.full((), FIXED, dtype=torch.int64)
        parts = [arrays[0] if arrays else fixed.expand(value.shape) for arrays, value in zip(sides, values)]
        joined.append(torch.cat(parts, dim))
    return c.settled(shape, [*joined, *[array.expand(shape) for array in met.arrays]], met.why)


def select(c: Coupler, node: fx.Node, a: Arguments) -> Result:
    """The selected index must stay; if the dimension is a part of a split one, all its indices go together."""
    source = c.of(source_of(node))
    dim = int(a["dim"]) % len(source.shape)
    arrays = []
    for array in source.arrays:
        if varying(array) == {dim}:
            c.unions.lock(array.select(dim, int(c.fill(a["index"]))), f"{describe(node)} selects this index")
            arrays.append(array)
        else:
            arrays += c.keep(Value(source.shape, [array]), [dim], node).arrays
    return moved(c, node, Value(source.shape, arrays, source.why))


def whole(*names: str) -> _Rule:
    """The rule of a movement that needs all channels of the dimensions in these arguments."""

    def _rule(c: Coupler, node: fx.Node, a: Arguments) -> Result:
        source = c.of(source_of(node))
        dims = [item for name in names for item in _as_list(a[name])] or list(range(len(source.shape)))
        return moved(c, node, c.keep(source, dims, node))

    return _rule


def _as_list(value: Any) -> list[int]:
    return list(value) if isinstance(value, list | tuple) else [value]


def cut(c: Coupler, node: fx.Node, a: Arguments) -> Result:
    """A slice: its bounds are rewritten with the channels; a slice with a step needs all channels."""
    source = c.of(source_of(node))
    if a.get("step", 1) != 1 or not all(isinstance(a.get(name, 0), int | None) for name in ("start", "end", "length")):
        source = c.keep(source, [int(a["dim"])], node)
    return moved(c, node, source)


def reshape(c: Coupler, node: fx.Node, a: Arguments) -> Result:
    """Sizes are rewritten with the channels; at most one size that the graph computes can be rewritten."""
    result = moved(c, node, c.of(source_of(node)))
    sizes = a.get("size", a.get("shape"))
    if isinstance(result, Value) and isinstance(sizes, list | tuple):
        computed = [dim for dim, size in enumerate(sizes) if isinstance(size, fx.Node)]
        labelled = [dim for dim in computed if any(dim in varying(array) for array in result.arrays)]
        if labelled and (len(labelled) > 1 or -1 in sizes):
            result = c.keep(result, labelled, node)
    return result


def pad(c: Coupler, node: fx.Node, a: Arguments) -> Value:
    """Padded zeros cannot be removed; any padding with other values needs all channels of its dimensions."""
    source = c.of(source_of(node))
    shape, rank = c.shape(node), len(source.shape)
    amounts = [c.fill(item) for item in (a["pad"] if "pad" in a else a["padding"])]
    padded = [rank - 1 - place // 2 for place, amount in enumerate(amounts) if amount]
    constant = a.get("mode", "constant") == "constant" and "pad" in a
    source = c.keep(source, [dim for dim in padded if not constant or min(amounts) < 0], node)
    arrays = []
    for array in source.arrays:
        labelled = varying(array)
        if constant and min(amounts) >= 0:
            own = [amount if rank - 1 - side // 2 in labelled else 0 for side, amount in enumerate(amounts)]
            array = torch.nn.functional.pad(array, own, "constant", FIXED)
        first = array[tuple(slice(None) if dim in labelled else slice(0, 1) for dim in range(rank))]
        arrays.append(first.expand(shape))
    return c.settled(shape, arrays, source.why)


def gated(c: Coupler, node: fx.Node, a: Arguments) -> Value:
    """``glu``: the labels of the two halves of a dimension are united."""
    source = c.of(source_of(node))
    dim = int(a["dim"]) % len(source.shape)
    half = source.shape[dim] // 2
    shape = c.shape(node)
    parts = [
        Value(shape, [array.narrow(dim, start, half) for array in source.arrays], source.why) for start in (0, half)
    ]
    return c.meet(node, parts)


def creator(c: Coupler, node: fx.Node, a: Arguments) -> Value:
    """A constant filled with one number: any part of it can be removed, so it gets new labels."""
    sizes = a["size"]
    shape = c.shape(node)
    return Value(shape, c.fresh(shape, [dim for dim, size in enumerate(sizes) if isinstance(size, int)]))


RULES: dict[str, _Rule] = {
    **dict.fromkeys((*_MOVES, *TURNS, *SPLITS), move),
    **dict.fromkeys((*RESHAPES, "unflatten"), reshape),
    **dict.fromkeys(("view_as", "reshape_as", "expand_as"), like_other),
    **dict.fromkeys(BROADCASTS, expand),
    **dict.fromkeys(REPEATS, repeat),
    **dict.fromkeys((*CONCATENATIONS, "concatenate"), concatenate),
    **dict.fromkeys(("slice", "narrow"), cut),
    **dict.fromkeys((*CREATORS, *NEW_CREATORS), creator),
    **dict.fromkeys(
        [f"{kind}_pad{rank}d" for kind in ("reflection", "replication") for rank in (1, 2, 3)]
        + ["pad", "constant_pad_nd"],
        pad,
    ),
    "unbind": whole("dim"),
    "roll": whole("dims"),
    "unfold": whole("dimension"),
    "diagonal": whole("dim1", "dim2"),
    "stack": stack,
    "select": select,
    "glu": gated,
}
