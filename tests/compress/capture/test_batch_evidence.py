"""Modules that take and return states: the axis of the batch is found by name, by sizes and by trial."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

import retort
from retort.compress.capture.batch_evidence import batch_layouts
from retort.compress.capture.capture_program import capture
from retort.core.errors import CaptureError, ModelError

HIDDEN = 12


class Streaming(nn.Module):
    """One step of a voice detector: a chunk ``[N, 1, 32]`` and states ``[1, N, 12]`` in, a score and states out."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.lstm = nn.Conv1d(1, 8, 5, stride=2), nn.LSTM(8, HIDDEN, batch_first=True)
        self.last = nn.Linear(HIDDEN, 1)

    def forward(self, x: torch.Tensor, h: torch.Tensor, c: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The score and the next states."""
        steps, (h, c) = self.lstm(torch.relu(self.conv(x)).transpose(1, 2), (h, c))
        return self.last(steps[:, -1]), h, c


class Layered(nn.Module):
    """Two bidirectional layers over ``[T, N, 5]`` with states ``[4, N, 12]``."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(5, HIDDEN, num_layers=2, bidirectional=True)

    def forward(self, x: torch.Tensor, h: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """All steps and the last states."""
        steps, last = self.gru(x, h)
        return steps, last


class Fixed(nn.Module):
    """A module that writes its batch of 4 as a number."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The sum over the features of ``[4, 4, 3]``."""
        return x.reshape(4, -1, 3).sum(-1)


def numbers(*shape: int, seed: int = 0) -> np.ndarray:
    """Random float32 numbers."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def example(size: int) -> dict[str, torch.Tensor]:
    """A batch of the streaming module."""
    return {"x": torch.randn(size, 1, 32), "h": torch.randn(1, size, HIDDEN), "c": torch.randn(1, size, HIDDEN)}


@pytest.mark.parametrize(
    ("size", "options"),
    [(4, {}), (4, {"dynamic": {"h": {1: "batch"}, "c": {1: "batch"}}}), (4, {"batch": {"h": 1, "c": 1}}), (1, {})],
)
def test_the_batch_of_states_is_found(size: int, options: dict[str, Any]) -> None:
    """By equal sizes, by the name `batch` in `dynamic`, by `batch_axis`, and by trial where all sizes are 1."""
    program = capture(Streaming(), example(size), **options)
    assert [spec.shape for spec in program.signature.inputs] == [
        ("batch", 1, 32),
        (1, "batch", HIDDEN),
        (1, "batch", HIDDEN),
    ]
    assert [spec.shape for spec in program.signature.outputs[1:]] == [(1, "batch", HIDDEN)] * 2
    assert program.signature.batch_invariant


def test_states_as_long_as_the_batch_are_decided_by_trial() -> None:
    """Four states per sample and a batch of 4: the model runs with one of the two axes only."""
    program = capture(Layered(), {"x": torch.randn(7, 4, 5), "h": torch.randn(4, 4, HIDDEN)})
    assert [spec.shape for spec in program.signature.inputs] == [(7, "batch", 5), (4, "batch", HIDDEN)]


@pytest.mark.parametrize("own", [True, False])
def test_a_stream_stays_right_over_its_steps(own: bool) -> None:
    """The FP32 and the INT8 file compute scores and states, for data in the model's layout or rows first."""
    model, count = Streaming().eval(), 24
    data = {"x": numbers(count, 1, 32), "h": numbers(1, count, HIDDEN), "c": numbers(1, count, HIDDEN)}
    if not own:
        data = {name: np.moveaxis(value, 1, 0) if name != "x" else value for name, value in data.items()}
    program = retort.capture(model, example(4))
    files = retort.export(program, data=data), retort.export(retort.quantize(program, data=data, timed=False))
    for file, allowed in zip(files, (1e-5, 0.1), strict=True):
        session = onnxruntime.InferenceSession(str(file.path), providers=["CPUExecutionProvider"])
        states = [torch.zeros(1, 2, HIDDEN)] * 2
        given = {name: np.zeros((1, 2, HIDDEN), np.float32) for name in "hc"}
        for step in range(6):
            chunk = torch.from_numpy(numbers(2, 1, 32, seed=step))
            with torch.no_grad():
                score, *states = model(chunk, *states)
            found, *after = session.run(None, {"x": chunk.numpy(), **given})
            given = dict(zip("hc", after, strict=True))
            for wanted, value in zip((score, *states), (found, *after), strict=True):
                assert np.abs(wanted.numpy() - value).max() <= allowed


def test_a_fixed_batch_is_no_batch_on_another_axis() -> None:
    """A module of one input that fixes its batch is refused, although another axis has the same size."""
    with pytest.raises(CaptureError, match="fixes the batch to 4"):
        capture(Fixed(), {"x": torch.randn(4, 4, 3)})


def test_inputs_of_other_sizes_are_refused_with_the_ways_out() -> None:
    """A table that all samples share is no input with a batch: the message says what can be done."""
    with pytest.raises(ModelError, match=r"have x: \[5, 8\], table: \[3, 8\]\n.*batch_axis.*repeat for each sample"):
        capture(nn.Bilinear(8, 8, 2), {"x": torch.randn(5, 8), "table": torch.randn(3, 8)})


def test_the_last_axis_is_no_batch() -> None:
    """Features may be as many as samples."""
    layouts = batch_layouts({"x": torch.zeros(8, 8), "y": torch.zeros(3, 8)}, None)
    assert layouts == [None] or all(layout is None or layout.get("y") != 1 for layout in layouts)


def test_samples_of_a_data_source_get_their_axis_named() -> None:
    """States that stand rows first, as in a data source, do not run; the remedy is the option, and it helps."""
    feeds = {name: value.movedim(1, 0) if name != "x" else value for name, value in example(4).items()}
    with pytest.raises(ModelError) as caught:
        capture(Streaming(), feeds)
    assert "batch_axis: {h: 1, c: 1}" in caught.value.remedy
    capture(Streaming(), {name: value.movedim(0, 1) if name != "x" else value for name, value in feeds.items()})
