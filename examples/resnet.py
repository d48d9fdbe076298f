"""A ResNet-18 of half width and digits enlarged for it: what INT8 gains on a net of ordinary size."""

from __future__ import annotations

import numpy as np
from torch import Tensor, nn

from .digits import Block


class ResNet18(nn.Module):
    """ResNet-18 (He et al., 2016) for ``[N, 3, 64, 64]`` images; gives ``[N, classes]`` logits."""

    def __init__(self, width: int = 32, classes: int = 10) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, width, 7, 2, 3, bias=False), nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(3, 2, 1)
        )
        blocks: list[nn.Module] = []
        inputs = width
        for index in range(4):
            outputs = width * 2**index
            blocks += [Block(inputs, outputs, 1 if index == 0 else 2), Block(outputs, outputs, 1)]
            inputs = outputs
        self.body = nn.Sequential(*blocks)
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, classes))

    def forward(self, image: Tensor) -> Tensor:
        """Logits per class."""
        logits: Tensor = self.head(self.body(self.stem(image)))
        return logits


def resnet18(width: int = 32) -> ResNet18:
    """The net, untrained."""
    return ResNet18(width)


def digits64() -> tuple[np.ndarray, np.ndarray]:
    """scikit-learn's digits as ``float32[1797, 3, 64, 64]`` in [0, 1], enlarged without interpolation, and targets."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = (bunch.images / 16).astype(np.float32).repeat(8, axis=1).repeat(8, axis=2)
    return np.repeat(images[:, None], 3, axis=1), bunch.target.astype(np.int64)
