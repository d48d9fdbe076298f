"""Data movement operators, which move, slice, concatenate and repeat values without computing new ones."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.nn import functional

from ...core.counts import counted
from ...core.errors import DataError, ModelError
from .elementwise_operators import DTYPES
from .operator_call import Call, Operator
from .shape_arithmetic import whole

_FAR = 2**31 - 1


def _shape(call: Call) -> list[Any]:
    return list(call.tensor(0).shape)[call.get("start", 0) : call.get("end")]


def _reshape(call: Call) -> torch.Tensor:
    value, shape = call.tensor(0), list(whole(call.host(1, "shape")))
    if not call.get("allowzero", 0):
        shape = [value.shape[axis] if _is(size, 0) else size for axis, size in enumerate(shape)]
    if call.batch is not None and shape:
        shape = _for_all_batches(call, value, shape, call.batch)
    return value.reshape(shape)


def _for_all_batches(call: Call, value: torch.Tensor, shape: list[Any], fixed: int) -> list[Any]:
    """A shape of a file that was written for a batch of ``fixed``, with the batch as it is now.

    The batch is on the axis with the size of the file's batch, the first one if there are several. Without such an
    axis it is folded into the first axis, as in ``[batch * steps, features]``.

    Raises:
        ModelError: no axis of the shape can have the batch.
    """
    rows, total = call.rows, math.prod(value.shape)
    own = None if rows is None or total % rows else _number(total // rows)
    if own is not None and -1 in shape[1:] and fixed not in shape:
        own = own * fixed  # as many elements as in the file
        shape = [own // -math.prod(shape) if _is(size, -1) else size for size in shape]
    free = any(_is(size, -1) for size in shape)
    if free or not all(isinstance(size, int) for size in shape):
        if _is(shape[0], fixed) and not _is(shape[0], -1):
            folded = rows is not None and value.shape[0] % rows == 0
            shape[0] = (rows if folded else value.shape[0]) if any(_is(size, -1) for size in shape[1:]) else -1
        return shape
    if total == math.prod(shape):
        return shape
    if fixed in shape:
        shape[shape.index(fixed)] = -1
    elif rows is not None and shape[0] % fixed == 0:
        shape[0] = shape[0] // fixed * rows
    else:
        raise ModelError(
            f"{call.node.describe()} has the constant shape {shape}, which fits a batch of {fixed} only",
            "export the model with a dynamic batch, or capture the PyTorch model",
        )
    return shape


def _number(size: Any) -> int | None:
    """A size that does not depend on any other; None if it does."""
    return size.node.maybe_as_int() if isinstance(size, torch.SymInt) else int(size)


def _is(size: Any, number: int | None) -> bool:
    return isinstance(size, int) and size == number


def _flatten(call: Call) -> torch.Tensor:
    value, axis = call.tensor(0), call.get("axis", 1)
    axis = axis % value.dim() if axis < 0 else axis
    if axis == 0:
        return value.reshape(1, -1)
    if axis == value.dim():
        return value.reshape(-1, 1)
    tail = value.flatten(axis)
    return tail if axis == 1 else tail.flatten(0, axis - 1)


def _transpose(call: Call) -> torch.Tensor:
    value = call.tensor(0)
    return value.permute(call.get("perm") or list(range(value.dim()))[::-1])


def _squeeze(call: Call) -> torch.Tensor:
    value, axes = call.tensor(0), call.axes(1)
    if axes is None:
        axes = [axis for axis, size in enumerate(value.shape) if _is(size, 1)]
    return value.squeeze(tuple(axes))


def _unsqueeze(call: Call) -> torch.Tensor:
    value, axes = call.tensor(0), call.axes(1) or []
    rank = value.dim() + len(axes)
    for axis in sorted(axis % rank for axis in axes):
        value = value.unsqueeze(axis)
    return value


def _concat(call: Call) -> torch.Tensor:
    return torch.cat([call.tensor(index) for index in range(len(call.values))], call.get("axis", 0))


def _split(call: Call) -> tuple[torch.Tensor, ...]:
    value, axis = call.tensor(0), call.get("axis", 0)
    sizes = call.host(1, "split")
    if sizes is None:
        count = call.get("num_outputs", len(call.node.outputs))
        sizes = -(-value.shape[axis] // count)
    return tuple(torch.split(value, sizes, axis))


def _slice(call: Call) -> torch.Tensor:
    value = call.tensor(0)
    starts, ends = whole(call.host(1, "starts")), whole(call.host(2, "ends"))
    axes = call.host(3, "axes")
    steps = call.host(4)
    axes = list(range(len(starts))) if axes is None else whole(axes)
    steps = [1] * len(starts) if steps is None else whole(steps)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        if step < 0:
            value = _backward(call, value, axis, start, end, step)
            continue
        key: list[Any] = [slice(None)] * value.dim()
        key[axis] = slice(start, None if isinstance(end, int) and end >= _FAR else end, step)
        value = value[tuple(key)]
    return value


def _backward(call: Call, value: torch.Tensor, axis: int, start: Any, end: Any, step: int) -> torch.Tensor:
    """A slice with a negative step: the part of the axis in reverse order, which is a slice of the reversed axis."""
    size = value.shape[axis]
    whole_axis = isinstance(end, int) and end <= -_FAR
    if isinstance(start, int) and (start == -1 or start >= _FAR) and whole_axis:
        first, stop = 0, None
    elif all(isinstance(item, int) for item in (size, start, end)):
        places = range(size)[slice(start, None if whole_axis else end, step)]
        first, stop = size - 1 - places.start, size - 1 - places.stop if places.stop >= 0 else None
        if not places:
            return value.narrow(axis, 0, 0)
    else:
        raise call.refuse("it runs backward over a part of a dynamic axis")
    key: list[Any] = [slice(None)] * value.dim()
    key[axis] = slice(first, stop, -step)
    return value.flip(axis)[tuple(key)]


def _gather(call: Call) -> torch.Tensor:
    value, axis, index = call.tensor(0), call.get("axis", 0), call.values[1]
    if isinstance(index, int):
        return value.select(axis, index)
    indices = call.tensor(1)
    if axis == 0 and value.dim() == 2 and indices.dim() > 0 and isinstance(value, torch.nn.Parameter):
        if _are_negative(call, indices, value.shape[0]):
            indices = _positive(indices, value.shape[0])
        return functional.embedding(indices.long(), value)
    axis = axis % value.dim()
    picked = value.index_select(axis, _positive(indices.reshape(-1).long(), value.shape[axis]))
    return picked.reshape(*value.shape[:axis], *indices.shape, *value.shape[axis + 1 :])


def _are_negative(call: Call, indices: torch.Tensor, rows: int) -> bool:
    """Whether indices of a table count from its end on samples, which few files do; plain tables stay embeddings.

    Raises:
        DataError: an index of the samples is outside the table.
    """
    if not torch.compiler.is_exporting() and indices.numel():
        least, most = int(indices.min()), int(indices.max())
        if least < -rows or most >= rows:
            raise DataError(
                f"{call.node.describe()} gets the index {most if most >= rows else least} for a table of "
                f"{counted(rows, 'row')}",
                "give samples whose indices are those for which the model was made",
            )
        if least < 0:
            call.negative.add(call.node.outputs[0])
    return call.node.outputs[0] in call.negative


def _positive(indices: torch.Tensor, size: Any) -> torch.Tensor:
    return torch.where(indices < 0, indices + size, indices)


def _gather_elements(call: Call) -> torch.Tensor:
    value, axis = call.tensor(0), call.get("axis", 0)
    return value.gather(axis, _positive(call.tensor(1).long(), value.shape[axis]))


def _gather_nd(call: Call) -> torch.Tensor:
    value, index, shared = call.tensor(0), call.tensor(1).long(), call.get("batch_dims", 0)
    places = list(index.unbind(-1))
    if shared:  # the leading axes are gathered each by itself
        ranks = places[0].dim()
        for axis in reversed(range(shared)):
            shape = [1] * ranks
            shape[axis] = -1
            places.insert(0, torch.arange(value.shape[axis], device=value.device).reshape(shape))
    return value[tuple(places)]


def _expand(call: Call) -> torch.Tensor:
    value, shape = call.tensor(0), whole(call.host(1))
    rank = max(value.dim(), len(shape))
    own = [1] * (rank - value.dim()) + list(value.shape)
    wanted = [1] * (rank - len(shape)) + list(shape)
    return value.expand([b if _is(a, 1) else a for a, b in zip(own, wanted, strict=True)])


def _pad(call: Call) -> torch.Tensor:
    value, mode = call.tensor(0), call.get("mode", "constant")
    pads, fill, axes = whole(call.host(1, "pads")), call.host(2, "value", 0.0), call.host(3)
    fill = 0.0 if fill is None else float(whole(fill)[0])
    half = len(pads) // 2
    named = list(range(half)) if axes is None else [axis % value.dim() for axis in whole(axes)]
    by_axis = {axis: (pads[index], pads[index + half]) for index, axis in enumerate(named)}
    modes = {"constant": "constant", "reflect": "reflect", "edge": "replicate", "wrap": "circular"}
    used = [axis for axis, pair in by_axis.items() if not all(_is(size, 0) for size in pair)]
    if not used:
        return value
    first = min(used) if mode == "constant" or value.dim() < 4 else 2
    if min(used) < first:
        raise call.refuse(f"it pads the batch or the channels by '{mode}'")
    flat = [size for axis in range(value.dim() - 1, first - 1, -1) for size in by_axis.get(axis, (0, 0))]
    if mode == "constant":
        return functional.pad(value, flat, value=fill)
    return functional.pad(value, flat, mode=modes[mode])


def _tile(call: Call) -> torch.Tensor:
    return call.tensor(0).repeat(whole(call.host(1)))


def _filled(call: Call) -> torch.Tensor:
    value = call.get("value")
    item = 0.0 if value is None else value.reshape(-1)[0].item()
    kind = torch.float32 if value is None else torch.from_numpy(value.reshape(-1)[:1].copy()).dtype
    return torch.full(whole(call.host(0)), item, dtype=kind)


def _range(call: Call) -> torch.Tensor:
    return torch.arange(*(whole(call.host(index))[0] for index in range(3)))


def _depth_to_space(call: Call) -> torch.Tensor:
    value, block = call.tensor(0), call.get("blocksize")
    if call.get("mode", "DCR") == "CRD":
        return functional.pixel_shuffle(value, block)
    count, channels, height, width = value.shape
    split = value.reshape(count, block, block, channels // block**2, height, width)
    return split.permute(0, 3, 4, 1, 5, 2).reshape(count, channels // block**2, height * block, width * block)


def _space_to_depth(call: Call) -> torch.Tensor:
    value, block = call.tensor(0), call.get("blocksize")
    count, channels, height, width = value.shape
    split = value.reshape(count, channels, height // block, block, width // block, block)
    order = (0, 1, 3, 5, 2, 4) if call.get("mode", "DCR") == "CRD" else (0, 3, 5, 1, 2, 4)
    return split.permute(order).reshape(count, channels * block**2, height // block, width // block)


def _trilu(call: Call) -> torch.Tensor:
    diagonal = whole(call.host(1, default=0))[0]
    return (torch.triu if call.get("upper", 1) else torch.tril)(call.tensor(0), diagonal)


def _cumsum(call: Call) -> torch.Tensor:
    return _cumulative(call, torch.cumsum, 0)


def _cumprod(call: Call) -> torch.Tensor:
    return _cumulative(call, torch.cumprod, 1)


def _cumulative(call: Call, function: Any, first: int) -> torch.Tensor:
    """Running sums or products; exclusive ones begin with ``first``, reversed ones at the end."""
    value, axis = call.tensor(0), int(whole(call.host(1))[0])
    value = value.flip(axis) if call.get("reverse", 0) else value
    if call.get("exclusive", 0):
        edge = torch.full_like(value.narrow(axis, 0, 1), first)
        value = torch.cat([edge, value.narrow(axis, 0, value.shape[axis] - 1)], axis)
    found: torch.Tensor = function(value, axis).to(value.dtype)
    return found.flip(axis) if call.get("reverse", 0) else found


def _top_k(call: Call) -> tuple[torch.Tensor, ...]:
    count = whole(call.host(1, "k"))[0]
    return tuple(torch.topk(call.tensor(0), count, call.get("axis", -1), bool(call.get("largest", 1))))


def _eye_like(call: Call) -> torch.Tensor:
    value, diagonal = call.tensor(0), call.get("k", 0)
    kind = DTYPES.get(call.get("dtype", 0), value.dtype)
    rows, columns = (torch.arange(size, device=value.device) for size in value.shape)
    return torch.eq(columns.unsqueeze(0) - rows.unsqueeze(1), diagonal).to(kind)


def _center_crop_pad(call: Call) -> torch.Tensor:
    """Cropped at both ends, or padded with zeros; of an odd number, ONNX takes the smaller half first."""
    value, sizes = call.tensor(0), whole(call.host(1))
    axes = call.get("axes") or list(range(value.dim()))
    for axis, size in zip(axes, sizes, strict=True):
        own = value.shape[axis]
        if own > size:
            value = value.narrow(axis, (own - size) // 2, size)
        elif own < size:
            flat = [0, 0] * value.dim()
            before = (size - own) // 2
            place = 2 * (value.dim() - 1 - axis % value.dim())
            flat[place : place + 2] = [before, size - own - before]
            value = functional.pad(value, flat)
    return value


OPERATORS: dict[str, Operator] = {
    "Shape": _shape, "Size": lambda call: call.tensor(0).numel(), "Reshape": _reshape, "Flatten": _flatten,
    "Transpose": _transpose, "Squeeze": _squeeze, "Unsqueeze": _unsqueeze, "Concat": _concat, "Split": _split,
    "Slice": _slice, "Gather": _gather, "GatherElements": _gather_elements, "GatherND": _gather_nd, "Expand": _expand,
    "Pad": _pad, "Tile": _tile, "ConstantOfShape": _filled, "Range": _range, "DepthToSpace": _depth_to_space,
    "SpaceToDepth": _space_to_depth, "Trilu": _trilu, "CumSum": _cumsum, "CumProd": _cumprod, "TopK": _top_k,
    "EyeLike": _eye_like, "CenterCropPad": _center_crop_pad,
}  # fmt: skip
