"""Resizing (`nn.functional.interpolate`) as ONNX's Resize, with the sizes and the coordinates that PyTorch computes.

PyTorch multiplies sizes and coordinates by the given factor in double precision; Resize takes it in single precision,
where 1.3 times 20 is less than 26. Among the nearest numbers in single precision one is chosen that gives PyTorch's
size, and for the mode `nearest` PyTorch's elements. If there is none, elements are taken by index.
Coordinates follow https://onnx.ai/onnx/operators/onnx__Resize.html: `half_pixel` and `align_corners` are those of
PyTorch, also for one element (`pytorch_half_pixel` takes the first element there, as PyTorch did until 1.4).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from onnxscript import opset18

from ..core.tensors import Array

op: Any = opset18  # its annotations do not include Python numbers, which it accepts
_CUBIC = {"mode": "cubic", "cubic_coeff_a": -0.75}
_ANTIALIASED = {"antialias": 1, "exclude_outside": 1}  # PyTorch's weights of the elements inside sum to 1
_NEIGHBOURS = (0, 1, -1, 2, -2, 3, -3)
_PRECISIONS: tuple[Any, ...] = (np.float32, np.float64)
"""In which runtimes and checkers multiply a size by a scale."""
_SIZES = 4096
"""Sizes of a dynamic axis for which a factor must be right."""


def forms() -> dict[Callable[..., Any], Callable[..., Any]]:
    """Translations for ``torch.onnx.export``'s ``custom_translation_table``."""
    import torch

    aten = torch.ops.aten
    antialiased: dict[Any, dict[str, Any]] = {
        aten._upsample_bilinear2d_aa.default: {"mode": "linear"},
        aten._upsample_bicubic2d_aa.default: {"mode": "cubic", "cubic_coeff_a": -0.5},
    }
    return {
        aten.upsample_linear1d.vec: _linear,
        aten.upsample_bilinear2d.vec: _linear,
        aten.upsample_trilinear3d.vec: _linear,
        aten.upsample_bicubic2d.vec: _cubic,
        aten.upsample_nearest1d.vec: _nearest,
        aten.upsample_nearest2d.vec: _nearest,
        aten.upsample_nearest3d.vec: _nearest,
        aten._upsample_nearest_exact1d.vec: _nearest_exact,
        aten._upsample_nearest_exact2d.vec: _nearest_exact,
        aten._upsample_nearest_exact3d.vec: _nearest_exact,
        **{form: _antialiased(form, attributes) for form, attributes in antialiased.items()},
    }


def _linear(x: Any, output_size: Any, align_corners: bool, scale_factors: Any) -> Any:
    """``[N, C, …]`` to ``[N, C, …]`` of other sizes, as the other forms."""
    return _resize(x, output_size, scale_factors, align_corners, mode="linear")


def _cubic(x: Any, output_size: Any, align_corners: bool, scale_factors: Any) -> Any:
    return _resize(x, output_size, scale_factors, align_corners, **_CUBIC)


def _antialiased(form: Callable[..., Any], attributes: Mapping[str, Any]) -> Callable[..., Any]:
    """The translation of an antialiased form with these attributes of Resize."""

    def _written(
        x: Any, output_size: Any, align_corners: bool, scales_h: float | None = None, scales_w: float | None = None
    ) -> Any:
        factors = _both(scales_h, scales_w)
        if align_corners:
            return _by_matrices(x, output_size, factors, form)
        return _resize(x, output_size, factors, False, **attributes, **_ANTIALIASED)

    return _written


def _both(height: float | None, width: float | None) -> list[float] | None:
    return None if height is None or width is None else [height, width]


def _resize(x: Any, sizes: Any, factors: Sequence[float] | None, align_corners: bool, **attributes: Any) -> Any:
    attributes["coordinate_transformation_mode"] = "align_corners" if align_corners else "half_pixel"
    if factors is None:
        return _by_sizes(x, sizes, **attributes)
    scales = [_scale(factor, size, None) for factor, size in zip(factors, _sizes(x), strict=True)]
    known = [np.float32(factor) if scale is None else scale for factor, scale in zip(factors, scales, strict=True)]
    return _by_scales(x, known, **attributes)


def _nearest(x: Any, output_size: Any, scale_factors: Any) -> Any:
    how = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    return _elements(x, output_size, scale_factors, 0.0, how)


def _nearest_exact(x: Any, output_size: Any, scale_factors: Any) -> Any:
    how = {"coordinate_transformation_mode": "half_pixel", "nearest_mode": "round_prefer_ceil"}
    return _elements(x, output_size, scale_factors, 0.5, how)


def _by_matrices(x: Any, wanted: Sequence[Any], factors: Sequence[float] | None, form: Callable[..., Any]) -> Any:
    """Products with PyTorch's weights along both axes; Resize has others where corners are aligned."""
    import torch

    sizes, given = _sizes(x), factors if factors is not None else (None, None)
    if not all(isinstance(size, int) for size in (*sizes, *wanted)):
        raise NotImplementedError("antialiasing with `align_corners` on axes of dynamic size has no form in ONNX")
    rows, columns = (
        form(torch.eye(int(size or 0))[None, None], [goal, size], True, factor, None)[0, 0].numpy()
        for size, goal, factor in zip(sizes, wanted, given, strict=True)
    )
    turned = op.Constant(value=ir.tensor(np.ascontiguousarray(columns.T)))
    return op.MatMul(op.Constant(value=ir.tensor(rows)), op.MatMul(x, turned))


