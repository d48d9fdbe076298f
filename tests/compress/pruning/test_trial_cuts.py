"""Trial cuts: the ranking whose cut changes the outputs least is used."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from retort.compress.capture.capture_program import capture
from retort.compress.program import Program, load_program, predict, store
from retort.compress.pruning.selection.gradients import Samples
from retort.compress.pruning.stage import prune
from retort.compress.pruning.step import Ranked, cut_and_prove, decide, prune_program, rankings
from retort.compress.pruning.trial_cuts import Trial
from retort.core.console import Console
from retort.core.context import Context, Place
from retort.core.data.splits import ArraySplit, Batch, Split, Splits
from retort.core.options.stage_options import PruneOptions, Task


class Uneven(nn.Module):
    """Two branches of equal cost, one of which has little effect."""

    def __init__(self) -> None:
        super().__init__()
        self.strong, self.weak = (nn.Sequential(nn.Linear(12, 32), nn.ReLU(), nn.Linear(32, 3)) for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.strong(x) + 1e-3 * self.weak(x)


def split(rows: int = 64, seed: int = 0, task: Task = "classification") -> ArraySplit:
    draw = np.random.default_rng(seed)
    inputs = {"x": draw.normal(size=(rows, 12)).astype("float32")}
    values = draw.normal(size=(rows, 3)).astype("float32")
    return ArraySplit(inputs, values.argmax(1) if task == "classification" else values)


@pytest.fixture
def program() -> Program:
    torch.manual_seed(0)
    return capture(Uneven(), {"x": torch.randn(4, 12)})


OPTIONS = PruneOptions(macs=0.55, min_channels=2, recover=None)


def candidates(program: Program, task: Task = "classification") -> list[Ranked]:
    return rankings(program, OPTIONS, Samples(split(task=task), task))


def trial(program: Program, task: Task = "classification", **more: Any) -> Trial:
    whole = prune_program(program, PruneOptions(macs=1.0, recover=None)).cost.macs
    return Trial(split(), task, lambda p, ranked: decide(p, ranked, OPTIONS, 0.55 * whole), **more)


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_the_ranking_whose_cut_changes_the_outputs_least_is_taken(program: Program, task: Task) -> None:
    """Scores by effect are better than scores that treat all layers alike, and the trial finds this."""
    judged = trial(program, task)
    taken = judged(program, candidates(program, task))
    losses = {(item.importance, item.normalize): item.loss for item in judged.losses}
    assert losses[taken.criterion, taken.normalize] == min(losses.values())
    assert losses["taylor", "mean"] > 100 * min(losses.values())
    feeds = split(32, 5).read(range(32))[0]
    wanted = predict(program, split(32, 5))["output"]
    ours, alike = (
        np.abs(np.asarray(p.module(torch.from_numpy(feeds["x"]))[0].detach()) - wanted).max()
        for p in (
            cut_and_prove(program, OPTIONS, judged.choose, Samples(split(task=task), task), judged).program,
            cut_and_prove(
                program,
                OPTIONS.model_copy(update={"normalize": "mean"}),
                judged.choose,
                Samples(split(task=task), task),
            ).program,
        )
    )
    assert ours < 0.1 * alike


def test_one_open_ranking_costs_no_trial(program: Program) -> None:
    """If importance and normalisation are given, there are no trials."""
    asked = OPTIONS.model_copy(update={"importance": "l2", "normalize": "mean"})
    judged = trial(program)
    taken = judged(program, rankings(program, asked))
    assert (taken.criterion, taken.normalize, judged.losses) == ("l2", "mean", [])


def test_large_outputs_are_compared_on_fewer_samples(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    """The memory of a trial is limited, and at least one batch is compared."""
    monkeypatch.setattr("retort.compress.pruning.trial_cuts._MOST", 10)
    asked: list[int] = []
    judged = trial(program, batch=8)
    read = judged.split.read

    def noted(_: Split, rows: Sequence[int]) -> Batch:
        asked.append(len(rows))
        return read(rows)

    monkeypatch.setattr(type(judged.split), "read", noted)
    judged(program, candidates(program))
    assert asked[-1] == 8
    assert asked.count(8) == 1


def test_the_stage_says_what_was_tried_and_taken(program: Program, tmp_path: Path) -> None:
    """The manifest has the loss of every trial, and the ranking with the smallest loss was used."""
    model = store(program, Place(tmp_path / "model"), "train")
    data = Splits(split(96), split(32, 1), split(32, 2), split(32, 3))
    given = {"data": data, "task": "classification", "seed": 0, "scratch": tmp_path / "scratch"}
    pruned = prune(OPTIONS, model, Place(tmp_path / "pruned"), Context(**given))  # type: ignore[arg-type]
    step = pruned.facts["steps"][0]
    best = min(step["trials"], key=lambda item: item["loss"])
    assert (step["importance"], step["normalize"]) == (best["importance"], best["normalize"])
    assert load_program(pruned.main).module.get_parameter("strong.0.weight").shape[0] == 32


def test_without_samples_nothing_is_tried_and_that_is_said(
    program: Program, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without calibration samples there is no trial, and pruning uses the first ranking."""
    judged = trial(program, console=Console())
    ranked = candidates(program)
    judged.split = split(0)
    assert judged(program, ranked) is ranked[0]
    assert "trial cuts are not possible" in " ".join(capsys.readouterr().err.split())


def test_samples_that_do_not_fit_stop_no_pruning(program: Program, capsys: pytest.CaptureFixture[str]) -> None:
    """If the program rejects the samples, there is no trial, the reason is reported, and the first ranking is used."""
    judged = trial(program, console=Console())
    judged.split = ArraySplit({"x": np.zeros((40, 11), np.float32)}, np.zeros(40, np.int64))
    ranked = candidates(program)
    assert judged(program, ranked) is ranked[0]
    assert "trial cuts are not possible: " in " ".join(capsys.readouterr().err.split())
