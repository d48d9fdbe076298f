"""Blur, noise and erasing: transforms that change values in their places."""

from __future__ import annotations

import numpy as np

from ...options.augment_options import NoiseOptions
from ...options.image_transforms import BlurOptions, EraseOptions
from ...tensors import Array
from .colors import column
from .draws import Draws
from .input_kinds import InputForm

NOISE_STD = 0.05
"""Standard deviation of noise without options, as a share of the range of values."""


def blur(options: BlurOptions, pixels: Array, draws: Draws) -> Array:
    """A Gaussian filter with a standard deviation from 0 to ``sigma`` pixels for each image; edges are repeated."""
    sigmas = np.maximum(draws.uniform(0, options.sigma), 1e-3)
    radius = max(1, int(np.ceil(3 * options.sigma)))
    weights = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigmas[:, None]) ** 2)
    weights /= weights.sum(axis=1, keepdims=True)
    for axis in (2, 3):
        around = [(0, 0)] * 4
        around[axis] = (radius, radius)
        padded = np.pad(pixels, around, mode="edge")
        pixels = np.zeros_like(pixels)
        for place in range(2 * radius + 1):
            part = padded[(slice(None),) * axis + (slice(place, place + pixels.shape[axis]),)]
            pixels += column(weights[:, place]) * part
    return pixels


def noise(options: NoiseOptions, values: Array, form: InputForm, draws: Draws) -> Array:
    """Gaussian noise of a standard deviation in the input's units, or at a signal-to-noise ratio of each sample."""
    if options.snr_db is None:
        std = NOISE_STD if options.std is None else options.std
        span = np.float32(std) * np.abs(np.subtract(form.white, form.black)).astype(np.float32)
        sizes = np.broadcast_to(span, (len(values), len(span)))
    else:
        ratio = draws.uniform(*options.snr_db)
        power = [float(np.mean(np.square(one, dtype=np.float64))) for one in values]
        sizes = np.sqrt(np.array(power) / 10 ** (ratio / 10)).astype(np.float32)[:, None]
    for row, generator in enumerate(draws.generators()):
        size = sizes[row].reshape((-1,) + (1,) * (values.ndim - 2))
        values[row] += size * generator.standard_normal(values.shape[1:], dtype=np.float32)
    return values


def rectangles(draws: Draws, area: Array, size: tuple[int, int]) -> list[tuple[slice, slice]]:
    """A rectangle of a share of the area each, with the image's own ratio, at a random middle; edges cut it off."""
    height, width = size
    edge = np.sqrt(area)
    high, wide = np.rint(edge * height).astype(int), np.rint(edge * width).astype(int)
    tops, lefts = (draws.below(n) - half // 2 for n, half in ((height, high), (width, wide)))
    return [
        (slice(max(0, top), max(0, top + h)), slice(max(0, left), max(0, left + w)))
        for top, left, h, w in zip(tops, lefts, high, wide, strict=True)
    ]


def erase(options: EraseOptions, pixels: Array, form: InputForm, draws: Draws) -> Array:
    """One rectangle of each image overwritten."""
    low, high = form.levels(pixels.shape[1])
    places = rectangles(draws, draws.uniform(0.02 * options.area, options.area), (pixels.shape[2], pixels.shape[3]))
    for row, (place, generator) in enumerate(zip(places, draws.generators(), strict=True)):
        target = pixels[row][:, place[0], place[1]]
        if options.fill == "noise":
            target[:] = low + (high - low) * generator.random(target.shape, dtype=np.float32)
        else:
            target[:] = low if options.fill == "black" else (low + high) / 2
    return pixels
