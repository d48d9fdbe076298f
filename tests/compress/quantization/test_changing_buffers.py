"""A net whose outputs depend on a buffer that it changes: said at capture, and no fault of folding."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import retort
from retort.compress.capture.capture_program import capture
from retort.compress.quantization import quantize_program
from retort.core.data.splits import ArraySplit
from retort.core.options.stage_options import QuantizeOptions


class Smoothed(nn.Module):
    """A running mean of its outputs, without any batch normalisation."""

    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
        self.register_buffer("mean", torch.zeros(4))

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.body(x)
        self.mean.copy_(0.5 * self.mean + 0.5 * found.mean(0))
        return found + self.mean


def test_the_change_is_told_by_the_python_interface() -> None:
    """As on the command line, with the buffer's name."""
    with pytest.warns(UserWarning, match="mean"):
        program = retort.capture(Smoothed().eval(), torch.randn(4, 8))
    assert any("mean" in note for note in program.notes)


def test_folding_does_not_take_the_change_for_its_own() -> None:
    """Quantizing such a net does not fail with a sentence about batch normalisation."""
    torch.manual_seed(0)
    program = capture(Smoothed().eval(), {"x": torch.randn(4, 8)})
    data = ArraySplit({"x": np.random.default_rng(0).normal(size=(32, 8)).astype(np.float32)})
    made = quantize_program(program, QuantizeOptions(correction=("none",)), data, "cpu")
    assert made.meta["quantization"]["kinds"]
