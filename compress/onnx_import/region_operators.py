"""Operators that sample a tensor where another tensor says: deformable convolution, and regions of interest."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional

from .operator_call import Call, Operator
from .shape_arithmetic import whole


def _deform_conv(call: Call) -> torch.Tensor:
    """Deformable convolution, with a mask as in its second version (Zhu et al., 2019, https://arxiv.org/abs/1811.11168).

    The elements under each tap of the kernel are sampled at their offsets, and multiplied with the weights.
    """
    value, weight, offset = call.tensor(0), call.tensor(1), call.tensor(2)
    if value.dim() != 4:
        raise call.refuse(f"it has {value.dim() - 2} spatial axes, and only two are supported")
    groups, blocks = int(call.get("group", 1)), int(call.get("offset_group", 1))
    strides, dilations, pads = (
        [int(item) for item in whole(call.get(name, [default] * 4))]
        for name, default in (("strides", 1), ("dilations", 1), ("pads", 0))
    )
    count, channels, high, wide = value.shape
    taps = weight.shape[2] * weight.shape[3]
    rows, columns = offset.shape[2:]
    moved = offset.reshape(count * blocks, taps, 2, rows, columns)
    grids = [
        _grid(moved[:, :, axis], axis, size, weight.shape[2:], strides[axis], dilations[axis], pads[axis])
        for axis, size in enumerate((high, wide))
    ]
    grid = torch.stack([grids[1], grids[0]], -1).reshape(count * blocks, taps * rows, columns, 2)
    parts = value.reshape(count * blocks, channels // blocks, high, wide)
    sampled = functional.grid_sample(parts, grid, "bilinear", "zeros", align_corners=False)
    sampled = sampled.reshape(count, blocks, channels // blocks, taps, rows * columns)
    mask = call.optional(4)
    if mask is not None:
        sampled = sampled * mask.reshape(count, blocks, 1, taps, rows * columns)
    inside = channels // groups * taps
    product = weight.reshape(1, groups, -1, inside) @ sampled.reshape(count, groups, inside, rows * columns)
    result = product.reshape(count, weight.shape[0], rows, columns)
    bias = call.optional(3)
    return result if bias is None else result + bias.reshape(1, -1, 1, 1)


def _grid(
    offset: torch.Tensor, axis: int, size: Any, kernel: torch.Size, stride: int, dilation: int, pad: int
) -> torch.Tensor:
    """Coordinates of the taps along an axis, ``[N, K, H, W]``, from -1 to 1 between the edges of the tensor."""
    places = torch.arange(offset.shape[2 + axis], dtype=offset.dtype, device=offset.device) * stride - pad
    taps = torch.arange(kernel[axis], dtype=offset.dtype, device=offset.device) * dilation
    taps = taps.repeat_interleave(kernel[1]) if axis == 0 else taps.repeat(kernel[0])
    shape = (1, 1, -1, 1) if axis == 0 else (1, 1, 1, -1)
    found: torch.Tensor = (2 * (offset + taps.reshape(1, -1, 1, 1) + places.reshape(shape)) + 1) / size - 1
    return found


def _roi_align(call: Call) -> torch.Tensor:
    """Means of samples in the cells of each region (He et al., 2017, https://arxiv.org/abs/1703.06870)."""
    value, regions, owners = call.tensor(0), call.tensor(1), call.tensor(2)
    ratio = int(call.get("sampling_ratio", 0))
    if call.get("mode", "avg") != "avg":
        raise call.refuse("it takes maxima of samples")
    if ratio < 1:
        raise call.refuse("the number of samples depends on the regions (`sampling_ratio` is 0)")
    frame = call.get("coordinate_transformation_mode", "half_pixel" if call.opset >= 16 else "output_half_pixel")
    sizes = int(call.get("output_height", 1)), int(call.get("output_width", 1))
    scale, shift = float(call.get("spatial_scale", 1.0)), 0.5 if frame == "half_pixel" else 0.0
    grids, inside = [], []
    for axis in (0, 1):
        first, last = (regions[:, column] * scale - shift for column in (1 - axis, 3 - axis))
        extent = last - first if frame == "half_pixel" else (last - first).clamp(min=1.0)
        steps = (torch.arange(sizes[axis] * ratio, dtype=value.dtype, device=value.device) + 0.5) / ratio
        places = first[:, None] + steps * (extent / sizes[axis])[:, None]
        size = value.shape[2 + axis]
        inside.append((places >= -1) & (places <= size))
        grids.append((2 * places.clamp(min=0).clamp(max=size - 1) + 1) / size - 1)
    rows, columns = sizes[0] * ratio, sizes[1] * ratio
    grid = torch.stack(
        [grids[1][:, None, :].expand(-1, rows, -1), grids[0][:, :, None].expand(-1, -1, columns)], dim=-1
    )
    sampled = functional.grid_sample(value[owners], grid, "bilinear", "border", align_corners=False)
    sampled = sampled * (inside[0][:, None, :, None] & inside[1][:, None, None, :])
    return functional.avg_pool2d(sampled, ratio)


OPERATORS: dict[str, Operator] = {"DeformConv": _deform_conv, "RoiAlign": _roi_align}
