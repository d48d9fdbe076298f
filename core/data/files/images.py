"""Files of images: how the options of a source say that they become arrays, and what their headers suggest."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ...options.data_options import PixelOptions
from ...preprocessing.decode_images import pillow
from ...preprocessing.specs import ImageInput

IMAGES = frozenset((".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"))
LOOKED_AT = 32
"""Number of images whose headers are read for the remark on their size."""


def image_input(name: str, options: PixelOptions) -> ImageInput:
    """How images become the input ``name``."""
    return ImageInput(
        input=name,
        size=options.size,
        mode=options.mode,
        mean=options.mean,
        std=options.std,
        scale=options.scale,
        resize=options.resize,
        resample=options.resample,
    )


def own_shape(paths: Sequence[Path], options: PixelOptions) -> str:
    """A remark if all images have one size and mode, and are read with others that nobody asked for.

    Args:
        paths: the images, of which the headers of the first few are read.
    """
    if {"size", "mode"} & options.model_fields_set or not paths:
        return ""
    library = pillow()
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
