"""Quantization grids: scale and zero point for the range of a tensor, in the scheme that the target runs fastest."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from ...core.errors import ModelError
from ...core.grid import Grid
from ...core.options.stage_options import Target

UNBOUNDED = (-math.inf, math.inf)
WEIGHT_MAX = 127
_SMALLEST_SPAN = 1e-12
_SMALLEST_WEIGHT_SCALE = 1e-15
_BIAS_CODES = 2.0**30


@dataclass(frozen=True)
class Range:
    """The values that a grid must cover, in the tensor's own units."""

    low: float
    high: float

    def union(self, other: Range) -> Range:
        """The smallest range that contains both."""
        return Range(min(self.low, other.low), max(self.high, other.high))

    def inside(self, bounds: tuple[float, float]) -> bool:
        """Whether the range lies within ``bounds``."""
        return bounds[0] <= self.low and self.high <= bounds[1]

    @property
    def constant_zero(self) -> bool:
        """Whether the only value seen is zero."""
        return max(abs(self.low), abs(self.high)) <= _SMALLEST_SPAN


@dataclass(frozen=True)
class Scheme:
    """A target's form of activations (compress.md 3); weights are symmetric INT8 per output channel for all targets."""

    qmin: int
    qmax: int
    symmetric: bool


SCHEMES: dict[Target, Scheme] = {
    "cpu": Scheme(0, 255, symmetric=False),
    "arm": Scheme(0, 255, symmetric=False),
    "tensorrt": Scheme(-128, 127, symmetric=True),
}
"""A file for ``arm`` stores codes that are 128 smaller, as INT8: the same numbers (export/qdq/signed_codes.py)."""


def gate_grid(scheme: Scheme) -> Grid:
    """The grid of a sigmoid or hard-sigmoid, whose range is known.

    With steps of 1/256, hard-sigmoid of a UINT8 tensor at scale 6/256 only shifts the codes by 128, so that a runtime
    can compute it by a table (compress.md 3).
    """
    return Grid(1 / 127, 0, scheme.qmin, scheme.qmax) if scheme.symmetric else Grid(1 / 256, 0, 0, 255)


def activation_grid(span: Range, scheme: Scheme, bounds: tuple[float, float] = UNBOUNDED) -> Grid:
    """The grid of an activation; 0 is always on it, and its scale is positive and finite.

    Args:
        span: the calibrated range. If it contains only zero, ``[0, 1]`` is used instead.
        scheme: the target's scheme.
        bounds: limits of the clamp before the Q; the grid does not reach beyond them, so that the runtime may drop
            the clamp (ONNX Runtime keeps the convolution in floating point otherwise).
    """
    low, high = min(span.low, 0.0), max(span.high, 0.0)
    if span.constant_zero:
        low, high = 0.0, min(1.0, bounds[1]) if bounds[1] > 0 else 1.0
    if scheme.symmetric:
        scale, zero = max(-low, high) / scheme.qmax, 0
    else:
        scale = (high - low) / (scheme.qmax - scheme.qmin)
        zero = int(np.clip(round(-low / scale) + scheme.qmin, scheme.qmin, scheme.qmax))
        scale = _within(scale, zero, scheme, bounds)
    return Grid(float(np.float32(scale)), zero, scheme.qmin, scheme.qmax)


def _within(scale: float, zero: int, scheme: Scheme, bounds: tuple[float, float]) -> float:
    """The largest float32 scale, up to ``scale``, whose outermost codes stay within ``bounds``."""
    result = np.float32(scale)
    for steps, bound in ((zero - scheme.qmin, -bounds[0]), (scheme.qmax - zero, bounds[1])):
        if steps > 0 and math.isfinite(bound) and bound > 0:
            result = min(result, np.float32(bound / steps))
            while np.float32(steps) * result > np.float32(bound):
                result = np.nextafter(result, np.float32(0))
    return float(result)


def weight_scales(
    weight: torch.Tensor, axis: int, bias: torch.Tensor | None, input_scale: float, name: str
) -> torch.Tensor:
    """Symmetric scales per output channel, ``max|w| / 127``.

    Scales are large enough that the bias, which the runtime stores as INT32 in steps of ``input_scale * weight_scale``,
    does not overflow. So a channel whose weights are nearly 0 keeps its bias.

    Args:
        weight: the FP32 weight.
        axis: its output-channel axis, of size C.
        bias: ``[C]`` (of fewer groups' worth for a grouped transposed convolution), or None.
        input_scale: scale of the layer's input.
        name: name of the weight in error messages.

    Returns:
        float32 ``[C]``, all positive and finite.

    Raises:
        ModelError: the weight has NaN or infinite values.
    """
    if not bool(torch.isfinite(weight).all()):
        raise ModelError(f"the weight '{name}' has NaN or infinite values", "train the model or load its weights again")
    largest = weight.detach().abs().amax([dim for dim in range(weight.dim()) if dim != axis]).double()
    scales = largest / WEIGHT_MAX
    stand_in = float(scales.max()) if bool((scales > 0).any()) else 1.0 / WEIGHT_MAX
    scales = torch.where(scales > 0, scales, stand_in).clamp_min(_SMALLEST_WEIGHT_SCALE)
    if bias is not None and bias.numel() % scales.numel() == 0:
        per_channel = bias.detach().abs().double().reshape(-1, scales.numel()).amax(0)
        scales = torch.maximum(scales, per_channel / (input_scale * _BIAS_CODES))
    return scales.float()
