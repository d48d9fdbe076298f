"""Awkward networks that no rule was made for: what people write, in small."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from .networks import conv


class UnevenSplit(nn.Module):
    """Three parts of unequal width go three ways and meet again."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.left, self.right = conv(3, 64), conv(10, 20), nn.Conv2d(22, 12, 1)
        self.merge, self.out = conv(64, 48), nn.Linear(48, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        a, b, c = torch.split(self.stem(x), [10, 22, 32], 1)
        result: Tensor = self.out(self.merge(torch.cat([self.left(a), self.right(b), c], 1)).mean((2, 3)))
        return result


class Shared(nn.Module):
    """One convolution used twice, one linear layer used for two inputs, and a list of outputs stacked."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.twice = conv(3, 32), nn.Conv2d(32, 32, 3, 1, 1)
        self.project, self.out = nn.Linear(32, 24), nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        x = self.stem(x)
        one = self.twice(x)
        two = self.twice(F.relu(one))
        parts = [torch.tanh(self.project(item.flatten(2).amax(-1))) for item in (one, two)]
        result: Tensor = self.out(torch.stack(parts, 1).sum(1))
        return result


class TiedWords(nn.Module):
    """A language model: learned positions, pre-norm, SwiGLU, and the embedding again as the output layer."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(60, 32), nn.Parameter(torch.randn(1, 16, 32) * 0.1)
        self.norm, self.gate, self.up = nn.LayerNorm(32), nn.Linear(32, 48, bias=False), nn.Linear(32, 48, bias=False)
        self.down, self.last = nn.Linear(48, 32, bias=False), nn.LayerNorm(32)

    def forward(self, tokens: Tensor) -> Tensor:
        """Scores of every token."""
        x = self.words(tokens) * math.sqrt(32) + self.places[:, : tokens.shape[1]]
        y = self.norm(x)
        x = x + self.down(F.silu(self.gate(y)) * self.up(y))
        return F.linear(self.last(x), self.words.weight)


class Volume(nn.Module):
    """Three-dimensional, dilated and transposed convolutions with group and instance norms."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm1 = nn.Conv3d(2, 16, 3, padding=1), nn.GroupNorm(4, 16)
        self.second, self.norm2 = nn.Conv3d(16, 24, 3, padding=2, dilation=2), nn.InstanceNorm3d(24, affine=True)
        self.up, self.out = nn.ConvTranspose3d(24, 12, 2, 2, groups=2), nn.Conv3d(12, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Three channels per voxel."""
        x = F.mish(self.norm1(self.first(x)))
        x = F.leaky_relu(self.norm2(self.second(F.avg_pool3d(x, 2))))
        result: Tensor = self.out(F.softplus(self.up(x)))
        return result


class Excited(nn.Module):
    """Squeeze-and-excite with linear layers and hard-coded sizes, and one with 1×1 convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body = conv(3, 32), conv(32, 32)
        self.down, self.up = nn.Linear(32, 8), nn.Linear(8, 32)
        self.down2, self.up2, self.out = nn.Conv2d(32, 8, 1), nn.Conv2d(8, 32, 1), nn.Linear(64 * 6 * 6, 5)
        self.widen = nn.Conv2d(32, 64, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        x = self.stem(x)
        weights = torch.sigmoid(self.up(F.relu(self.down(x.mean((2, 3)))))).view(-1, 32, 1, 1)
        x = self.body(x * weights)
        x = x * F.hardsigmoid(self.up2(F.silu(self.down2(F.adaptive_avg_pool2d(x, 1)))))
        result: Tensor = self.out(F.max_pool2d(self.widen(x), 2)[:, :, :6, :6].reshape(-1, 64 * 6 * 6))
        return result


class TwoInputs(nn.Module):
    """An image and a vector; a classification, the features and their norm."""

    def __init__(self) -> None:
        super().__init__()
        self.image, self.vector = nn.Sequential(conv(3, 16), conv(16, 32, 3, 2)), nn.Linear(6, 24)
        self.scale, self.shift = nn.Linear(24, 32), nn.Linear(24, 32)
        self.mix, self.features, self.out = nn.Linear(56, 40), nn.Linear(40, 12), nn.Linear(12, 5)

    def forward(self, image: Tensor, vector: Tensor) -> dict[str, Tensor]:
        """Logits, features, and the norm of the image features."""
        v = F.gelu(self.vector(vector))
        x = self.image(image)
        x = x * (1 + self.scale(v))[:, :, None, None] + self.shift(v)[..., None, None]
        features = self.features(torch.relu(self.mix(torch.cat([x.mean((-2, -1)), v], -1))))
        return {"logits": self.out(features), "features": features, "norm": x.square().mean(1).flatten(1).sum(-1)}


class Temporal(nn.Module):
    """A temporal convolutional net: causal padding, growing dilation, residuals, GLU, weight norm."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv1d(4, 24, 1)
        self.layers = nn.ModuleList(nn.Conv1d(24, 48, 3, dilation=2**index) for index in range(3))
        self.mixes = nn.ModuleList(torch.nn.utils.parametrizations.weight_norm(nn.Conv1d(24, 24, 1)) for _ in range(3))
        self.out = nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of the last step."""
        x = self.stem(x)
        for index, (layer, mix) in enumerate(zip(self.layers, self.mixes)):
            y = F.glu(layer(F.pad(x, (2 * 2**index, 0))), 1)
            x = x + mix(y)
        result: Tensor = self.out(x[:, :, -1])
        return result


class Upscale(nn.Module):
    """Super-resolution: residual blocks, pixel shuffle, and the input resampled and added."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.one, self.two = (
            nn.Conv2d(3, 24, 3, 1, 1),
            nn.Conv2d(24, 24, 3, 1, 1),
            nn.Conv2d(24, 24, 3, 1, 1),
        )
        self.act, self.up, self.out = nn.PReLU(24), nn.Conv2d(24, 64, 3, 1, 1), nn.Conv2d(16, 3, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """The image at twice the size."""
        y = self.act(self.stem(x))
        y = y + 0.1 * self.two(F.relu(self.one(y)))
        y = self.out(F.relu(F.pixel_shuffle(self.up(y), 2)))
        result: Tensor = y + F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)
        return result


