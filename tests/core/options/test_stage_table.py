"""The table of stages is the only one: recipes, commands, runs and messages use it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from retort.__main__ import main
from retort.cli import app, benchmarks, commands, doctor, engines, recipes
from retort.cli.command_table import application
from retort.cli.predicting import predict
from retort.cli.serving import running_servers, servers, swapping
from retort.core.artifact import Artifact, Manifest, raise_if_not
from retort.core.errors import ArtifactError
from retort.core.options.recipe import Recipe, schema
from retort.core.options.stage_table import PROGRAM_STAGES, STAGES, stages_that
from retort.pipeline.run import run
from retort.pipeline.steps import MEASURED

RECIPE = """
name: small
model: retort.examples.digits:student
data: digits
stages:
  - prune: {macs: 0.6, recover: null}
"""


def test_recipe_command_line_and_line_know_the_same_stages() -> None:
    """Every stage of the table is a key of recipes and a command, except those for several artifacts."""
    assert all(
        part.app is app.app
        for part in (benchmarks, commands, doctor, engines, recipes, running_servers, servers, predict, swapping)
    )
    made = application()
    known = {entry.name for entry in (*made.registered_commands, *made.registered_groups)}
    assert set(STAGES) <= known
    named = schema()["properties"]["stages"]["items"]["anyOf"][0]["enum"]
    assert named == list(STAGES)
    assert set(MEASURED) == {name for name, entry in STAGES.items() if entry.takes is None}
    assert stages_that(make="program") == PROGRAM_STAGES == tuple(STAGES)[: len(PROGRAM_STAGES)]


@pytest.mark.parametrize("name", list(STAGES))
def test_what_must_stand_before_a_stage_is_a_stage(name: str) -> None:
    """A recipe of a stage and those before it in the table is valid, and required options are listed."""
    entry = STAGES[name]
    assert entry.after is None or list(STAGES).index(entry.after) < list(STAGES).index(name)
    if entry.purpose:
        assert entry.purpose.endswith(".")
        assert f"retort {name}" in entry.example


@pytest.mark.parametrize("kind", ["program", "graph", "engine", "archive"])
def test_the_wrong_kind_names_the_stage_that_makes_the_right_one(kind: str) -> None:
    """The remedy is the command of a stage in the table that makes what is needed."""
    other = "report"
    with pytest.raises(ArtifactError) as caught:
        raise_if_not(Artifact(Path("x"), Manifest(other, "report", "k")), kind)  # type: ignore[arg-type]
    command = caught.value.remedy.partition("`retort ")[2].rstrip("`")
    assert STAGES[command].makes == kind


def _command(arguments: list[str]) -> int:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    return int(caught.value.code or 0)


def _series(folder: Path) -> Path:
    """A small network as a file of another tool, and data for it."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 4)).eval()
    batch = {"x": {0: torch.export.Dim("batch")}}
    program = torch.export.export(net, (), {"input": torch.randn(2, 16)}, dynamic_shapes={"input": batch["x"]})
    torch.onnx.export(program, f=str(folder / "net.onnx"), external_data=False, verbose=False)
    draw = np.random.default_rng(0)
    x, y = draw.normal(size=(64, 16)).astype(np.float32), draw.integers(0, 4, 64)
    np.savez(folder / "data.npz", x=x, y=y)
    return folder / "net.onnx"


def test_an_onnx_file_is_made_sparse(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`retort sparsify model.onnx` works like `retort prune model.onnx`: it writes a file with zeros."""
    monkeypatch.chdir(tmp_path)
    file = _series(tmp_path)
    arguments = ["sparsify", str(file), "--data", "data.npz", "--set", "recover=null", "--out", "sparse", "--json"]
    assert _command(arguments) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (told["kind"], told["facts"]["sparsity"]["pattern"]) == ("graph", "2:4")
    weights = [onnx.numpy_helper.to_array(item) for item in onnx.load("sparse/model.onnx").graph.initializer]
    assert any((weight == 0).mean() > 0.45 for weight in weights if weight.ndim == 2)


def test_a_command_reuses_what_a_recipe_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Keys have one formula: the command with the options of a recipe's stage finds that stage's artifact."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.yaml").write_text(RECIPE)
    outcome = run(tmp_path / "small.yaml")
    source = outcome.artifacts["capture"].path
    same = ["prune", str(source), "--data", "digits", "--macs", "0.6", "--set", "recover=null", "--json"]
    assert _command(same) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert Path(told["path"]) == outcome.artifacts["prune"].path
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["small"]
    assert _command(["capture", "retort.examples.digits:student", "--data", "digits", "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["key"] == outcome.artifacts["capture"].key


def test_every_stage_of_a_recipe_has_its_options() -> None:
    """A recipe with every stage that needs only a name gives each stage the options of the table."""
    names = [name for name in STAGES if name not in ("distill", "prune", "sparsify")]
    recipe = Recipe.model_validate({"model": "net:build", "data": "digits", "stages": names})
    assert [type(stage.options) for stage in recipe.stages] == [STAGES[name].options for name in names]
