"""Data movement operators, which move, slice, concatenate and repeat values without computing new ones."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional

from .operator_call import Call, Operator
from .shape_arithmetic import whole

_FAR = 2**31 - 1


def _shape(call: Call) -> list[Any]:
    return list(call.tensor(0).shape)[call.get("start", 0) : call.get("end")]


def _reshape(call: Call) -> torch.Tensor:
    value, shape = call.tensor(0), list(whole(call.host(1, "shape")))
    if not call.get("allowzero", 0):
        shape = [value.shape[axis] if _is(size, 0) else size for axis, size in enumerate(shape)]
    if call.batch is not None and shape and _is(shape[0], call.batch):
        # The file was written for one batch size; the first axis is the batch axis, which is dynamic now.
        shape[0] = value.shape[0] if any(_is(size, -1) for size in shape[1:]) else -1
    return value.reshape(shape)


def _is(size: Any, number: int) -> bool:
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
            value = _reversed(call, value, axis, start, end, step)
            continue
        key: list[Any] = [slice(None)] * value.dim()
        key[axis] = slice(start, None if isinstance(end, int) and end >= _FAR else end, step)
        value = value[tuple(key)]
    return value


def _reversed(call: Call, value: torch.Tensor, axis: int, start: int, end: int, step: int) -> torch.Tensor:
    if step != -1 or start not in (-1, _FAR, 2**63 - 1) or end > -_FAR:
        raise call.refuse("it has a negative step over a part of an axis")
    return value.flip(axis)


def _gather(call: Call) -> torch.Tensor:
    value, axis, index = call.tensor(0), call.get("axis", 0), call.values[1]
    if isinstance(index, int):
        return value.select(axis, index)
    indices = call.tensor(1)
    if axis == 0 and value.dim() == 2 and indices.dim() > 0 and isinstance(value, torch.nn.Parameter):
        return functional.embedding(indices.long(), value)
    axis = axis % value.dim()
    picked = value.index_select(axis, _positive(indices.reshape(-1).long(), value.shape[axis]))
    return picked.reshape(*value.shape[:axis], *indices.shape, *value.shape[axis + 1 :])


def _positive(indices: torch.Tensor, size: Any) -> torch.Tensor:
    return torch.where(indices < 0, indices + size, indices)


def _gather_elements(call: Call) -> torch.Tensor:
    value, axis = call.tensor(0), call.get("axis", 0)
    return value.gather(axis, _positive(call.tensor(1).long(), value.shape[axis]))


def _gather_nd(call: Call) -> torch.Tensor:
    if call.get("batch_dims", 0):
        raise call.refuse("it gathers per batch item")
    return call.tensor(0)[tuple(call.tensor(1).long().unbind(-1))]


def _expand(call: Call) -> torch.Tensor:
    value, shape = call.tensor(0), whole(call.host(1))
    rank = max(value.dim(), len(shape))
    own = [1] * (rank - value.dim()) + list(value.shape)
    wanted = [1] * (rank - len(shape)) + list(shape)
    return value.expand([b if _is(a, 1) else a for a, b in zip(own, wanted, strict=True)])


def _pad(call: Call) -> torch.Tensor:
    value, mode = call.tensor(0), call.get("mode", "constant")
    pads, fill, axes = whole(call.host(1, "pads")), call.host(2, "value", 0.0), call.host(3)
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
        return functional.pad(value, flat, value=0.0 if fill is None else float(fill))
    return functional.pad(value, flat, mode=modes[mode])


def _tile(call: Call) -> torch.Tensor:
    return call.tensor(0).repeat(whole(call.host(1)))


def _filled(call: Call) -> torch.Tensor:
    value = call.get("value")
    item = 0.0 if value is None else value.reshape(-1)[0].item()
    kind = torch.float32 if value is None else torch.from_numpy(value.reshape(-1)[:1].copy()).dtype
    return torch.full(whole(call.host(0)), item, dtype=kind)


def _range(call: Call) -> torch.Tensor:
    return torch.arange(call.host(0), call.host(1), call.host(2))


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
    return split.permute(0, 3, 5, 1, 2, 4).reshape(count, channels * block**2, height // block, width // block)


def _trilu(call: Call) -> torch.Tensor:
    diagonal = call.host(1, default=0) or 0
    return (torch.triu if call.get("upper", 1) else torch.tril)(call.tensor(0), diagonal)


def _cumsum(call: Call) -> torch.Tensor:
    if call.get("exclusive", 0) or call.get("reverse", 0):
        raise call.refuse("its sum is exclusive or reversed")
    return call.tensor(0).cumsum(int(call.host(1)))


def _top_k(call: Call) -> tuple[torch.Tensor, ...]:
    count = whole(call.host(1, "k"))[0]
    return tuple(torch.topk(call.tensor(0), count, call.get("axis", -1), bool(call.get("largest", 1))))


def _resize(call: Call) -> torch.Tensor:
    value = call.tensor(0)
    mode, frame = call.get("mode", "nearest"), call.get("coordinate_transformation_mode", "half_pixel")
    if call.node.operator == "Upsample" or call.opset < 11:
        frame, scales, sizes = "asymmetric", call.host(1, "scales"), None
    else:
        scales, sizes = call.host(2) or None, call.host(3)
    size = whole(sizes)[2:] if sizes is not None else [_scaled(n, s) for n, s in zip(value.shape[2:], scales[2:])]
    if mode == "nearest":
        return _nearest(call, value, size, frame)
    names = {1: "linear", 2: "bilinear", 3: "trilinear"}
    name = "bicubic" if mode == "cubic" else names[len(size)]
    if frame not in ("half_pixel", "pytorch_half_pixel", "align_corners") or call.get("antialias", 0):
        raise call.refuse(f"it interpolates with the coordinate transformation '{frame}'")
    if mode == "cubic" and call.get("cubic_coeff_a", -0.75) != -0.75:
        raise call.refuse("its cubic coefficient is not -0.75")
    return functional.interpolate(value, size=size, mode=name, align_corners=frame == "align_corners")


def _scaled(size: Any, scale: float) -> Any:
    return size * int(scale) if scale == int(scale) else int(size * scale)


def _nearest(call: Call, value: torch.Tensor, size: list[Any], frame: str) -> torch.Tensor:
    rounding = call.get("nearest_mode", "round_prefer_floor")
    whole_steps = all(isinstance(a, int) and isinstance(b, int) and a % b == 0 for a, b in zip(size, value.shape[2:]))
    if frame == "asymmetric" and (rounding == "floor" or call.opset < 11):
        return functional.interpolate(value, size=size, mode="nearest")
    # With an integer factor, all coordinate frames select the same neighbours except for ties, which half_pixel avoids.
    if whole_steps and frame in ("half_pixel", "pytorch_half_pixel"):
        return functional.interpolate(value, size=size, mode="nearest-exact")
    raise call.refuse(f"it selects neighbours by '{rounding}' with the coordinate transformation '{frame}'")


OPERATORS: dict[str, Operator] = {
    "Shape": _shape, "Size": lambda call: call.tensor(0).numel(), "Reshape": _reshape, "Flatten": _flatten,
    "Transpose": _transpose, "Squeeze": _squeeze, "Unsqueeze": _unsqueeze, "Concat": _concat, "Split": _split,
    "Slice": _slice, "Gather": _gather, "GatherElements": _gather_elements, "GatherND": _gather_nd, "Expand": _expand,
    "Pad": _pad, "Tile": _tile, "ConstantOfShape": _filled, "Range": _range, "DepthToSpace": _depth_to_space,
    "SpaceToDepth": _space_to_depth, "Trilu": _trilu, "CumSum": _cumsum, "TopK": _top_k, "Resize": _resize,
    "Upsample": _resize,
}  # fmt: skip
