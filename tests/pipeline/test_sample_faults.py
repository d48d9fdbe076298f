"""A sample that the model itself does not take is named by every stage that runs it, and other errors stay."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from retort.compress.capture.capture_program import capture
from retort.compress.program import store
from retort.core.artifact import Artifact
from retort.core.context import Context, Place
from retort.core.data.splits import ArraySplit, Splits
from retort.core.errors import DataError
from retort.core.options.stage_options import PruneOptions, QuantizeOptions
from retort.pipeline import dispatch, stages
from retort.pipeline.dispatch import run_stage


class Words(nn.Module):
    """The mean of embedded words."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table, self.first, self.last = nn.Embedding(50, 32), nn.Linear(32, 64), nn.Linear(64, 4)

    def forward(self, ids: Tensor) -> Tensor:
        found: Tensor = self.last(torch.relu(self.first(self.table(ids).mean(1))))
        return found


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    captured = capture(Words().eval(), {"ids": torch.zeros(2, 7, dtype=torch.int64)})
    return store(captured, Place(tmp_path_factory.mktemp("words") / "program"), "capture")


def words(bad: int | None = None) -> ArraySplit:
    ids = np.random.default_rng(0).integers(0, 50, (64, 7))
    if bad is not None:
        ids[bad, 2] = 77
    return ArraySplit({"ids": ids})


@pytest.mark.parametrize(
    ("stage", "options"),
    [("quantize", QuantizeOptions(timed=False)), ("prune", PruneOptions(macs=0.7, recover=None))],
)
def test_a_sample_with_an_unknown_index_is_named(
    stage: str, options: QuantizeOptions | PruneOptions, program: Artifact, tmp_path: Path
) -> None:
    """The split, the place in it and PyTorch's words, instead of an internal error; nothing is written."""
    context = Context(Splits(words(), words(), words(bad=33), words()), scratch=tmp_path / "scratch")
    with pytest.raises(DataError, match="does not run on sample 33 of the calibration split: index out of range"):
        run_stage(stage, options, program, Place(tmp_path / "made"), context)
    assert not (tmp_path / "made").exists()


def test_errors_that_no_sample_causes_stay(program: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A defect of a stage is not blamed on the samples."""

    def broken(*_: object) -> Artifact:
        raise IndexError("of the stage")

    monkeypatch.setattr(stages, "quantize", broken)
    assert dispatch.stage_function("quantize") is broken
    context = Context(Splits(words(), words(), words(), words()))
    with pytest.raises(IndexError, match="of the stage"):
        run_stage("quantize", QuantizeOptions(), program, Place(tmp_path / "made"), context)
