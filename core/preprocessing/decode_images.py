"""Pictures as arrays. Part of the runtime half: Pillow is imported where a picture is opened."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError, LimitError
from ..system.installation import needed
from .specs import ImageInput

FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
"""The formats that are read. Others, such as PostScript, would start programs or reach for further files."""
STARTS = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF8", b"BM", b"II*\x00", b"MM\x00*", b"P5", b"P6", b"\xff\x4f\xff")
"""The first bytes of most formats."""
SMALL_BYTES = 1 << 25
"""Size of the pixels of a served picture that is allowed whatever the size of its file is."""
USUAL_RATIO = 64
"""Bytes of pixels per byte of a file, up to which a served picture is no bomb; photographs have 10 to 40."""


def looks_like_image(start: bytes) -> bool:
    """Whether bytes begin as a picture does; 12 of them are enough."""
    webp, avif = start[:4] == b"RIFF" and start[8:12] == b"WEBP", start[4:8] == b"ftyp" and start[8:12] == b"avif"
    return webp or avif or start[4:8] == b"jP  " or start.startswith(STARTS)


def read_image(
    source: Path | IO[bytes], where: str, spec: ImageInput, file_bytes: int | None = None
) -> NDArray[np.float32]:
    """One picture as the model takes it, ``float32[C, H, W]`` or ``float32[H, W, C]``.

    Args:
        where: the picture in words, for messages.
        file_bytes: size of the file, if its pixels are to be few in comparison; a small file can hold a large bomb.

    Raises:
        MachineError: Pillow is not installed.
        DataError: it is no picture, or is damaged.
        LimitError: it has far too many pixels; they are not unpacked.
    """
    library = pillow()
    try:
        with library.open(source, formats=_formats()) as image:
            if file_bytes is not None:
                _check_pixels(image, where, file_bytes)
            pixels = np.asarray(_fitted(_eight_bits(image, library).convert(spec.mode), spec), dtype=np.float32)
    except library.DecompressionBombError as error:
        raise LimitError(f"{where} has too many pixels", "send a smaller picture") from error
    except (OSError, ValueError, SyntaxError, EOFError, IndexError) as error:
        unknown = isinstance(error, library.UnidentifiedImageError)
        what = "it has no known format" if unknown else str(error) or type(error).__name__
        raise DataError(f"{where} is not a readable image: {what}", "remove or replace it") from error
    return _scaled(pixels, spec)


def pillow() -> Any:
    """Pillow's ``Image`` module.

    Raises:
        MachineError: it is not installed.
    """
    with needed("PIL", "images"):
        return import_module("PIL.Image")


@cache
def _formats() -> tuple[str, ...]:
    library = pillow()
    library.init()
    return tuple(name for name in FORMATS if name in library.OPEN)


def _check_pixels(image: Any, where: str, file_bytes: int) -> None:
    """Refuse a picture by its header.

    Raises:
        LimitError: the pixels would be too many.
    """
    width, height = image.size
    wanted, allowed = width * height * 3, max(SMALL_BYTES, USUAL_RATIO * file_bytes)
    if wanted > allowed:
        message = f"{where} has {width}×{height} pixels in a file of {file_bytes} bytes"
        raise LimitError(message, f"send a picture of at most {allowed // 3_000_000} million pixels")


def _eight_bits(image: Any, library: Any) -> Any:
    """The picture with at most 8 bits per channel: Pillow's own conversion would make 16-bit grey all white."""
    if not image.mode.startswith("I"):
        return image
    values = np.asarray(image)
    return library.fromarray(np.clip(values / 257 + 0.5, 0, 255).astype(np.uint8))


def _fitted(image: Any, spec: ImageInput) -> Any:
    """The picture resized, and its middle cut out if the spec says so; a smaller one gets a black border."""
    height, width = spec.size
    filter_ = getattr(pillow().Resampling, spec.resample.upper())
    if not spec.resize:
        return image.resize((width, height), filter_)
    short = min(image.size)
    wide, high = (max(1, int(spec.resize * edge / short)) for edge in image.size)
    left, top = round((wide - width) / 2), round((high - height) / 2)
    return image.resize((wide, high), filter_).crop((left, top, left + width, top + height))


def _scaled(pixels: NDArray[np.float32], spec: ImageInput) -> NDArray[np.float32]:
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    if spec.scale != 1:
        pixels = pixels / np.float32(spec.scale)
    scaled = (pixels - np.array(spec.mean, np.float32)) / np.array(spec.std, np.float32)
    return np.ascontiguousarray(scaled if spec.channels_last else scaled.transpose(2, 0, 1))
