"""Operators that sample images between their points: resize in every mode and frame, grids and regions."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.fx.experimental.symbolic_shapes import statically_known_true
from torch.nn import functional

from .operator_call import Call, Operator
from .shape_arithmetic import whole

Weights = NDArray[np.float64]


def _resize(call: Call) -> torch.Tensor:
    """``Resize`` and ``Upsample``: PyTorch's interpolation where it computes the same, else a product per axis."""
    value, mode = call.tensor(0), call.get("mode", "nearest")
    frame = call.get("coordinate_transformation_mode", "half_pixel")
    old = call.node.operator == "Upsample" or call.opset < 11
    if old:
        frame = "asymmetric"
    scales, sizes = _scales(call, value, old)
    axes = [
        axis for axis, (a, b) in enumerate(zip(sizes, value.shape, strict=True)) if not _is_same(a, b, scales[axis])
    ]
    spatial = value.dim() >= 3 and all(axis >= 2 for axis in axes)
    if axes and spatial and _is_pytorch(call, mode, frame, value, sizes, scales, old):
        return _interpolated(mode, frame, value, sizes[2:], old, call)
    for axis in axes:
        value = _resized_axis(call, value, axis, mode, frame, scales[axis], sizes[axis], old)
    return value


def _is_same(size: Any, own: Any, scale: float | None) -> bool:
    return scale == 1.0 or (scale is None and _is_equal(size, own))


def _is_equal(size: Any, own: Any) -> bool:
    """Whether two sizes are the same for every batch: numbers, or the same formula (sizes that a file reads back)."""
    return statically_known_true(size == own)


def _scales(call: Call, value: torch.Tensor, old: bool) -> tuple[list[float | None], list[Any]]:
    """For every axis the scale that the file gives, or None, and the size of the result."""
    given = whole(call.host(1, "scales")) if old else _listed(call.host(2))
    wanted = None if old else _listed(call.host(3))
    axes = call.get("axes") or list(range(value.dim()))
    scales: list[float | None] = [1.0] * value.dim()
    sizes: list[Any] = list(value.shape)
    policy = call.get("keep_aspect_ratio_policy", "stretch")
    if wanted:
        if policy != "stretch":
            ratios = [size / value.shape[axis] for size, axis in zip(wanted, axes, strict=True)]
            ratio = min(ratios) if policy == "not_larger" else max(ratios)
            wanted = [int(ratio * value.shape[axis] + 0.5) for axis in axes]
        for axis, size in zip(axes, wanted, strict=True):
            scales[axis], sizes[axis] = (1.0 if _is_equal(size, value.shape[axis]) else None), size
            if policy != "stretch":
                scales[axis] = ratio
    else:
        for axis, scale in zip(axes, given or [], strict=True):
            scales[axis], sizes[axis] = float(scale), _scaled(value.shape[axis], float(scale))
    return scales, sizes


def _listed(value: Any) -> list[Any]:
    return [] if value is None else whole(value)


def _scaled(size: Any, scale: float) -> Any:
    return size * int(scale) if scale == int(scale) else math.floor(size * scale)


def _is_pytorch(
    call: Call, mode: str, frame: str, value: torch.Tensor, sizes: list[Any], scales: list[float | None], old: bool
) -> bool:
    """Whether ``interpolate`` computes the same: its scale is that of the sizes, which the file's scale must be too."""
    if call.get("antialias", 0) or call.get("exclude_outside", 0) or value.dim() > 5:
        return False
    pairs = list(zip(value.shape[2:], sizes[2:], scales[2:], strict=True))
    exact = all(scale is None or scale == int(scale) or _is_exact(own, size, scale) for own, size, scale in pairs)
    if mode == "nearest":
        rounding = call.get("nearest_mode", "round_prefer_floor")
        steps = all(_is_multiple(size, own, scale) for own, size, scale in pairs)
        if frame == "asymmetric" and (rounding == "floor" or old):
            return exact
        # With an integer factor, all frames select the same neighbours except for ties, which half_pixel avoids.
        return steps and frame in ("half_pixel", "pytorch_half_pixel") and rounding.startswith("round")
    if mode == "cubic" and (value.dim() != 4 or call.get("cubic_coeff_a", -0.75) != -0.75):
        return False
    one = any(isinstance(size, int) and size == 1 for _, size, _ in pairs)
    return exact and not one and frame in ("half_pixel", "pytorch_half_pixel", "align_corners")


def _is_exact(own: Any, size: Any, scale: float) -> bool:
    return isinstance(own, int) and isinstance(size, int) and abs(own * scale - size) < 1e-6 * size


def _is_multiple(size: Any, own: Any, scale: float | None) -> bool:
    if scale is not None:
        return scale == int(scale) and scale >= 1
    return isinstance(size, int) and isinstance(own, int) and size % own == 0


def _interpolated(mode: str, frame: str, value: torch.Tensor, size: list[Any], old: bool, call: Call) -> torch.Tensor:
    if mode == "nearest":
        name = "nearest" if frame == "asymmetric" else "nearest-exact"
        return functional.interpolate(value, size=size, mode=name)
    name = "bicubic" if mode == "cubic" else {1: "linear", 2: "bilinear", 3: "trilinear"}[len(size)]
    return functional.interpolate(value, size=size, mode=name, align_corners=frame == "align_corners")


