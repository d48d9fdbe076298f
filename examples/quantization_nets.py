"""Four networks of different kinds for 8x8 digits: what quantization tools are compared on."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from .digits import ResidualNet
from .pruning_nets import Vision


class Swish(nn.Module):
    """An inverted residual block with squeeze-and-excite and hard-swish (Howard et al., 2019)."""

    def __init__(self, width: int, wide: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.widen, self.norm1 = nn.Conv2d(width, wide, 1, bias=False), nn.BatchNorm2d(wide)
        self.deep, self.norm2 = nn.Conv2d(wide, wide, 3, stride, 1, groups=wide, bias=False), nn.BatchNorm2d(wide)
        self.down, self.up = nn.Conv2d(wide, wide // 4, 1), nn.Conv2d(wide // 4, wide, 1)
        self.narrow, self.norm3 = nn.Conv2d(wide, outputs, 1, bias=False), nn.BatchNorm2d(outputs)
        self.same = stride == 1 and width == outputs

    def forward(self, x: Tensor) -> Tensor:
        """``[N, width, H, W]`` to ``[N, outputs, H / stride, W / stride]``."""
        y = functional.hardswish(self.norm1(self.widen(x)))
        y = functional.hardswish(self.norm2(self.deep(y)))
        gate = functional.hardsigmoid(self.up(torch.relu(self.down(y.mean((2, 3), keepdim=True)))))
        y = self.norm3(self.narrow(y * gate))
        result: Tensor = x + y if self.same else y
        return result


class Depthwise(nn.Module):
    """A MobileNetV3 of five blocks; gives ``[N, 10]`` logits for ``[N, 1, 8, 8]`` images."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(1, 32, 3, 1, 1, bias=False), nn.BatchNorm2d(32)
        sizes = ((32, 64, 32, 1), (32, 96, 48, 2), (48, 144, 48, 1), (48, 144, 64, 2), (64, 192, 64, 1))
        self.body = nn.Sequential(*(Swish(*size) for size in sizes))
        self.wide, self.head = nn.Conv2d(64, 192, 1), nn.Linear(192, 10)

    def forward(self, image: Tensor) -> Tensor:
        """Logits per class."""
        x = self.body(functional.hardswish(self.norm(self.stem(image))))
        logits: Tensor = self.head(functional.hardswish(self.wide(x)).mean((2, 3)))
        return logits


class Recurrent(nn.Module):
    """A bidirectional LSTM and a GRU over the 8 rows of an ``[N, 1, 8, 8]`` image."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.lstm = nn.LSTM(8, width, batch_first=True, bidirectional=True)
        self.gru, self.head = nn.GRU(2 * width, width, batch_first=True), nn.Linear(width, 10)

    def forward(self, image: Tensor) -> Tensor:
        """Logits per class."""
        logits: Tensor = self.head(self.gru(self.lstm(image.squeeze(1))[0])[0][:, -1])
        return logits


def residual() -> nn.Module:
    """A residual CNN."""
    return ResidualNet(32, 2)


def depthwise() -> nn.Module:
    """A depthwise CNN with squeeze-and-excite and hard-swish."""
    return Depthwise()


def vision() -> nn.Module:
    """A small ViT."""
    return Vision(96, 4, 4, 288)


def recurrent() -> nn.Module:
    """An LSTM and a GRU."""
    return Recurrent()
