"""Later sessions reuse what earlier sessions and recipes made and measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from api_nets import Cnn, images
from torch import nn

import retort
from retort.__main__ import main
from retort.pipeline.run import run as run_recipe


def test_the_measured_speed_is_there_in_later_sessions(tmp_path: Path) -> None:
    """`facts.speed` of a reused INT8 program is the stored measurement; an untimed program has none."""
    options: dict[str, Any] = {"correction": "none", "timed_batches": [1], "float_layers": {"head.1": "by hand"}}
    found = []
    for _ in range(2):
        torch.manual_seed(0)
        program = retort.capture(Cnn(), images()[:4][0], data=images(), folder=tmp_path)
        found.append(retort.quantize(program, **options))
    assert found[1].path == found[0].path
    assert found[1].facts.speed == found[0].facts.speed
    assert found[1].facts.speed["1"].value > 0
    written = sorted(tmp_path.iterdir())
    untimed = retort.quantize(program, **options, timed=False)
    assert "speed" not in untimed.facts
    assert {path.name for path in set(tmp_path.iterdir()) - set(written)} == {untimed.path.name}


def test_scripts_and_commands_reuse_what_a_recipe_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A stage of a program in the folder of a run finds the artifact that the recipe made there, and makes no other."""
    file = retort.capture(nn.Linear(4, 3), torch.randn(4, 4)).save(tmp_path / "net.pt2")
    options: dict[str, Any] = {"timed": False, "samples": 32, "correction": "none"}
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(
        json.dumps({"name": "tiny", "data": "iris", "model": str(file), "stages": [{"quantize": options}, "export"]})
    )
    run = retort.load(run_recipe(recipe, tmp_path / "runs").folder)
    before = sorted(run.path.iterdir())
    int8 = retort.quantize(run["capture"], data="iris", **options)
    assert int8.path == run["quantize"].path
    assert sorted(run.path.iterdir()) == before
    monkeypatch.chdir(tmp_path)
    command = ["quantize", str(run["capture"].path), "--data", "iris", "--no-timed", "--samples", "32"]
    for out in ([], ["--out", "here"]):
        with pytest.raises(SystemExit) as stopped:
            main([*command, "--correction", "none", "--json", *out])
        assert stopped.value.code == 0
        shown = json.loads(capsys.readouterr().out.splitlines()[-1])
        assert Path(shown["path"]).resolve() == (tmp_path / "here" if out else int8.path)
    other = retort.quantize(run["capture"], data="iris", **{**options, "samples": 16})
    assert other.path.parent == run.path
    assert other.path not in before
