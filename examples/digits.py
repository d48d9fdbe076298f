"""The models of the digits example: a residual CNN as the teacher and a smaller one as the student."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Block(nn.Module):
    """Two 3×3 convolutions with a shortcut (He et al., 2016)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        same = stride == 1 and inputs == outputs
        self.shortcut = (
            nn.Identity()
            if same
            else nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
        )

    def forward(self, x: Tensor) -> Tensor:
        """``[N, inputs, H, W]`` to ``[N, outputs, H / stride, W / stride]``."""
        y = torch.relu(self.norm1(self.conv1(x)))
        return torch.relu(self.norm2(self.conv2(y)) + self.shortcut(x))


class ResidualNet(nn.Module):
    """A residual CNN for ``[N, 1, 8, 8]`` images in [0, 1]; gives ``[N, classes]`` logits."""

    def __init__(self, width: int, blocks: int, classes: int = 10) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        stages = []
        for index, channels in enumerate((width, 2 * width, 4 * width)):
            for block in range(blocks):
                first = block == 0
                inputs = channels // 2 if first and index else channels
                stages.append(Block(inputs, channels, 2 if first and index else 1))
        self.body = nn.Sequential(*stages)
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4 * width, classes))

    def forward(self, image: Tensor) -> Tensor:
        """Logits per class."""
        logits: Tensor = self.head(self.body(self.stem(image)))
        return logits


def teacher(width: int = 32, blocks: int = 2) -> ResidualNet:
    """The large net."""
    return ResidualNet(width, blocks)


def student(width: int = 24, blocks: int = 1) -> ResidualNet:
    """The small net."""
    return ResidualNet(width, blocks)
