"""The networks and the data from which the files of this folder were made."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn


class Cnn(nn.Module):
    """Two convolutions with batch norms around a residual sum, and a linear head: ``[N, 1, 8, 8]`` to ``[N, 3]``."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.body, self.body_norm = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.drop, self.head = nn.Dropout(0.1), nn.Linear(8, 3)

    def forward(self, image: Tensor) -> Tensor:
        """Logits per class."""
        x = torch.relu(self.norm(self.stem(image)))
        x = torch.relu(x + self.body_norm(self.body(x)))
        logits: Tensor = self.head(self.drop(x.mean((2, 3))))
        return logits


class Lstm(nn.Module):
    """A bidirectional LSTM over the rows of an image and a linear head: ``[N, 1, 8, 8]`` to ``[N, 3]``."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(8, 6, batch_first=True, bidirectional=True), nn.Linear(12, 3)

    def forward(self, image: Tensor) -> Tensor:
        """Logits per class."""
        logits: Tensor = self.head(self.lstm(image.squeeze(1))[0][:, -1])
        return logits


def cnn() -> nn.Module:
    """The small CNN, with statistics in its batch norms."""
    torch.manual_seed(0)
    net = Cnn()
    with torch.no_grad():
        for norm in (net.norm, net.body_norm):
            assert norm.running_mean is not None
            assert norm.running_var is not None
            norm.running_mean.copy_(torch.randn(8) * 0.1)
            norm.running_var.copy_(torch.rand(8) + 0.5)
    return net


def lstm() -> nn.Module:
    """The small LSTM."""
    torch.manual_seed(0)
    return Lstm()


class Text(nn.Module):
    """An embedding, a linear layer and a head over the mean: ``[N, T]`` tokens to ``[N, 3]``."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.mix, self.head = nn.Embedding(64, 16), nn.Linear(16, 32), nn.Linear(32, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits per class."""
        logits: Tensor = self.head(torch.relu(self.mix(self.embed(tokens))).mean(1))
        return logits


def text() -> nn.Module:
    """The small net for tokens."""
    torch.manual_seed(0)
    return Text()


def images() -> tuple[np.ndarray, np.ndarray]:
    """96 images ``[96, 1, 8, 8]`` of three classes: which two rows are bright."""
    random = np.random.default_rng(0)
    labels = random.integers(0, 3, 96)
    x = random.normal(0, 0.3, (96, 1, 8, 8)).astype(np.float32)
    for image, label in zip(x, labels, strict=True):
        image[0, 3 * label : 3 * label + 2] += 1
    return x, labels


def tokens() -> tuple[np.ndarray, np.ndarray]:
    """96 sentences ``[96, 5]`` of 64 tokens; the label is the third of the vocabulary that the first token is in."""
    found = np.random.default_rng(1).integers(0, 63, (96, 5))
    return found, found[:, 0] // 21
