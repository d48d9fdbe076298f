"""RandAugment (Cubuk et al., 2020): random operations of equal strength on each image, on pixels from 0 to 1."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from ...options.image_transforms import RandAugmentOptions
from ...tensors import Array
from .colors import clipped, column, contrasted, saturated
from .draws import Draws
from .geometry import rotating, shearing, shifting
from .warping import Maps, moved

Strength = NDArray[np.float64]
"""``[N]`` strengths from 0 to 1, with a random sign."""
STRONGEST = 30


def _autocontrast(pixels: Array, strength: Strength) -> Array:
    flat = pixels.reshape(*pixels.shape[:2], -1)
    low, high = (edge(axis=2)[..., None, None] for edge in (flat.min, flat.max))
    span = np.where(high > low, high - low, 1)
    return np.where(high > low, (pixels - low) / span, pixels)


def _equalize(pixels: Array, strength: Strength) -> Array:
    """Histograms of 256 levels made even, for each channel."""
    levels = np.clip(np.rint(pixels * 255), 0, 255).astype(np.uint8)
    result = np.empty_like(pixels)
    for row, channel in np.ndindex(*pixels.shape[:2]):
        counts = np.bincount(levels[row, channel].ravel(), minlength=256)
        total = np.cumsum(counts)
        first = total[np.flatnonzero(counts)[0]]
        table = np.arange(256) / 255 if total[-1] == first else (total - first) / (total[-1] - first)
        result[row, channel] = np.clip(table, 0, 1).astype(np.float32)[levels[row, channel]]
    return result


def _solarize(pixels: Array, strength: Strength) -> Array:
    return np.where(pixels >= column(1 - np.abs(strength)), 1 - pixels, pixels)


def _posterize(pixels: Array, strength: Strength) -> Array:
    """8 to 4 bits per channel."""
    step = column(2.0 ** np.rint(4 * np.abs(strength)))
    levels = np.clip(np.rint(pixels * 255), 0, 255)
    return np.where(step > 1, np.floor(levels / step) * step / 255, pixels)


def _sharpness(pixels: Array, strength: Strength) -> Array:
    """Distances to an image that a 3×3 filter has smoothed; the outermost pixels stay."""
    if min(pixels.shape[2:]) < 3:
        return pixels
    smooth = pixels.copy()
    inner = smooth[:, :, 1:-1, 1:-1]
    inner *= 5 / 13
    height, width = pixels.shape[2:]
    for down, right in np.ndindex(3, 3):
        if (down, right) != (1, 1):
            inner += pixels[:, :, down : height - 2 + down, right : width - 2 + right] / 13
    return clipped(smooth + column(1 + 0.9 * strength) * (pixels - smooth))


def _brightness(pixels: Array, strength: Strength) -> Array:
    return clipped(pixels * column(1 + 0.9 * strength))


def _contrast(pixels: Array, strength: Strength) -> Array:
    return contrasted(pixels, 1 + 0.9 * strength)


def _saturation(pixels: Array, strength: Strength) -> Array:
    return saturated(pixels, 1 + 0.9 * strength) if pixels.shape[1] == 3 else pixels


def _identity(pixels: Array, strength: Strength) -> Array:
    return pixels


COLORS: tuple[Callable[[Array, Strength], Array], ...] = (
    _identity,
    _autocontrast,
    _equalize,
    _solarize,
    _posterize,
    _sharpness,
    _brightness,
    _contrast,
    _saturation,
)
MOVES: tuple[Callable[[Strength, int, int], Maps], ...] = (
    lambda strength, height, width: rotating(30 * strength),
    lambda strength, height, width: shearing(0.3 * strength, 0 * strength),
    lambda strength, height, width: shearing(0 * strength, 0.3 * strength),
    lambda strength, height, width: shifting(0.45 * width * strength, 0 * strength),
    lambda strength, height, width: shifting(0 * strength, 0.45 * height * strength),
)


def randaugment(
    options: RandAugmentOptions,
    pixels: Array,
    fill: Array | None,
    draws: Draws,
    follow: Callable[[Maps, NDArray[np.bool_]], None],
) -> Array:
    """``n`` operations of each image, drawn with replacement.

    Args:
        pixels: ``[N, C, H, W]``, from 0 to 1.
        fill: value of places without pixels, or None for the edge.
        follow: moves the targets of some rows as their images are moved.
    """
    height, width = pixels.shape[2:]
    for _ in range(options.n):
        kind = draws.below(len(COLORS) + len(MOVES))
        strength = np.where(draws.chance(0.5), 1.0, -1.0) * (options.magnitude / STRONGEST)
        for number in np.unique(kind):
            rows = kind == number
            if number < len(COLORS):
                pixels[rows] = COLORS[number](pixels[rows], strength[rows])
                continue
            maps = MOVES[number - len(COLORS)](strength[rows], height, width)
            pixels[rows] = moved(pixels[rows], maps, fill)
            follow(maps, rows)
    return pixels
