"""Splits from a folder of images: one folder per class; images are read and resized when they are needed."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError, MachineError
from ..tensors import Array
from .splits import Split

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"}
FOLDERS = {"train": "train", "validation": "validation", "val": "validation", "valid": "validation", "test": "test"}


@dataclass(frozen=True)
class ImageSplit:
    """Images on disk.

    Attributes:
        paths: one file per sample.
        targets: class index of each.
        size: height and width in pixels after resizing.
        mode: ``RGB`` or ``L`` (grey).
        mean: subtracted from each channel after scaling to [0, 1].
        std: divides each channel after that.
        name: name of the model input.
    """

    paths: tuple[Path, ...]
    targets: NDArray[np.int64]
    size: tuple[int, int]
    mode: str = "RGB"
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    name: str = "image"

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, indices: Sequence[int] | NDArray[np.integer[Any]]) -> tuple[dict[str, Array], Array | None]:
        """Read images as ``float32[N, C, H, W]`` and targets as ``int64[N]``."""
        chosen = np.asarray(indices)
        images = np.stack([self._load(self.paths[int(index)]) for index in chosen])
        return {self.name: images}, self.targets[chosen]

    def fingerprint(self) -> str:
        """Hash of the names, sizes and modification times of the files, and of the preprocessing."""
        digest = hashlib.sha256(f"{self.size}{self.mode}{self.mean}{self.std}{self.name}".encode())
        for path, target in zip(self.paths, self.targets, strict=True):
            state = path.stat()
            digest.update(f"{path.name}|{state.st_size}|{state.st_mtime_ns}|{target}".encode())
        return digest.hexdigest()

    def _load(self, path: Path) -> Array:
        height, width = self.size
        try:
            with _pillow().open(path) as image:
                pixels = np.asarray(image.convert(self.mode).resize((width, height)), dtype=np.float32) / 255
        except (OSError, ValueError, SyntaxError) as error:
            raise DataError(f"{path} is not a readable image: {error}", "remove or replace it") from error
        pixels = pixels[..., None] if pixels.ndim == 2 else pixels
        scaled = (pixels - np.array(self.mean, np.float32)) / np.array(self.std, np.float32)
        return np.ascontiguousarray(scaled.transpose(2, 0, 1))


def _pillow() -> Any:
    try:
        return import_module("PIL.Image")
    except ImportError as error:
        raise MachineError("reading images needs Pillow", "pip install pillow") from error


def image_splits(
    folder: Path,
    size: int | tuple[int, int] | list[int] = 224,
    mode: str = "RGB",
    mean: float | list[float] = 0.0,
    std: float | list[float] = 1.0,
    name: str = "image",
) -> tuple[dict[str, Split], tuple[str, ...]]:
    """Read ``folder/<class>/*.png``, or ``folder/{train,validation,test}/<class>/*.png``.

    Args:
        size: pixels after resizing, one number for a square or (height, width).
        mode: ``RGB`` or ``L``.
        mean: per channel, after scaling to [0, 1].
        std: per channel.
        name: name of the model input.

    Raises:
        DataError: there are no images, or the splits have different classes.
    """
    height, width = (size, size) if isinstance(size, int) else size
    roots = {FOLDERS[child.name]: child for child in _folders(folder) if child.name in FOLDERS} or {"train": folder}
    classes = tuple(sorted({child.name for root in roots.values() for child in _folders(root)}))
    splits: dict[str, Split] = {}
    for split, root in roots.items():
        found = [(path, classes.index(child.name)) for child in _folders(root) for path in _images(child)]
        if not found:
            raise DataError(
                f"{root} contains no images", f"put them into one folder per class: {root}/<class>/<image>.png"
            )
        paths, targets = zip(*found, strict=True)
        splits[split] = ImageSplit(
            paths, np.array(targets), (height, width), mode, _channels(mean), _channels(std), name
        )
    return splits, classes


def _folders(folder: Path) -> list[Path]:
    return sorted(child for child in folder.iterdir() if child.is_dir() and not child.name.startswith("."))


def _images(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)


def _channels(value: float | list[float]) -> tuple[float, ...]:
    return (float(value),) if isinstance(value, int | float) else tuple(value)
