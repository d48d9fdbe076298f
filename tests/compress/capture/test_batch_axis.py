"""The axis of the batch: given for modules that take time first, and found to be wrong where samples are coupled."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import retort
from retort.compress.capture.capture_program import capture
from retort.compress.program import NOTES, load_program
from retort.core.context import Context, Place
from retort.core.data.data_sources import load_data
from retort.core.errors import UserError
from retort.core.options.stage_options import CaptureOptions, DataSpec, ModelSpec
from retort.pipeline import stages


class TimeFirst(nn.Module):
    """An LSTM over ``[T, N, 5]``, as PyTorch builds it by default, with a mask of the features ``[N, 5]``."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.last = nn.LSTM(5, 8), nn.Linear(8, 3)

    def forward(self, steps: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Scores of each step ``[T, N, 3]``."""
        result: torch.Tensor = self.last(self.lstm(steps * mask)[0])
        return result


class Means(nn.Module):
    """Subtracts the mean of the batch ``[N, 4]``."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The differences."""
        return x - x.mean(0)


def time_first() -> TimeFirst:
    """The network, as a factory."""
    torch.manual_seed(0)
    return TimeFirst()


def samples() -> dict[str, dict[str, np.ndarray]]:
    """Samples on axis 0, as every data source gives them."""
    draw = np.random.default_rng(0)
    return {
        split: {
            "steps": draw.normal(size=(8, 7, 5)).astype(np.float32),
            "mask": draw.uniform(size=(8, 5)).astype(np.float32),
        }
        for split in ("train", "validation", "calibration", "test")
    }


@pytest.mark.parametrize("inputs", [1, 2])
def test_samples_on_the_axis_of_time_are_reported(inputs: int) -> None:
    """A recurrence over the samples is named, with the axis on which they are independent."""
    steps = torch.randn(4, 7, 5, generator=torch.Generator().manual_seed(1))
    model: nn.Module = TimeFirst() if inputs == 2 else nn.LSTM(5, 8)
    feeds = {"steps": steps, "mask": torch.ones(7, 5)} if inputs == 2 else {"steps": steps}
    program = capture(model, feeds, batch={"steps": 0, "mask": None} if inputs == 2 else None)
    assert not program.signature.batch_invariant
    (note,) = program.meta[NOTES]
    assert note.startswith("the outputs of a sample depend on the other samples of the batch")
    assert ("`batch_axis: {steps: 1}`" in note) is (inputs == 1)


def test_a_model_that_couples_its_samples_has_no_other_axis() -> None:
    """A mean over the batch is reported without advice."""
    program = capture(Means(), {"x": torch.randn(4, 4, generator=torch.Generator().manual_seed(0)).cumsum(1)})
    assert not program.signature.batch_invariant
    assert program.meta[NOTES][0].startswith("the outputs of a sample depend on the other samples of the batch")


@pytest.mark.parametrize("factory", [lambda: nn.LSTM(5, 8, batch_first=True), lambda: nn.Conv1d(7, 3, 1)])
def test_independent_samples_are_not_mentioned(factory: type[nn.Module]) -> None:
    """A recurrence over axis 1 and a convolution have independent samples."""
    program = capture(factory(), {"x": torch.randn(4, 7, 5)})
    assert program.signature.batch_invariant
    assert NOTES not in program.meta


def test_the_batch_axis_is_given_by_name(tmp_path: Path) -> None:
    """With `batch_axis`, samples of a data source go to that axis, and each has the outputs that it has alone."""
    context = Context(load_data(DataSpec(source=f"{Path(__file__).stem}:samples"), Path(__file__).parent))
    context = Context(context.data, base=Path(__file__).parent, scratch=tmp_path / "scratch")
    spec = ModelSpec(source=f"{Path(__file__).stem}:time_first")
    captured = stages.capture(CaptureOptions(batch_axis={"steps": 1}), spec, Place(tmp_path / "program"), context)
    program = load_program(captured.main)
    assert [item.shape for item in program.signature.inputs] == [(7, "batch", 5), ("batch", 5)]
    assert [item.shape for item in program.signature.outputs] == [(7, "batch", 3)]
    assert program.signature.batch_invariant
    assert not program.meta.get(NOTES)


def test_the_batch_axis_of_a_live_example_is_the_models() -> None:
    """An example in memory is what the model takes."""
    program = retort.capture(nn.LSTM(5, 8), torch.randn(9, 4, 5), batch_axis={"input": 1})
    assert program.signature.inputs[0].shape == (9, "batch", 5)
    assert next(iter(program(torch.randn(9, 2, 5)).values())).shape == (9, 2, 8)


def test_states_with_their_batch_on_axis_1_are_found() -> None:
    """The sizes of an example show the batch axis of states, and later stages take data in the same layout."""

    class _Stream(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.head = nn.GRU(5, 8, batch_first=True), nn.Linear(8, 3)

        def forward(self, x: torch.Tensor, state: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            steps, state = self.layer(x, state)
            return self.head(steps), state

    feeds = {"x": torch.randn(9, 4, 5), "state": torch.randn(1, 9, 8)}
    program = retort.capture(_Stream(), feeds, data=feeds)
    assert [spec.shape for spec in program.signature.inputs] == [("batch", 4, 5), (1, "batch", 8)]
    graph = retort.export(retort.quantize(program, timed=False, correction="none"))
    outputs = graph(feeds)
    assert [value.shape for value in outputs.values()] == [(9, 4, 3), (1, 9, 8)]


@pytest.mark.parametrize("given", [True, False])
def test_shared_inputs_and_states_reach_every_stage(given: bool) -> None:
    """With or without data, a number without axes and states on axis 1 are exported, packed and computed."""

    class _Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.GRU(5, 8, batch_first=True)

        def forward(self, x: torch.Tensor, state: torch.Tensor, rate: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = self.layer(x, state)[0] * rate
            return found

    feeds = {"x": torch.randn(9, 4, 5), "state": torch.randn(1, 9, 8), "rate": torch.tensor(2.0)}
    program = retort.capture(_Scaled(), feeds, data=feeds if given else None)
    assert [spec.shape for spec in program.signature.inputs] == [("batch", 4, 5), (1, "batch", 8), ()]
    assert [value.shape for value in program.example(3).values()] == [(3, 4, 5), (1, 3, 8), ()]
    graph = retort.export(program)
    retort.pack(graph)
    np.testing.assert_allclose(graph(feeds), program(feeds), atol=1e-5)


@pytest.mark.parametrize("axes", [{"other": 1}, {"steps": 3}])
def test_a_batch_axis_that_does_not_fit_is_refused(axes: dict[str, int], tmp_path: Path) -> None:
    """The message has the inputs and their shapes."""
    data = load_data(DataSpec(source=f"{Path(__file__).stem}:samples"), Path(__file__).parent)
    context = Context(data, base=Path(__file__).parent, scratch=tmp_path)
    spec = ModelSpec(source=f"{Path(__file__).stem}:time_first")
    with pytest.raises(UserError, match=r"does not fit the inputs, which are .*steps: \[\d, 7, 5\]"):
        stages.capture(CaptureOptions(batch_axis=axes), spec, Place(tmp_path / "program"), context)
