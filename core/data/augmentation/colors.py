"""Colours of images: brightness, contrast, saturation, hue, on pixels from 0 (black) to 1 (white)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ...options.image_transforms import ColorOptions
from ...tensors import Array
from .draws import Draws

Factors = NDArray[np.float64]
_GREY = np.array([0.299, 0.587, 0.114], np.float32)
"""Shares of red, green and blue in the brightness that people see (ITU-R BT.601)."""
_TO_YIQ = np.array([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])


def column(values: NDArray[np.float64]) -> Array:
    """``[N]`` numbers as ``float32[N, 1, 1, 1]``."""
    return values.astype(np.float32)[:, None, None, None]


def clipped(pixels: Array) -> Array:
    """Pixels within 0 and 1, in the same memory."""
    return np.clip(pixels, 0, 1, out=pixels)


def grey(pixels: Array) -> Array:
    """The brightness of every pixel, ``[N, 1, H, W]``; that of images with other than three channels is their mean."""
    if pixels.shape[1] == 3:
        pixels = 3 * pixels * _GREY[:, None, None]
    made: Array = pixels.mean(axis=1, keepdims=True)
    return made


def color(options: ColorOptions, pixels: Array, draws: Draws) -> Array:
    """Change images ``[N, C, H, W]`` in this order: brightness, contrast, saturation, hue."""
    factors = [1 + draws.signed(most) for most in (options.brightness, options.contrast, options.saturation)]
    turn = draws.signed(options.hue)
    if options.brightness:
        pixels = clipped(pixels * column(factors[0]))
    if options.contrast:
        pixels = contrasted(pixels, factors[1])
    if options.saturation and pixels.shape[1] == 3:
        pixels = saturated(pixels, factors[2])
    if options.hue and pixels.shape[1] == 3:
        pixels = turned(pixels, turn)
    return pixels


def contrasted(pixels: Array, factors: Factors) -> Array:
    """Distances to the mean grey of each image, multiplied by a factor each."""
    middle = grey(pixels).reshape(len(pixels), -1).mean(axis=1)[:, None, None, None]
    return clipped(middle + column(factors) * (pixels - middle))


def saturated(pixels: Array, factors: Factors) -> Array:
    """Distances to the grey of each pixel, multiplied by a factor for each image."""
    middle = grey(pixels)
    return clipped(middle + column(factors) * (pixels - middle))


def turned(pixels: Array, turns: Factors) -> Array:
    """Hues rotated in the YIQ space, which keeps the brightness; 1 is the full circle."""
    angle = 2 * np.pi * turns
    spin = np.zeros((len(turns), 3, 3))
    spin[:, 0, 0] = 1
    spin[:, 1, 1] = spin[:, 2, 2] = np.cos(angle)
    spin[:, 1, 2], spin[:, 2, 1] = -np.sin(angle), np.sin(angle)
    matrices = (np.linalg.inv(_TO_YIQ) @ spin @ _TO_YIQ).astype(np.float32)[..., None, None]
    mixed = [sum(matrices[:, out, i] * pixels[:, i] for i in range(3)) for out in range(3)]
    return clipped(np.stack(mixed, axis=1))
