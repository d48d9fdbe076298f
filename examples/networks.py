"""Networks of our own to try the toolkit on: recurrent classifiers, U-Net, DenseNet, ShuffleNet, a CNN with a GRU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F


def conv(inputs: int, outputs: int, size: int = 3, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Convolution, batch norm, ReLU."""
    layer = nn.Conv2d(inputs, outputs, size, stride, size // 2, groups=groups, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(outputs), nn.ReLU())


class Recurrent(nn.Module):
    """Tokens ``int64[N, T]`` through an embedding and a recurrent layer to ``[N, 5]`` logits of the mean state."""

    def __init__(self, kind: Callable[..., nn.Module], layers: int, both: bool) -> None:
        super().__init__()
        self.embed, self.layer = nn.Embedding(50, 16), kind(16, 24, layers, batch_first=True, bidirectional=both)
        self.out = nn.Linear(48 if both else 24, 5)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits."""
        states, _ = self.layer(self.embed(tokens))
        result: Tensor = self.out(states.mean(1))
        return result


class Spotter(nn.Module):
    """A spectrogram ``[N, 1, 16, T]`` through convolutions, then a GRU over time whose last state decides."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(conv(1, 16, stride=2), conv(16, 24), nn.MaxPool2d((2, 1)))
        self.gru, self.out = nn.GRU(24 * 4, 32, batch_first=True), nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        x = self.features(x)
        _, state = self.gru(x.permute(0, 3, 1, 2).flatten(2))
        result: Tensor = self.out(state[-1])
        return result


class UNet(nn.Module):
    """Encoder, decoder with transposed convolutions, concatenated skips (Ronneberger et al., 2015)."""

    def __init__(self) -> None:
        super().__init__()
        self.down1, self.down2, self.down3 = (
            nn.Sequential(conv(a, b), conv(b, b)) for a, b in ((3, 12), (12, 24), (24, 48))
        )
        self.up2, self.up1 = nn.ConvTranspose2d(48, 24, 2, 2), nn.ConvTranspose2d(24, 12, 2, 2)
        self.merge2, self.merge1, self.out = conv(48, 24), conv(24, 12), nn.Conv2d(12, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        """A mask per class, ``[N, 2, H, W]``."""
        first = self.down1(x)
        second = self.down2(F.max_pool2d(first, 2))
        third = self.down3(F.max_pool2d(second, 2))
        second = self.merge2(torch.cat([self.up2(third), second], 1))
        result: Tensor = self.out(self.merge1(torch.cat([self.up1(second), first], 1)))
        return result


class DenseLayer(nn.Module):
    """Norm, ReLU, 1×1, norm, ReLU, 3×3; the input is carried along (Huang et al., 2017)."""

    def __init__(self, inputs: int, growth: int) -> None:
        super().__init__()
        self.norm1, self.squeeze = nn.BatchNorm2d(inputs), nn.Conv2d(inputs, 4 * growth, 1, bias=False)
        self.norm2, self.grow = nn.BatchNorm2d(4 * growth), nn.Conv2d(4 * growth, growth, 3, 1, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """``growth`` channels more."""
        return torch.cat([x, self.grow(F.relu(self.norm2(self.squeeze(F.relu(self.norm1(x))))))], 1)


class Shuffle(nn.Module):
    """ShuffleNet V2's unit: half of the channels pass, the others are convolved, then both are shuffled."""

    def __init__(self, width: int) -> None:
        super().__init__()
        half = width // 2
        depthwise = nn.Sequential(nn.Conv2d(half, half, 3, 1, 1, groups=half, bias=False), nn.BatchNorm2d(half))
        self.branch = nn.Sequential(conv(half, half, 1), depthwise, conv(half, half, 1))

    def forward(self, x: Tensor) -> Tensor:
        """The same shape."""
        left, right = x.chunk(2, 1)
        x = torch.cat([left, self.branch(right)], 1)
        n, c, h, w = x.shape
        return x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)


class Encoder(nn.Module):
    """`nn.TransformerEncoder` over patches, with a class token; post-norm."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.1, batch_first=True)
        self.patch, self.encoder = nn.Conv2d(3, 32, 4, 4), nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.token, self.out = nn.Parameter(torch.randn(1, 1, 32)), nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        x = self.patch(x).flatten(2).permute(0, 2, 1)
        x = self.encoder(torch.cat([self.token.repeat(x.shape[0], 1, 1), x], 1))
        result: Tensor = self.out(x[:, 0])
        return result


class ConvLSTM(nn.Module):
    """A ConvLSTM cell unrolled over four frames, its gates cut from one convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.gates, self.out = nn.Conv2d(3 + 16, 64, 3, 1, 1), nn.Conv2d(16, 2, 1)

    def forward(self, frames: Tensor) -> Tensor:
        """A map of the last frame."""
        n, _, _, height, width = frames.shape
        hidden = frames.new_zeros(n, 16, height, width)
        cell = torch.zeros_like(hidden)
        for frame in frames.unbind(1):
            i, f, o, g = self.gates(torch.cat([frame, hidden], 1)).chunk(4, 1)
            cell = torch.sigmoid(f) * cell + torch.sigmoid(i) * torch.tanh(g)
            hidden = torch.sigmoid(o) * torch.tanh(cell)
        result: Tensor = self.out(hidden)
        return result


class Mixer(nn.Module):
    """MLP-Mixer: the same tensor is contracted along tokens and along channels."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.norm1, self.norm2 = nn.Conv2d(3, 32, 4, 4), nn.LayerNorm(32), nn.LayerNorm(32)
        self.tokens = nn.Sequential(nn.Linear(16, 40), nn.GELU(), nn.Linear(40, 16))
        self.channels = nn.Sequential(nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 32))
        self.out = nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = x + self.tokens(self.norm1(x).mT).mT
        x = x + self.channels(self.norm2(x))
        result: Tensor = self.out(x.mean(1))
        return result


def pooled(width: int) -> list[nn.Module]:
    """Global average, five classes."""
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 5)]


def densenet() -> nn.Module:
    """Two dense blocks with a transition."""
    first = [nn.Conv2d(3, 16, 3, 1, 1), DenseLayer(16, 8), DenseLayer(24, 8), DenseLayer(32, 8)]
    between = [nn.BatchNorm2d(40), nn.ReLU(), nn.Conv2d(40, 20, 1), nn.AvgPool2d(2)]
    return nn.Sequential(*first, *between, DenseLayer(20, 8), DenseLayer(28, 8), nn.BatchNorm2d(36), *pooled(36))


def shufflenet() -> nn.Module:
    """Two stages of two units."""
    return nn.Sequential(
        conv(3, 24),
        Shuffle(24),
        Shuffle(24),
        conv(24, 48, 3, 2),
        Shuffle(48),
        Shuffle(48),
        conv(48, 64, 1),
        *pooled(64),
    )


NETWORKS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "lstm": (lambda: Recurrent(nn.LSTM, 1, False), "text"),
    "lstm_bidirectional": (lambda: Recurrent(nn.LSTM, 1, True), "text"),
    "lstm_two_layers": (lambda: Recurrent(nn.LSTM, 2, True), "text"),
    "gru": (lambda: Recurrent(nn.GRU, 1, False), "text"),
    "gru_two_layers": (lambda: Recurrent(nn.GRU, 2, True), "text"),
    "cnn_gru": (Spotter, "spectrogram"),
    "unet": (UNet, "image"),
    "densenet": (densenet, "image"),
    "shufflenet": (shufflenet, "image"),
    "mixer": (Mixer, "image"),
    "conv_lstm": (ConvLSTM, "frames"),
    "transformer_encoder": (Encoder, "image"),
}
"""Name → factory and what it takes."""

_INPUTS: dict[str, tuple[str, tuple[int, ...]]] = {
    "image": ("x", (3, 16, 16)),
    "text": ("tokens", (12,)),
    "spectrogram": ("x", (1, 16, 20)),
    "frames": ("frames", (4, 3, 8, 8)),
}


def names() -> list[str]:
    """What there is to build."""
    return list(NETWORKS)


def build(name: str) -> nn.Module:
    """The network ``name``."""
    return NETWORKS[name][0]()


def samples(name: str, count: int = 4) -> dict[str, dict[str, NDArray[Any]]]:
    """``count`` random inputs for the network ``name``, for every split alike."""
    key, shape = _INPUTS[NETWORKS[name][1]]
    key = "input" if isinstance(build(name), nn.Sequential) else key
    draw = np.random.default_rng(0)
    values: NDArray[Any] = (
        draw.integers(0, 50, (count, *shape)) if key == "tokens" else draw.standard_normal((count, *shape))
    )
    values = values if key == "tokens" else values.astype(np.float32)
    given = {key: values}
    return {"train": given, "validation": given, "calibration": given, "test": given}