def _elements(x: Any, wanted: Any, factors: Any, offset: float, how: dict[str, Any]) -> Any:
    """Nearest elements: by Resize where it takes the same ones as PyTorch, and by index on the other axes."""
    sizes, rank = _sizes(x), len(x.shape) - 2
    if factors is None and not all(isinstance(item, int) for item in (*sizes, *wanted)):
        return _by_sizes(x, wanted, mode="nearest", **how)
    given = factors if factors is not None else [None] * rank
    scales: list[Any] = [np.float32(1.0)] * rank
    result = x
    for axis, (size, factor) in enumerate(zip(sizes, given, strict=True)):
        goal = wanted[axis] if factor is None else None
        scale = _scale(factor if factor is not None else (goal or 1) / (size or 1), size, offset, goal)
        if scale is not None:
            scales[axis] = scale
        else:
            result = op.Gather(result, _index(x, axis, size, factor, goal, offset), axis=2 + axis)
    if all(scale == 1 for scale in scales) and result is not x:
        return result
    return _by_scales(result, scales, mode="nearest", **how)


def _by_sizes(x: Any, sizes: Sequence[Any], **attributes: Any) -> Any:
    if all(isinstance(size, int) for size in sizes):
        vector = op.Constant(value_ints=list(sizes))
    else:
        one = op.Constant(value_ints=[-1])
        parts = [op.Constant(value_ints=[size]) if isinstance(size, int) else op.Reshape(size, one) for size in sizes]
        vector = op.Concat(*parts, axis=0)
    # without `axes`, with which ONNX Runtime 1.31 does not load INT8 files whose sizes are computed
    whole = op.Concat(op.Shape(x, start=0, end=2), vector, axis=0)
    return op.Resize(x, None, None, whole, keep_aspect_ratio_policy="stretch", **attributes)


def _by_scales(x: Any, scales: Sequence[Any], **attributes: Any) -> Any:
    vector = op.Constant(value=ir.tensor(np.array([1.0, 1.0, *scales], np.float32)))
    return op.Resize(x, None, vector, None, **attributes)


def _sizes(x: Any) -> list[int | None]:
    return [size if isinstance(size, int) else None for size in x.shape[2:]]


def _scale(factor: float, size: int | None, offset: float | None, goal: int | None = None) -> Any:
    """A number in single precision with which Resize gives PyTorch's size and elements; None if there is none.

    Args:
        size: of the axis; None if it is dynamic.
        offset: of the coordinates of `nearest` elements; None for interpolation, which depends on them continuously.
        goal: the size of the output, if it is given in place of the factor.
    """
    sizes = np.arange(1, _SIZES + 1) if size is None else np.array([size])
    results = np.floor(sizes * factor).astype(np.int64) if goal is None else np.array([goal])
    inverse = _inverse(factor, size, goal)
    places = np.arange(max(1, int(results.max())))
    elements = None if offset is None else _taken(places, inverse, offset)
    for steps in _NEIGHBOURS:
        scale: Any = np.float32(factor)
        for _ in range(abs(steps)):
            scale = np.nextafter(scale, np.float32(np.inf if steps > 0 else 0))
        if not all(np.array_equal(np.floor(sizes.astype(kind) * kind(scale)), results) for kind in _PRECISIONS):
            continue
        if elements is None or np.array_equal(_resized(places, scale, offset or 0.0), elements):
            return scale
    return None


def _inverse(factor: float, size: int | None, goal: int | None) -> Any:
    """By what PyTorch multiplies coordinates, in single precision."""
    return np.float32(1.0 / factor) if goal is None or size is None else np.float32(size) / np.float32(goal)


def _taken(places: Array, inverse: Any, offset: float) -> Array:
    """The elements that PyTorch takes."""
    taken: Array = np.floor((places.astype(np.float32) + np.float32(offset)) * inverse).astype(np.int64)
    return taken


def _resized(places: Array, scale: Any, offset: float) -> Array:
    """The elements that Resize takes."""
    moved = np.float32(offset)
    taken: Array = np.floor((places.astype(np.float32) + moved) / scale - moved + moved).astype(np.int64)
    return taken


def _index(x: Any, axis: int, size: int | None, factor: float | None, goal: int | None, offset: float) -> Any:
    """PyTorch's elements along an axis: constant if its size is, otherwise computed from it."""
    if size is not None:
        wide = goal if goal is not None else int(np.floor(size * (factor or 1.0)))
        inverse = _inverse(factor or 1.0, size, goal)
        taken = np.minimum(_taken(np.arange(wide), inverse, offset), size - 1)
        return op.Constant(value=ir.tensor(taken))
    assert factor is not None
    length = op.Squeeze(op.Shape(x, start=2 + axis, end=3 + axis))
    double = op.Cast(length, to=ir.DataType.DOUBLE)
    wide = op.Cast(op.Floor(op.Mul(double, op.Constant(value=ir.tensor(np.float64(factor))))), to=ir.DataType.INT64)
    zero, one = (op.Constant(value=ir.tensor(np.int64(value))) for value in (0, 1))
    places = op.Cast(op.Range(zero, wide, one), to=ir.DataType.FLOAT)
    moved = op.Add(places, op.Constant(value=ir.tensor(np.float32(offset))))
    scaled = op.Mul(moved, op.Constant(value=ir.tensor(_inverse(factor, None, None))))
    return op.Min(op.Cast(op.Floor(scaled), to=ir.DataType.INT64), op.Sub(length, one))
