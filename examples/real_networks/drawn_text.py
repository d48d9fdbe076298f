"""The networks of RapidOCR from its package, on text that is drawn with the fonts of matplotlib.

``det`` finds lines of text on a page (the metric is the intersection over the union of the pixels), ``rec`` reads a
line (characters by edit distance), and ``cls`` tells whether a line is upside down (accuracy).
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from .packages import Array, Outputs, Scores, draws, each, package_folder

FILES = {
    "det": "ch_PP-OCRv4_det_infer.onnx",
    "rec": "ch_PP-OCRv4_rec_infer.onnx",
    "cls": "ch_ppocr_mobile_v2.0_cls_infer.onnx",
}
SIZES = {"det": (320, 320), "rec": (48, 320), "cls": (48, 192)}
"""Height and width in pixels."""
COUNTS = {
    "det": {"train": 4, "validation": 16, "calibration": 32, "test": 48},
    "rec": {"train": 8, "validation": 64, "calibration": 128, "test": 200},
    "cls": {"train": 8, "validation": 64, "calibration": 128, "test": 300},
}
FONTS = ("DejaVuSans", "DejaVuSans-Bold", "DejaVuSerif", "DejaVuSansMono", "DejaVuSerif-Bold", "DejaVuSans-Oblique")
LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ0123456789"
THRESHOLD = 0.3
Pixels = NDArray[np.bool_]
Truth = Pixels | str | bool


def model(name: str = "rec") -> Path:
    """The ONNX file of a network: ``det``, ``rec`` or ``cls``.

    Raises:
        ModuleNotFoundError: the package is not installed.
    """
    return package_folder("rapidocr_onnxruntime", "rapidocr-onnxruntime") / "models" / FILES[name]


def splits(name: str = "rec") -> dict[str, dict[str, Array]]:
    """Images ``[N, 3, H, W]`` between −1 and 1 in four splits."""
    return {split: {"x": images(name, split)[0]} for split in COUNTS[name]}


@cache
def images(name: str, split: str) -> tuple[Array, list[Truth]]:
    """The images of a split, and their pixels of text, their text, or whether they are upside down."""
    made, truths = [], []
    for draw in draws(COUNTS[name], split):
        image, truth = _image(name, draw)
        made.append(_values(image, draw))
        truths.append(truth)
    return np.stack(made), truths


def _image(name: str, draw: np.random.Generator) -> tuple[Image.Image, Truth]:
    if name == "det":
        return page(draw)
    image, text = _line(draw, *SIZES[name])
    if name == "rec":
        return image, text
    turned = bool(draw.integers(2))
    return image.rotate(180) if turned else image, turned


def font_of(draw: np.random.Generator, size: int) -> ImageFont.FreeTypeFont:
    """One of the fonts of matplotlib's package, with a size in pixels."""
    folder = package_folder("matplotlib", "matplotlib") / "mpl-data/fonts/ttf"
    return ImageFont.truetype(str(folder / f"{FONTS[draw.integers(len(FONTS))]}.ttf"), size)


def _word(draw: np.random.Generator) -> str:
    return "".join(draw.choice(list(LETTERS), draw.integers(3, 9)))


def _colours(draw: np.random.Generator) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """A light background and dark text, or the reverse."""
    light, dark = (tuple(int(value) for value in draw.integers(*ends, 3)) for ends in ((180, 256), (0, 90)))
    return (light, dark) if draw.random() < 0.7 else (dark, light)


def _line(draw: np.random.Generator, height: int, width: int) -> tuple[Image.Image, str]:
    """A line of one to three words that fits into the image, and its text."""
    back, front = _colours(draw)
    image = Image.new("RGB", (width, height), back)
    font = font_of(draw, int(draw.integers(24, 34)))
    text = " ".join(_word(draw) for _ in range(draw.integers(1, 4)))
    while font.getlength(text) > width - 12:
        text = text[:-1].strip()
    ImageDraw.Draw(image).text((6, height / 2 + int(draw.integers(-2, 3))), text, front, font, "lm")
    return image, text


def page(draw: np.random.Generator) -> tuple[Image.Image, Pixels]:
    """A page with lines of text, and the pixels of the middle half of every line, which the network marks."""
    height, width = SIZES["det"]
    back, front = _colours(draw)
    image, boxes = Image.new("RGB", (width, height), back), np.zeros((height, width), bool)
    top = int(draw.integers(8, 40))
    while top < height - 40:
        font = font_of(draw, int(draw.integers(14, 30)))
        text, left = " ".join(_word(draw) for _ in range(draw.integers(1, 4))), int(draw.integers(6, 60))
        while font.getlength(text) > width - left - 6:
            text = text[:-1].strip()
        ImageDraw.Draw(image).text((left, top), text, front, font, "lt")
        x0, y0, x1, y1 = (round(value) for value in ImageDraw.Draw(image).textbbox((left, top), text, font, "lt"))
        inset = (y1 - y0) // 4
        boxes[y0 + inset : y1 - inset, x0:x1] = True
        top += y1 - y0 + int(draw.integers(14, 50))
    return image, boxes


def _values(image: Image.Image, draw: np.random.Generator) -> Array:
    """Pixels ``[3, H, W]`` between −1 and 1, with noise."""
    pixels = np.asarray(image, np.float32) + draw.normal(0, draw.uniform(0, 12), (*image.size[::-1], 1))
    return (np.clip(pixels, 0, 255) / 127.5 - 1).transpose(2, 0, 1).astype(np.float32)


def scores(name: str, outputs: Outputs) -> Scores:
    """Pixels of the intersection and of the union, right characters and their number, or right directions."""
    found = decisions(name, outputs)
    wanted = images(name, "test")[1]
    if name == "cls":
        return each(found == np.array(wanted, np.int64))
    if name == "det":
        right = [(truth & mask).sum() for truth, mask in zip(wanted, found, strict=True)]
        union = [(truth | mask).sum() for truth, mask in zip(wanted, found, strict=True)]
        return np.array(right, float), np.array(union, float)
    texts = ["".join(characters()[code - 1] for code in row if code > 0) for row in found]
    lengths = np.array([len(str(truth).replace(" ", "")) for truth in wanted], float)
    errors = [distance(text.replace(" ", ""), str(truth).replace(" ", "")) for text, truth in zip(texts, wanted)]
    return lengths - np.minimum(errors, lengths), lengths


def decisions(name: str, outputs: Outputs) -> NDArray[np.int64] | Pixels:
    """Pixels of text, codes of characters with 0 for none and repetitions left out, or the direction."""
    values = next(iter(outputs.values()))
    if name == "det":
        return values[:, 0] > THRESHOLD
    best: NDArray[np.int64] = values.argmax(-1)
    if name == "rec":
        best[:, 1:][best[:, 1:] == best[:, :-1].copy()] = 0
    return best


def characters() -> list[str]:
    """The characters of the reader, which its file carries."""
    import onnx

    found = {entry.key: entry.value for entry in onnx.load(model("rec")).metadata_props}
    return [*found["character"].splitlines(), " "]


def distance(one: str, two: str) -> int:
    """Levenshtein's edit distance."""
    row = list(range(len(two) + 1))
    for place, letter in enumerate(one, 1):
        before, row[0] = row[0], place
        for index, other in enumerate(two, 1):
            before, row[index] = row[index], min(row[index] + 1, row[index - 1] + 1, before + (letter != other))
    return row[-1]
