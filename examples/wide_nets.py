"""Networks whose quantization needs much memory if it is not bounded: wide layers, large images, volumes."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

_VGG16 = (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0)


def vgg16(classes: int = 1000) -> nn.Module:
    """VGG16 for ``[N, 3, 224, 224]`` images (Simonyan & Zisserman, 2014); its first linear layer has 25,088 inputs."""
    layers: list[nn.Module] = []
    channels = 3
    for width in _VGG16:
        if width:
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
            channels = width
        else:
            layers.append(nn.MaxPool2d(2))
    head = [nn.Linear(25088, 4096), nn.ReLU(), nn.Linear(4096, 4096), nn.ReLU(), nn.Linear(4096, classes)]
    return _lively(nn.Sequential(*layers, nn.Flatten(), *head))


class Pitch(nn.Module):
    """CREPE for ``[N, 1024]`` windows of sound (Kim et al., 2018); the second of six convolutions has 65,536 inputs.

    Args:
        width: 32 is the published `full` model, 4 the `tiny` one.
    """

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        sizes = [1, *(width * factor for factor in (32, 4, 4, 4, 8, 16))]
        kernels = (512, *(64,) * 5)
        self.convs = nn.ModuleList(
            nn.Conv1d(before, after, kernel, 4 if index == 0 else 1)
            for index, (before, after, kernel) in enumerate(zip(sizes, sizes[1:], kernels, strict=False))
        )
        self.norms = nn.ModuleList(nn.BatchNorm1d(size) for size in sizes[1:])
        self.classifier = nn.Linear(64 * width, 360)

    def forward(self, sound: Tensor) -> Tensor:
        """The probabilities of 360 pitches."""
        x = sound[:, None]
        for index, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            x = norm(functional.relu(conv(functional.pad(x, (254, 254) if index == 0 else (31, 32)))))
            x = functional.max_pool1d(x, 2)
        return torch.sigmoid(self.classifier(x.permute(0, 2, 1).flatten(1)))


def crepe() -> nn.Module:
    """The full CREPE with random weights."""
    return _lively(Pitch())


def volumes() -> nn.Module:
    """A 3-D residual network for ``[N, 1, 32, 96, 96]`` volumes, such as scans."""
    layers: list[nn.Module] = []
    channels = 1
    for width, stride in ((32, 1), (32, 1), (64, 2), (64, 1), (128, 2), (128, 1), (256, 2), (256, 1)):
        layers += [nn.Conv3d(channels, width, 3, stride, 1, bias=False), nn.BatchNorm3d(width), nn.ReLU()]
        channels = width
    return _lively(nn.Sequential(*layers, nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(256, 10)))


def _lively(model: nn.Module) -> nn.Module:
    """Weights of a size that keeps the variance of activations (He et al., 2015)."""
    with torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear):
                layer.weight.normal_(0, (2 / layer.weight[0].numel()) ** 0.5)
    return model.eval()


def build(name: str) -> nn.Module:
    """One of the networks of this file."""
    made: nn.Module = {"vgg16": vgg16, "crepe": crepe, "volumes": volumes}[name]()
    return made


SHAPES = {"vgg16": (3, 224, 224), "crepe": (1024,), "volumes": (1, 32, 96, 96)}


def samples(name: str, count: int = 16) -> dict[str, dict[str, NDArray[Any]]]:
    """Smooth random inputs for one of these networks: the same for calibration and validation, and two for training."""
    random, shape = np.random.default_rng(0), SHAPES[name]
    noise = random.standard_normal((count, *shape)).astype(np.float32)
    for axis in range(noise.ndim - 2 if noise.ndim > 2 else 1, noise.ndim):
        noise = np.cumsum(noise, axis) * 0.5
    noise -= noise.mean(tuple(range(1, noise.ndim)), keepdims=True)
    noise /= noise.std(tuple(range(1, noise.ndim)), keepdims=True)
    given = {"input" if name != "crepe" else "sound": noise.astype(np.float32)}
    few = {key: value[:2] for key, value in given.items()}
    return {"train": few, "validation": given, "calibration": given, "test": few}