class Multiplied(nn.Module):
    """Depthwise convolutions that give three channels for each of their inputs, in two spellings of flattening."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.depthwise, self.point = conv(3, 16), nn.Conv2d(16, 48, 3, 2, 1, groups=16), conv(48, 24, 1)
        self.norm, self.hidden, self.out = nn.BatchNorm1d(24 * 64), nn.Linear(24 * 8 * 8, 32), nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        x = self.point(F.relu6(self.depthwise(self.stem(x))))
        result: Tensor = self.out(torch.relu(self.hidden(self.norm(x.view(x.size(0), -1)))))
        return result


class Einsum(nn.Module):
    """Attention written with einsum over parameters of three dimensions, pooled by a learned query."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm = nn.Linear(6, 32), nn.LayerNorm(32)
        self.query, self.key, self.value = (nn.Parameter(torch.randn(32, 4, 8) / 6) for _ in range(3))
        self.merge, self.pool = nn.Parameter(torch.randn(4, 8, 32) / 6), nn.Parameter(torch.randn(32))
        self.hidden, self.out = nn.Linear(32, 64), nn.Linear(64, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        x = self.embed(x)
        y = self.norm(x)
        q, k, v = (torch.einsum("btc,chd->bthd", y, item) for item in (self.query, self.key, self.value))
        weights = torch.einsum("bthd,bshd->bhts", q, k).div(math.sqrt(8)).softmax(-1)
        x = x + torch.einsum("bthd,hdc->btc", torch.einsum("bhts,bshd->bthd", weights, v), self.merge)
        attention = torch.softmax(x @ self.pool, 1)
        result: Tensor = self.out(F.gelu(self.hidden((attention.unsqueeze(-1) * x).sum(1))))
        return result


class Masked(nn.Module):
    """Tokens with padding: `nn.MultiheadAttention`, then fused attention with a mask made of the tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.attention = nn.Embedding(50, 32, padding_idx=0), nn.MultiheadAttention(32, 4, batch_first=True)
        self.qkv, self.project, self.norm = nn.Linear(32, 96), nn.Linear(32, 32), nn.LayerNorm(32)
        self.out = nn.Sequential(nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 5))

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits."""
        x = self.words(tokens)
        x = x + self.attention(x, x, x, need_weights=False)[0]
        q, k, v = self.qkv(self.norm(x)).chunk(3, -1)
        q, k, v = (item.unflatten(-1, (4, 8)).transpose(1, 2) for item in (q, k, v))
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=(tokens > 3)[:, None, None, :])
        x = x + self.project(y.transpose(1, 2).flatten(2))
        present = (tokens > 3).unsqueeze(-1).to(x.dtype)
        result: Tensor = self.out((x * present).sum(1) / present.sum(1).clamp(min=1))
        return result


NETWORKS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "uneven_split": (UnevenSplit, "image"),
    "shared_twice": (Shared, "image"),
    "tied_words": (TiedWords, "tokens"),
    "volume": (Volume, "volume"),
    "excited": (Excited, "image"),
    "two_inputs": (TwoInputs, "pair"),
    "temporal": (Temporal, "series"),
    "upscale": (Upscale, "image"),
    "multiplied": (Multiplied, "image"),
    "einsum_attention": (Einsum, "rows"),
    "masked_attention": (Masked, "tokens"),
}
"""Name → factory and what it takes."""

_INPUTS: dict[str, dict[str, tuple[int, ...]]] = {
    "image": {"x": (3, 16, 16)},
    "tokens": {"tokens": (12,)},
    "volume": {"x": (2, 6, 8, 8)},
    "pair": {"image": (3, 16, 16), "vector": (6,)},
    "series": {"x": (4, 32)},
    "rows": {"x": (10, 6)},
}


def names() -> list[str]:
    """What there is to build."""
    return list(NETWORKS)


def build(name: str) -> nn.Module:
    """The network ``name``."""
    return NETWORKS[name][0]()


def samples(name: str, count: int = 4) -> dict[str, dict[str, NDArray[Any]]]:
    """``count`` random inputs for the network ``name``, for every split alike."""
    draw = np.random.default_rng(0)
    feeds = {
        key: draw.integers(0, 50, (count, *shape))
        if key == "tokens"
        else draw.standard_normal((count, *shape)).astype(np.float32)
        for key, shape in _INPUTS[NETWORKS[name][1]].items()
    }
    return {"train": feeds, "validation": feeds, "calibration": feeds, "test": feeds}
