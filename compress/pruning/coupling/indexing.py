"""Coupling rules of indexing and patches: movements whose operator cannot run on labels directly."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import fx

from .coupler import Arguments, Coupler, Result, Unsupported
from .data_movement import moved, source_of
from .labels import Value
from .shapes import describe


def pixel_shuffle(c: Coupler, node: fx.Node, a: Arguments) -> Result:
    """All channels that fill one output channel go together."""
    result = moved(c, node, c.of(source_of(node)))
    return c.keep(result, [-2, -1], node) if isinstance(result, Value) else result


def patches(c: Coupler, node: fx.Node, a: Arguments) -> Value:
    """``im2col``: ``[N, C, H, W]`` to ``[N, C x k, L]``; the elements of a patch have their channel's label."""
    source = c.keep(c.of(source_of(node)), [-2, -1], node)
    shape = c.shape(node)
    if len(shape) != 3:
        raise Unsupported("takes inputs without a batch axis")
    times = shape[1] // source.shape[1]
    arrays = [array[:, :, 0, 0].repeat_interleave(times, 1)[..., None].expand(shape) for array in source.arrays]
    return c.settled(shape, arrays, source.why)


def folded(c: Coupler, node: fx.Node, a: Arguments) -> Value:
    """``col2im``: ``[N, C x k, L]`` to ``[N, C, H, W]``; all elements of a patch go together."""
    source = c.keep(c.of(source_of(node)), [-1], node)
    shape = c.shape(node)
    if len(shape) != 4:
        raise Unsupported("takes inputs without a batch axis")
    split = (shape[0], shape[1], source.shape[1] // shape[1])
    value = c.settled(split, [array[:, :, 0].reshape(split) for array in source.arrays], source.why)
    value = c.keep(value, [2], node)
    arrays = [array[:, :, :1, None].expand(shape) for array in value.arrays]
    return c.settled(shape, arrays, value.why)


def gather(c: Coupler, node: fx.Node, a: Arguments) -> Result:
    """Selection along one dimension by a tensor of indices, which has the output's shape."""
    return _apart(c, node, int(a["dim"]), [c.of(source_of(node)), c.of(a["index"])])


def scatter(c: Coupler, node: fx.Node, a: Arguments) -> Result:
    """Values added or written at indices along one dimension; the other dimensions are independent."""
    return _apart(c, node, int(a["dim"]), [c.of(a[name]) for name in ("self", "index", "src")])


def _apart(c: Coupler, node: fx.Node, dim: int, operands: list[Value]) -> Result:
    """Combine operands along all dimensions except ``dim``, of which all channels must stay."""
    shape = c.shape(node)
    dim %= len(shape)
    if any(size != wanted for x in operands for axis, (size, wanted) in enumerate(zip(x.shape, shape)) if axis != dim):
        raise Unsupported("selects a part of its other dimensions")
    operands = [c.keep(item, [dim], node) for item in operands]
    index = tuple(slice(0, 1) if axis == dim else slice(None) for axis in range(len(shape)))
    flat = tuple(1 if axis == dim else size for axis, size in enumerate(shape))
    met = c.meet(node, [Value(flat, [array[index] for array in item.arrays]) for item in operands])
    return c.settled(shape, [array.expand(shape) for array in met.arrays], operands[0].why or met.why)


def index(c: Coupler, node: fx.Node, a: Arguments) -> Result:
    """Selection by integer tensors: all channels of the indexed dimensions must stay."""
    source = c.of(source_of(node))
    indices = a["indices"]
    for item in indices:
        if item is not None:
            c.lock(c.of(item), f"{describe(node)} uses it as an index")
            if c.concrete[item].dtype in (torch.bool, torch.uint8):
                raise Unsupported("selects by a mask")
    return moved(c, node, c.keep(source, [dim for dim, item in enumerate(indices) if item is not None], node))


def index_select(c: Coupler, node: fx.Node, a: Arguments) -> Result:
    """Selection along one dimension."""
    c.lock(c.of(a["index"]), f"{describe(node)} uses it as an index")
    return moved(c, node, c.keep(c.of(source_of(node)), [int(a["dim"])], node))


RULES: dict[str, Callable[[Coupler, fx.Node, Arguments], Result]] = {
    "pixel_shuffle": pixel_shuffle,
    "im2col": patches,
    "col2im": folded,
    "gather": gather,
    **dict.fromkeys(("scatter_add", "scatter_reduce"), scatter),
    "index": index,
    "index_select": index_select,
}
