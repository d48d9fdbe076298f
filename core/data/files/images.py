"""Images as arrays: they are read, resized and scaled when they are needed."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import IO, Any

import numpy as np

from ...errors import DataError
from ...options.data_options import PixelOptions
from ...tensors import Array
from ..input_parts import needed

IMAGES = frozenset((".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"))


LOOKED_AT = 32
"""Number of images whose headers are read for the remark on their size."""


def pixel_settings(options: PixelOptions) -> str:
    """Text that represents how images become arrays."""
    return f"{options.size}{options.mode}{options.mean}{options.std}"


def own_shape(paths: Sequence[Path], options: PixelOptions) -> str:
    """A remark if all images have one size and mode, and are read with others that nobody asked for.

    Args:
        paths: the images, of which the headers of the first few are read.
    """
    if {"size", "mode"} & options.model_fields_set or not paths:
        return ""
    with needed("PIL", "images"):
        library: Any = import_module("PIL.Image")
    found = set()
    for path in paths[:LOOKED_AT]:
        try:
            with library.open(path) as image:
                found.add((image.height, image.width, "L" if image.mode in ("1", "L", "LA") else "RGB"))
        except (OSError, ValueError, SyntaxError):
            return ""  # the image is refused with its name when it is read
    if len(found) != 1:
        return ""
    ((height, width, mode),) = found
    if (height, width) == options.size and mode == options.mode:
        return ""
    size = str(height) if height == width else f"[{height}, {width}]"
    kind = "grey" if mode == "L" else "RGB"
    return (
        f"the images are {height}×{width} {kind} and are read as {options.size[0]}×{options.size[1]} {options.mode}; "
        f"the data arguments size={size} mode={mode} keep them as they are"
    )


def decode(source: Path | IO[bytes], where: str, options: PixelOptions) -> Array:
    """One image as ``float32[C, H, W]``.

    Args:
        where: the image in words, for messages.

    Raises:
        MachineError: Pillow is not installed.
        DataError: the file is not an image, or is damaged.
    """
    with needed("PIL", "images"):
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
