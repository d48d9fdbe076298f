"""The reader of captchas of ``ddddocr`` from the ONNX file of its package, on distorted words that are drawn.

The file takes one image at a time. The metric is the share of right characters by edit distance, without case.
"""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from .drawn_text import distance, font_of
from .packages import Array, Outputs, Scores, draws, package_folder

HEIGHT, WIDTH = 64, 160
LETTERS = "abcdefghjkmnpqrstuvwxy23456789"
COUNTS = {"train": 4, "validation": 48, "calibration": 96, "test": 200}


def model(name: str = "") -> Path:
    """The package's ONNX file.

    Raises:
        ModuleNotFoundError: the package is not installed.
    """
    return package_folder("ddddocr", "ddddocr") / "common.onnx"


def splits(name: str = "") -> dict[str, dict[str, Array]]:
    """Gray images ``[N, 1, 64, 160]`` between 0 and 1 in four splits."""
    return {split: {"input1": captchas(split)[0]} for split in COUNTS}


@cache
def captchas(split: str) -> tuple[Array, list[str]]:
    """Images of four to six letters that are turned one by one and crossed by lines, and the letters."""
    images, words = [], []
    for draw in draws(COUNTS, split):
        word = "".join(draw.choice(list(LETTERS), draw.integers(4, 7)))
        image = Image.new("L", (WIDTH, HEIGHT), 255)
        for place, letter in enumerate(word):
            tile = Image.new("L", (40, 48), 0)
            ImageDraw.Draw(tile).text((20, 24), letter, 255, font_of(draw, int(draw.integers(26, 36))), "mm")
            tile = tile.rotate(float(draw.uniform(-20, 20)))
            left = 4 + place * (WIDTH - 40) // len(word) + int(draw.integers(0, 6))
            image.paste(int(draw.integers(0, 90)), (left, int(draw.integers(0, HEIGHT - 48))), tile)
        for _ in range(int(draw.integers(0, 4))):
            ends = [int(value) for value in draw.integers(0, (WIDTH, HEIGHT, WIDTH, HEIGHT))]
            ImageDraw.Draw(image).line(ends, int(draw.integers(60, 160)))
        pixels = np.asarray(image, np.float32) + draw.normal(0, draw.uniform(0, 15), (HEIGHT, WIDTH))
        images.append(np.clip(pixels, 0, 255)[None] / 255)
        words.append(word)
    return np.array(images, np.float32), words


@cache
def characters() -> list[str]:
    """The characters of the classes; the first is none."""
    source = package_folder("ddddocr", "ddddocr") / "charsets.py"
    for node in ast.parse(source.read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "CHARSET_BETA":
            return [str(item) for item in ast.literal_eval(node.value)]
    raise LookupError(f"no CHARSET_BETA in {source}")


def scores(name: str, outputs: Outputs) -> Scores:
    """Right characters, and their number."""
    wanted, known = captchas("test")[1], characters()
    texts = ["".join(known[code] for code in row if code > 0).lower() for row in decisions(name, outputs)]
    lengths = np.array([float(len(word)) for word in wanted])
    errors = [distance(text, word) for text, word in zip(texts, wanted, strict=True)]
    return lengths - np.minimum(errors, lengths), lengths


def decisions(name: str, outputs: Outputs) -> NDArray[np.int64]:
    """The codes of each image ``[N, T]``, with 0 for none and repetitions left out."""
    best: NDArray[np.int64] = next(iter(outputs.values())).argmax(-1)
    best[:, 1:][best[:, 1:] == best[:, :-1].copy()] = 0
    return best
