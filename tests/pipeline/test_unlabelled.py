"""Recipes on samples without targets, judged by their agreement with the reference, and runs up to a stage."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from retort.core.errors import RecipeError, UserError
from retort.pipeline import run

NET = """
import torch
from torch import nn

def build():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 5)).eval()
"""
RECIPE = """
name: unlabelled
model: {{source: "unlabelled_net:build"}}
data: rows.npz
{metric}
stages:
  - quantize: {{timed: false}}
  - export
  - bench: {{batch_sizes: [1], blocks: 5, block_ms: 1, budget_s: 1}}
  - report
gates:
  - {{after: quantize, accuracy_drop: 0.5}}
"""


def write(folder: Path, metric: str = "") -> Path:
    (folder / "unlabelled_net.py").write_text(NET)
    x = np.random.default_rng(0).normal(size=(200, 16)).astype(np.float32)
    np.savez(folder / "rows.npz", input=x)
    path = folder / "recipe.yaml"
    path.write_text(RECIPE.format(metric=metric))
    return path


def test_stages_are_judged_by_their_agreement(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole line runs, the gate bounds the share of samples with another class, and the table says so."""
    torch.set_num_threads(1)
    monkeypatch.chdir(tmp_path)
    outcome = run.run(write(tmp_path), tmp_path / "runs")
    assert [gate.passed for gate in outcome.gates] == [True]
    assert 0 <= outcome.gates[0].value < 0.1
    assert outcome.result is not None
    metrics = {stage.stage: stage.metric for stage in outcome.result.stages if stage.metric is not None}
    assert {metric.name for metric in metrics.values()} == {"agreement"}
    assert metrics["capture"].value == 1


def test_a_metric_that_needs_targets_names_its_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A metric that the recipe asks for is not replaced."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RecipeError, match="'accuracy' needs targets") as caught:
        run.run(write(tmp_path, "metric: accuracy"), tmp_path / "runs")
    assert "at the top of a recipe" in str(caught.value)


def test_an_unknown_last_stage_runs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`--until quantise` names the nearest stage, and no stage runs."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="no stage 'quantise'; did you mean 'quantize'"):
        run.run(write(tmp_path), tmp_path / "runs", until="quantise")
    assert not (tmp_path / "runs").exists()
