"""Images as arrays: they are read, resized and scaled when they are needed."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import IO, Any

import numpy as np

from ...errors import DataError
from ...options.data_options import PixelOptions
from ...tensors import Array
from ..input_parts import needed

IMAGES = frozenset((".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"))


def pixel_settings(options: PixelOptions) -> str:
    """Text that represents how images become arrays."""
    return f"{options.size}{options.mode}{options.mean}{options.std}"


def decode(source: Path | IO[bytes], where: str, options: PixelOptions) -> Array:
    """One image as ``float32[C, H, W]``.

    Args:
        where: the image in words, for messages.

    Raises:
        MachineError: Pillow is not installed.
        DataError: the file is not an image, or is damaged.
    """
    with needed("pillow", "images"):
        library: Any = import_module("PIL.Image")
    height, width = options.size
    try:
        with library.open(source) as image:
            resized = image.convert(options.mode).resize((width, height))
            pixels = np.asarray(resized, dtype=np.float32) / 255
    except (OSError, ValueError, SyntaxError) as error:
        unknown = isinstance(error, library.UnidentifiedImageError)
        what = "it has no known format" if unknown else str(error)
        raise DataError(f"{where} is not a readable image: {what}", "remove or replace it") from error
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    scaled = (pixels - np.array(options.mean, np.float32)) / np.array(options.std, np.float32)
    return np.ascontiguousarray(scaled.transpose(2, 0, 1))
