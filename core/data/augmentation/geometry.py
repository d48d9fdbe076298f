"""Transforms that move the pixels of images, as affine maps, so that consecutive ones interpolate only once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...options.image_transforms import (
    CropOptions,
    FlipOptions,
    ResizedCropOptions,
    RotateOptions,
    ScaleOptions,
    ShearOptions,
    ShiftOptions,
)
from .draws import Draws
from .warping import Maps, identity

Size = tuple[int, int]


def scaling(x: NDArray[np.float64], y: NDArray[np.float64]) -> Maps:
    """Maps that enlarge by factors along both axes; negative ones mirror."""
    made = identity(len(x))
    made[:, 0, 0], made[:, 1, 1] = 1 / x, 1 / y
    return made


def shifting(right: NDArray[np.float64], down: NDArray[np.float64]) -> Maps:
    """Maps that move by pixels."""
    made = identity(len(right))
    made[:, 0, 2], made[:, 1, 2] = -right, -down
    return made


def rotating(degrees: NDArray[np.float64]) -> Maps:
    """Maps that turn counterclockwise."""
    made, angle = identity(len(degrees)), np.deg2rad(degrees)
    made[:, 0, 0] = made[:, 1, 1] = np.cos(angle)
    made[:, 0, 1], made[:, 1, 0] = -np.sin(angle), np.sin(angle)
    return made


def shearing(x: NDArray[np.float64], y: NDArray[np.float64]) -> Maps:
    """Maps that move rows by ``x`` pixels per pixel downwards, and columns by ``y`` per pixel to the right."""
    made = identity(len(x))
    made[:, 0, 1], made[:, 1, 0] = -x, -y
    return made


def _flip(options: FlipOptions, draws: Draws, size: Size) -> Maps:
    x, y = draws.chance(options.horizontal), draws.chance(options.vertical)
    return scaling(np.where(x, -1.0, 1.0), np.where(y, -1.0, 1.0))


def _shift(options: ShiftOptions, draws: Draws, size: Size) -> Maps:
    """By whole pixels, so that no value is interpolated."""
    right, down = draws.signed(options.share) * size[1], draws.signed(options.share) * size[0]
    return shifting(np.rint(right * (options.along != "height")), np.rint(down * (options.along != "width")))


def _rotate(options: RotateOptions, draws: Draws, size: Size) -> Maps:
    return rotating(draws.signed(options.degrees))


def _scale(options: ScaleOptions, draws: Draws, size: Size) -> Maps:
    factor = np.exp(draws.signed(np.log1p(options.share)))
    return scaling(factor, factor)


def _shear(options: ShearOptions, draws: Draws, size: Size) -> Maps:
    slope = np.tan(np.deg2rad(draws.signed(options.degrees)))
    return shearing(slope, np.zeros(len(draws)))


def _crop(options: CropOptions, draws: Draws, size: Size) -> Maps:
    steps = 2 * options.padding + 1
    right, down = (draws.below(steps).astype(np.float64) - options.padding for _ in range(2))
    return shifting(right, down)


def _resized_crop(options: ResizedCropOptions, draws: Draws, size: Size) -> Maps:
    height, width = size
    area = draws.uniform(options.area, 1.0)
    ratio = np.exp(draws.signed(np.log(options.ratio)))
    x, y = np.minimum(1.0, np.sqrt(area * ratio)), np.minimum(1.0, np.sqrt(area / ratio))
    made = scaling(1 / x, 1 / y)
    made[:, 0, 2] = (1 - x) * draws.signed(0.5) * width
    made[:, 1, 2] = (1 - y) * draws.signed(0.5) * height
    return made


GEOMETRY: Mapping[str, Callable[[Any, Draws, Size], Maps]] = {
    "flip": _flip,
    "shift": _shift,
    "rotate": _rotate,
    "scale": _scale,
    "shear": _shear,
    "crop": _crop,
    "resized_crop": _resized_crop,
}
"""Maps of each transform for images of a height and a width."""
