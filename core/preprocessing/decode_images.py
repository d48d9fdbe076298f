"""Pictures as arrays. Part of the runtime half: Pillow is imported where a picture is opened."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from ..counts import counted
from ..errors import DataError, LimitError, RetortError
from ..system.installation import needed
from .image_guards import guarded
from .specs import ImageInput

FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
"""The formats that are read. Others, such as PostScript, would start programs or reach for further files."""
STARTS = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF8", b"BM", b"II*\x00", b"MM\x00*", b"P5", b"P6", b"\xff\x4f\xff")
"""The first bytes of most formats."""
SMALL_PIXELS = 11_000_000
"""Pixels of the served pictures of a request that are allowed whatever the size of their files is."""
USUAL_RATIO = 21
"""Pixels per byte of their files, up to which served pictures are no bombs; photographs have 3 to 13."""
MOST_PIXELS = 1 << 25
"""Pixels of one served picture; Pillow takes 4 bytes for each."""
PYTHON_BYTES = 1 << 16
"""Size of a served file of a kind that Pillow decodes in Python, a microsecond per pixel."""


def looks_like_image(start: bytes) -> bool:
    """Whether bytes begin as a picture does; 12 of them are enough."""
    webp, avif = start[:4] == b"RIFF" and start[8:12] == b"WEBP", start[4:8] == b"ftyp" and start[8:12] == b"avif"
    return webp or avif or start[4:8] == b"jP  " or start.startswith(STARTS)


def read_image(source: Path | IO[bytes], where: str, spec: ImageInput) -> NDArray[np.float32]:
    """One picture of a trusted file as the model takes it, ``float32[C, H, W]`` or ``float32[H, W, C]``.

    Args:
        where: the picture in words, for messages.

    Raises:
        MachineError: Pillow is not installed.
        DataError: it is no picture, or is damaged.
        LimitError: it has far too many pixels; they are not unpacked.
    """
    with _readable(where):
        image = pillow().open(source, formats=_formats())
    with image:
        return image_values(image, where, spec)


def image_values(image: Any, where: str, spec: ImageInput) -> NDArray[np.float32]:
    """An opened picture as the model takes it; see :func:`read_image`."""
    with _readable(where):
        image.load()
        made = _eight_bits(image, pillow())
        made = made if made.mode == spec.mode else made.convert(spec.mode)
        return _scaled(np.asarray(_fitted(made, spec), dtype=np.float32), spec)


def open_served(content: bytes, where: str) -> Any:
    """A picture of a file that anybody may have sent, of which only the header has been read.

    Raises:
        DataError: it is no picture.
        LimitError: it would cost far more than the files of usual programs.
    """
    with _readable(where):
        image = pillow().open(io.BytesIO(guarded(content, where)), formats=_formats())
    width, height = image.size
    if width * height > MOST_PIXELS:
        raise LimitError(f"{where} has {width}×{height} pixels", f"send at most {MOST_PIXELS // 1_000_000} million")
    slow = any(tile[0] in pillow().DECODERS for tile in getattr(image, "tile", ()))
    if slow and len(content) > PYTHON_BYTES:
        raise LimitError(f"{where} is of a kind of {image.format} that is decoded slowly", "save it again as a PNG")
    return image


def check_pixels(sizes: Sequence[tuple[int, int]], file_bytes: int) -> None:
    """Compare the pixels of all pictures of a request with the sizes of their files.

    Raises:
        LimitError: they are too many; a small file can hold a large picture.
    """
    wanted, allowed = sum(width * height for width, height in sizes), max(SMALL_PIXELS, USUAL_RATIO * file_bytes)
    if wanted > allowed:
        what = f"{counted(len(sizes), 'picture')} of {file_bytes} bytes together"
        remedy = f"send smaller or fewer pictures, with at most {allowed / 1e6:.0f} million pixels"
        raise LimitError(f"the request has {wanted / 1e6:.0f} million pixels in {what}", remedy)


@contextmanager
def _readable(where: str) -> Iterator[None]:
    try:
        yield
    except (RetortError, MemoryError):
        raise
    except Exception as error:  # Pillow raises many classes for damaged files
        if type(error).__name__ == "DecompressionBombError":
            raise LimitError(f"{where} has too many pixels", "send a smaller picture") from error
        unknown = type(error).__name__ == "UnidentifiedImageError"
        what = "it has no known format" if unknown else str(error)[:200] or type(error).__name__
        raise DataError(f"{where} is not a readable image: {what}", "remove or replace it") from error


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
    logging.getLogger("PIL").addHandler(logging.NullHandler())  # else it writes of damaged files to stderr
    return tuple(name for name in FORMATS if name in library.OPEN)


def _eight_bits(image: Any, library: Any) -> Any:
    """The picture with at most 8 bits per channel: Pillow's own conversion would make 16-bit grey all white."""
    if not image.mode.startswith("I"):
        return image
    values = np.asarray(image)
    values = values if values.dtype.kind == "u" else np.clip(values, 0, 65_535)
    return library.fromarray(_nearest()[values])


@cache
def _nearest() -> NDArray[np.uint8]:
    """For each value of 16 bits, the nearest one of 8 bits."""
    return ((np.arange(65_536) + 128) // 257).astype(np.uint8)


def _fitted(image: Any, spec: ImageInput) -> Any:
    """The picture resized, and its middle cut out if the spec says so; a smaller one gets a black border."""
    height, width = spec.size
    filter_ = getattr(pillow().Resampling, spec.resample.upper())
    if not spec.resize:
        return image.resize((width, height), filter_)
    short = min(image.size)
    wide, high = (max(1, int(spec.resize * edge / short)) for edge in image.size)
    if wide * high > max(SMALL_PIXELS, 4 * image.width * image.height):
        return _middle(image, spec, (wide, high))
    left, top = _start(wide - width, spec), _start(high - height, spec)
    return image.resize((wide, high), filter_).crop((left, top, left + width, top + height))


def _start(rest: int, spec: ImageInput) -> int:
    return rest // 2 if spec.floor else round(rest / 2)


def _middle(image: Any, spec: ImageInput, resized: tuple[int, int]) -> Any:
    """The same of a picture that is a thin line: only what is kept of its long edge is resized."""
    kept = (min(resized[0], spec.size[1]), min(resized[1], spec.size[0]))
    starts = [_start(whole - part, spec) for whole, part in zip(resized, kept, strict=True)]
    shares = [edge / whole for edge, whole in zip(image.size, resized, strict=True)]
    box = [start * share for start, share in zip(starts, shares, strict=True)]
    box += [min((start + part) * share, edge) for start, part, share, edge in zip(starts, kept, shares, image.size)]
    made = image.resize(kept, getattr(pillow().Resampling, spec.resample.upper()), box)
    left, top = _start(kept[0] - spec.size[1], spec), _start(kept[1] - spec.size[0], spec)
    return made.crop((left, top, left + spec.size[1], top + spec.size[0]))


def _scaled(pixels: NDArray[np.float32], spec: ImageInput) -> NDArray[np.float32]:
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    if spec.scale != 1:
        pixels = pixels / np.float32(spec.scale)
    scaled = (pixels - np.array(spec.mean, np.float32)) / np.array(spec.std, np.float32)
    return np.ascontiguousarray(scaled if spec.channels_last else scaled.transpose(2, 0, 1))
