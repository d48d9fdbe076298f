"""A small net and the data that the tests of the training loop share."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from retort.compress.capture.capture_program import capture
from retort.compress.program import Program, clone
from retort.compress.training.train import fit
from retort.core.context import Context
from retort.core.data.splits import ArraySplit, Splits
from retort.core.options.stage_options import TrainOptions
from retort.core.tensors import Array


@functools.cache
def _start() -> Program:
    torch.manual_seed(7)
    layers = [nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 3)]
    return capture(nn.Sequential(*layers), {"x": torch.randn(2, 6)})


def net() -> Program:
    """A small net with BatchNorm and dropout, the same every time."""
    return clone(_start())


def blobs(count: int, seed: int, classes: int = 3, spread: float = 0.6) -> ArraySplit:
    """Gaussian classes around fixed centres."""
    centres = np.random.default_rng(0).standard_normal((classes, 6)) * 1.5
    rng = np.random.default_rng(seed)
    targets = rng.integers(0, classes, count)
    inputs = centres[targets] + spread * rng.standard_normal((count, 6))
    return ArraySplit({"x": inputs.astype(np.float32)}, targets)


def splits(count: int = 65, **changes: Any) -> Splits:
    """Training, validation, calibration and test blobs."""
    whole = {"train": blobs(count, 1), "validation": blobs(40, 2), "calibration": blobs(8, 3), "test": blobs(50, 4)}
    return Splits(**{**whole, **changes})


def weights(program: Program) -> dict[str, torch.Tensor]:
    """A copy of parameters and buffers."""
    return {name: value.clone() for name, value in program.module.state_dict().items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    """Whether two states are equal bit for bit."""
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


def run(program: Program, data: Splits | None = None, scratch: Path | None = None, **options: Any) -> Any:
    """Train a classifier with few epochs."""
    chosen = TrainOptions(**{"epochs": 4, "batch_size": 16, "learning_rate": 0.01, **options})
    return fit(program, chosen, Context(data or splits(), task="classification", seed=3, scratch=scratch))


class Killed(Exception):
    """Represents a power failure."""


class Unplugged(ArraySplit):
    """A split that raises an exception at a given read."""

    reads = 0
    limit = 10**9

    def read(self, indices: Any) -> tuple[dict[str, Array], Array | None]:
        Unplugged.reads += 1
        if Unplugged.reads > Unplugged.limit:
            raise Killed
        return super().read(indices)
