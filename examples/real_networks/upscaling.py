"""UpConv7 of waifu2x, which doubles the size of images, from its package, on photographs of ``scikit-image``.

Photographs are reduced to half their size; the original is the truth, and the metric is the PSNR of each crop against
it. The network was trained for drawings, so that its PSNR on photographs says nothing about its own task.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from .packages import Array, Floats, Outputs, package_folder, weighted_mean

WEIGHTS = "models/upconv7/anime_style_scale_rgb.npz"
WIDTHS = (3, 16, 32, 64, 128, 256, 256)
SIDE, CONTEXT = 40, 7
"""Pixels of the small crop, and those around it that the network reads."""
PHOTOGRAPHS = ("chelsea.png", "coffee.png", "rocket.jpg", "astronaut.png", "motorcycle_left.png", "retina.jpg")
COUNTS = {"train": 1, "validation": 2, "calibration": 4, "test": 10}
"""Crops of each photograph."""


class UpConv(nn.Module):
    """Six convolutions and a transposed one: images ``[N, 3, H + 14, W + 14]`` to ``[N, 3, 2 H, 2 W]``."""

    def __init__(self) -> None:
        super().__init__()
        pairs = pairwise(WIDTHS)
        self.layers = nn.ModuleList([nn.Conv2d(before, after, 3) for before, after in pairs])
        self.last = nn.ConvTranspose2d(WIDTHS[-1], 3, 4, 2, 3, bias=False)

    def forward(self, image: Tensor) -> Tensor:
        """The image in twice the size."""
        for layer in self.layers:
            image = nn.functional.leaky_relu(layer(image), 0.1)
        result: Tensor = self.last(image)
        return result


def model(name: str = "") -> UpConv:
    """The network with its trained weights.

    Raises:
        ModuleNotFoundError: the package is not installed.
    """
    made = UpConv()
    names = {"last.weight": "conv7/W"}
    for index in range(len(made.layers)):
        names |= {f"layers.{index}.weight": f"conv{index + 1}/W", f"layers.{index}.bias": f"conv{index + 1}/b"}
    with np.load(package_folder("waifu2x", "waifu2x") / WEIGHTS) as stored:
        made.load_state_dict({name: torch.from_numpy(stored[place]) for name, place in names.items()})
    return made.eval()


def splits(name: str = "") -> dict[str, dict[str, Array]]:
    """Small crops ``[N, 3, 54, 54]`` between 0 and 1 in four splits."""
    return {split: {"image": pairs(split)[0]} for split in COUNTS}


@cache
def pairs(split: str) -> tuple[Array, Array]:
    """Small crops ``[N, 3, 54, 54]`` and the same crops of the originals without the border ``[N, 3, 80, 80]``."""
    small, large = [], []
    for place, picture in enumerate(_pictures()):
        width, height = (size // 2 for size in picture.size)
        reduced = np.asarray(picture.resize((width, height), Image.Resampling.BOX), np.float32) / 255
        whole = np.asarray(picture, np.float32) / 255
        draw = np.random.default_rng((place, sorted(COUNTS).index(split)))
        for _ in range(COUNTS[split]):
            left, top = (int(draw.integers(CONTEXT, size - SIDE - CONTEXT + 1)) for size in (width, height))
            rows, columns = (slice(start - CONTEXT, start + SIDE + CONTEXT) for start in (top, left))
            small.append(reduced[rows, columns].transpose(2, 0, 1))
            rows, columns = (slice(2 * start, 2 * (start + SIDE)) for start in (top, left))
            large.append(whole[rows, columns].transpose(2, 0, 1))
    return np.array(small, np.float32), np.array(large, np.float32)


def _pictures() -> Iterator[Image.Image]:
    for name in PHOTOGRAPHS:
        picture = Image.open(package_folder("skimage", "scikit-image") / "data" / name).convert("RGB")
        width, height = (size // 2 * 2 for size in picture.size)
        yield picture.crop((0, 0, width, height))


def weighted(name: str, outputs: Outputs) -> tuple[int, Callable[[Floats], Floats]]:
    """The number of crops N, and the mean PSNR in dB ``[B]`` for weights of the crops ``[B, N]``."""
    errors = np.clip(next(iter(outputs.values())), 0, 1).astype(np.float64) - pairs("test")[1]
    return weighted_mean(-10 * np.log10((errors**2).mean((1, 2, 3))))


def decisions(name: str, outputs: Outputs) -> NDArray[np.int64]:
    """Pixels in 32 levels ``[N, 3, 80, 80]``."""
    levels: NDArray[np.int64] = np.rint(np.clip(next(iter(outputs.values())), 0, 1) * 31).astype(np.int64)
    return levels