def _resized_axis(
    call: Call, value: torch.Tensor, axis: int, mode: str, frame: str, scale: float | None, size: Any, old: bool
) -> torch.Tensor:
    """One axis by a constant matrix, or by a constant index for neighbours."""
    own = value.shape[axis]
    if not isinstance(own, int) or not isinstance(size, int):
        raise call.refuse(
            f"it resizes a dynamic axis in the mode '{mode}' with the frame '{frame}', for which PyTorch has no "
            "operator; export the model with a fixed size"
        )
    ratio = size / own if scale is None else scale
    places = _places(call, frame, own, size, ratio, axis)
    if mode == "nearest":
        rounding = "floor" if old else call.get("nearest_mode", "round_prefer_floor")
        index = _neighbours(places, rounding)
        found = value.index_select(axis, torch.from_numpy(np.clip(index, 0, own - 1)))
        outside = (places < 0) | (places > own - 1)
        if frame != "tf_crop_and_resize" or not outside.any():
            return found
        shape = [1] * value.dim()
        shape[axis] = -1
        return torch.where(torch.from_numpy(outside).reshape(shape), _extrapolation(call), found)
    matrix = _matrix(call, mode, places, own, ratio)
    moved = value.movedim(axis, -1)
    found = torch.matmul(moved, torch.from_numpy(matrix.T.astype(np.float32)).to(value.dtype)).movedim(-1, axis)
    outside = (places < 0) | (places > own - 1)
    if frame == "tf_crop_and_resize" and outside.any():
        shape = [1] * value.dim()
        shape[axis] = -1
        return torch.where(torch.from_numpy(outside).reshape(shape), _extrapolation(call), found)
    return found


def _extrapolation(call: Call) -> float:
    return float(call.get("extrapolation_value", 0.0))


def _places(call: Call, frame: str, own: int, size: int, ratio: float, axis: int) -> Weights:
    """The coordinate in the input of every element of the output (ONNX, Resize, coordinate_transformation_mode)."""
    index = np.arange(size, dtype=np.float64)
    if frame == "align_corners":
        length = ratio * own
        return index * (own - 1) / (length - 1) if length > 1 and size > 1 else np.zeros(size)
    if frame == "asymmetric":
        return index / ratio
    if frame == "tf_crop_and_resize":
        region = whole(call.host(1))
        named = call.get("axes")
        place = named.index(axis) if named else axis
        start, end = float(region[place]), float(region[place + len(region) // 2])
        if size > 1:
            return start * (own - 1) + index * (end - start) * (own - 1) / (size - 1)
        return np.full(size, 0.5 * (start + end) * (own - 1))
    if frame == "pytorch_half_pixel":
        return (index + 0.5) / ratio - 0.5 if size > 1 else np.zeros(size)
    if frame == "tf_half_pixel_for_nn":
        return (index + 0.5) / ratio
    if frame == "half_pixel_symmetric":
        adjustment = size / (ratio * own)
        return own / 2 * (1 - adjustment) + (index + 0.5) / ratio - 0.5
    if frame == "half_pixel":
        return (index + 0.5) / ratio - 0.5
    raise call.refuse(f"its coordinate transformation '{frame}' is unknown")


def _neighbours(places: Weights, rounding: str) -> NDArray[np.int64]:
    if rounding == "floor":
        found = np.floor(places)
    elif rounding == "ceil":
        found = np.ceil(places)
    elif rounding == "round_prefer_ceil":
        found = np.floor(places + 0.5)
    else:
        found = np.ceil(places - 0.5)
    return found.astype(np.int64)


def _matrix(call: Call, mode: str, places: Weights, own: int, ratio: float) -> Weights:
    """Weights ``[out, in]`` of linear or cubic interpolation, with or without antialiasing."""
    cubic = mode == "cubic"
    coefficient = call.get("cubic_coeff_a", -0.75) if call.opset >= 11 else -0.75
    wide = max(1.0, 1.0 / ratio) if call.get("antialias", 0) else 1.0
    reach = math.ceil((2 if cubic else 1) * wide) + 1
    matrix = np.zeros((len(places), own))
    for row, place in enumerate(places):
        base = math.floor(place)
        taps = np.arange(base - reach, base + reach + 1)
        distances = np.abs(place - taps) / wide
        weights = _cubic(distances, coefficient) if cubic else np.maximum(0.0, 1.0 - distances)
        inside = (taps >= 0) & (taps < own)
        if call.get("exclude_outside", 0):
            weights = np.where(inside, weights, 0.0)
        if wide > 1.0 or call.get("exclude_outside", 0):
            weights = weights / weights.sum()
        np.add.at(matrix[row], np.clip(taps, 0, own - 1), weights)
    return matrix


def _cubic(distance: Weights, a: float) -> Weights:
    """Keys' kernel (IEEE Trans. ASSP 29(6), 1981)."""
    near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
    far = ((a * distance - 5 * a) * distance + 8 * a) * distance - 4 * a
    return np.where(distance <= 1, near, np.where(distance < 2, far, 0.0))


def _grid_sample(call: Call) -> torch.Tensor:
    mode = {"linear": "bilinear", "cubic": "bicubic"}.get(call.get("mode", "bilinear"), call.get("mode", "bilinear"))
    padding, aligned = call.get("padding_mode", "zeros"), bool(call.get("align_corners", 0))
    value, grid = call.tensor(0), call.tensor(1)
    return functional.grid_sample(value, grid.to(value.dtype), mode, padding, aligned)


OPERATORS: dict[str, Operator] = {"Resize": _resize, "Upsample": _resize, "GridSample": _grid_sample}
