"""Five networks of different kinds, and real data for each: what pruning tools are compared on."""

from __future__ import annotations

import importlib
import inspect
import re
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .digits import ResidualNet

WORDS, LENGTH = 1024, 32
MODULES = ("asyncio", "unittest", "email", "logging", "argparse", "decimal", "tarfile", "zipfile")


class Gated(nn.Module):
    """An inverted residual block: widen, depthwise convolution, squeeze-and-excite, narrow (Howard et al., 2019)."""

    def __init__(self, width: int, wide: int, stride: int) -> None:
        super().__init__()
        self.widen, self.norm1 = nn.Conv2d(width, wide, 1, bias=False), nn.BatchNorm2d(wide)
        self.deep, self.norm2 = nn.Conv2d(wide, wide, 3, stride, 1, groups=wide, bias=False), nn.BatchNorm2d(wide)
        self.down, self.up = nn.Conv2d(wide, wide // 4, 1), nn.Conv2d(wide // 4, wide, 1)
        self.narrow, self.norm3 = nn.Conv2d(wide, width, 1, bias=False), nn.BatchNorm2d(width)
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """``[N, width, H, W]`` to ``[N, width, H / stride, W / stride]``."""
        y = torch.relu(self.norm2(self.deep(torch.relu(self.norm1(self.widen(x))))))
        y = y * torch.sigmoid(self.up(torch.relu(self.down(y.mean((2, 3), keepdim=True)))))
        y = self.norm3(self.narrow(y))
        result: Tensor = x + y if self.stride == 1 else y
        return result


class Depthwise(nn.Module):
    """A MobileNet of four blocks for ``[N, 1, 8, 8]`` images."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(1, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)
        self.body = nn.Sequential(*(Gated(width, 4 * width, stride) for stride in (1, 1, 2, 1)))
        self.head = nn.Linear(width, 10)

    def forward(self, image: Tensor) -> Tensor:
        """Logits per class."""
        logits: Tensor = self.head(self.body(torch.relu(self.norm(self.stem(image)))).mean((2, 3)))
        return logits


class Vision(nn.Module):
    """A Transformer over the 16 patches of an ``[N, 1, 8, 8]`` image (Dosovitskiy et al., 2021)."""

    def __init__(self, width: int = 64, depth: int = 3, heads: int = 4, inner: int = 256) -> None:
        super().__init__()
        self.patch = nn.Conv2d(1, width, 2, 2)
        self.place = nn.Parameter(torch.randn(1, 16, width) * 0.02)
        layers = (
            nn.TransformerEncoderLayer(width, heads, inner, 0.0, "gelu", batch_first=True, norm_first=True)
            for _ in range(depth)
        )
        self.body, self.norm, self.head = nn.Sequential(*layers), nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, image: Tensor) -> Tensor:
        """Logits per class."""
        tokens = self.patch(image).flatten(2).transpose(1, 2) + self.place
        logits: Tensor = self.head(self.norm(self.body(tokens)).mean(1))
        return logits


class Recurrent(nn.Module):
    """Two LSTM layers over the eight rows of a digit."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.rnn, self.head = nn.LSTM(8, width, 2, batch_first=True), nn.Linear(width, 10)

    def forward(self, rows: Tensor) -> Tensor:
        """``[N, 8, 8]`` to logits per class."""
        logits: Tensor = self.head(self.rnn(rows)[0][:, -1])
        return logits


def residual() -> nn.Module:
    """A ResNet for digits."""
    return ResidualNet(32, 1)


def depthwise() -> nn.Module:
    """Depthwise convolutions with squeeze-and-excite."""
    return Depthwise()


def vision() -> nn.Module:
    """A small vision Transformer."""
    return Vision()


def recurrent() -> nn.Module:
    """A small LSTM."""
    return Recurrent()


def bert() -> nn.Module:
    """A small BERT that tells from which module a sentence of Python's documentation is."""
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(
        vocab_size=WORDS, hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=256,
        max_position_embeddings=LENGTH,
    )  # fmt: skip
    config.num_labels = len(MODULES)
    net: nn.Module = BertForSequenceClassification(config)
    return net


def digit_rows() -> tuple[np.ndarray, np.ndarray]:
    """scikit-learn's digits as ``float32[1797, 8, 8]`` sequences of rows, and targets."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return (bunch.images / 16).astype(np.float32), bunch.target.astype(np.int64)


def sentences() -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Sentences of the docstrings of eight modules as hashed words ``int64[N, 32]``, and which module each is from."""
    rows, targets = [], []
    for target, name in enumerate(MODULES):
        for text in sorted(set(_sentences(name))):
            words = [word for word in re.findall(r"[a-z_]+", text.lower()) if name not in word][:LENGTH]
            if len(words) >= 4:
                rows.append([1 + zlib.crc32(word.encode()) % (WORDS - 1) for word in words])
                targets.append(target)
    ids = np.zeros((len(rows), LENGTH), np.int64)
    for place, row in enumerate(rows):
        ids[place, : len(row)] = row
    return {"input_ids": ids, "attention_mask": (ids > 0).astype(np.int64)}, np.array(targets, np.int64)


def _sentences(name: str) -> Iterator[str]:
    module = importlib.import_module(name)
    holders: list[Any] = [module, *(item for _, item in inspect.getmembers(module, inspect.ismodule))]
    for holder in holders:
        if getattr(holder, "__name__", "").partition(".")[0] == name:
            for _, item in inspect.getmembers(holder, lambda x: inspect.isclass(x) or inspect.isfunction(x)):
                for part in (item, *(value for _, value in inspect.getmembers(item, inspect.isfunction))):
                    yield from re.split(r"(?<=[.!?])\s+|\n\s*\n", inspect.getdoc(part) or "")
