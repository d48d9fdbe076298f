"""What a run would do is told without doing it: what is reused, what is made and why."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from retort.core.artifact import load_artifact
from retort.core.console import Console
from retort.core.terminal import heartbeat
from retort.pipeline import run
from retort.pipeline.runs.durations import last_seconds, seconds_of
from retort.pipeline.runs.forecast import Step, summary, table

NET = """
from torch import nn

def build(width=4):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10))
"""
RECIPE = """
name: small
seed: {seed}
model: {{source: "planned_net:build", args: {{width: {width}}}}}
data: {data}
stages:
  - quantize: {{timed: false, correction: none, samples: {samples}}}
  - export
  - bench: {{batch_sizes: [1], blocks: 3, block_ms: 1, budget_s: 0.2}}
  - report
gates:
  - {{after: quantize, size_ratio: {ratio}}}
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished run."""
    folder = tmp_path_factory.mktemp("planned")
    (folder / "planned_net.py").write_text(NET)
    random = np.random.default_rng(0)
    np.savez(folder / "rows.npz", x=random.normal(size=(80, 1, 8, 8)).astype(np.float32), y=np.arange(80) % 10)
    run.run(recipe(folder), folder / "runs")
    return folder


def recipe(
    folder: Path, samples: int = 64, width: int = 4, seed: int = 0, data: str = "rows.npz", ratio: float = 9
) -> Path:
    """A recipe in the folder, whose gate holds if ``ratio`` is 0.9 or more of a file that hardly shrinks."""
    path = folder / "r.yaml"
    shown = min(ratio, 1)
    path.write_text(RECIPE.format(samples=samples, width=width, seed=seed, data=data, ratio=shown))
    if ratio > 1:
        path.write_text(path.read_text().partition("gates:")[0])
    return path


def steps(folder: Path, path: Path) -> dict[str, Step]:
    """The forecast by stage."""
    return {step.stage: step for step in run.plan(path, folder / "runs")}


def actions(found: dict[str, Step]) -> str:
    """The first letters of all actions, in order."""
    return "".join(step.action[0] for step in found.values())


def test_a_finished_run_is_reused(project: Path) -> None:
    """Every stage is reused, with its folder and how long it took."""
    found = steps(project, recipe(project))
    assert actions(found) == "rrrrr"
    for step in found.values():
        assert step.folder is not None
        assert load_artifact(step.folder).manifest.seconds == step.seconds
        assert step.seconds is not None
        assert step.seconds > 0
    assert summary(list(found.values())) == "every stage is reused"


def test_the_first_changed_input_is_named(project: Path) -> None:
    """An option with both values, the model, the seed and the data; later stages name the stage that is made."""
    found = steps(project, recipe(project, samples=32))
    assert actions(found) == "rmmmm"
    assert found["quantize"].reasons == ("samples: 64 → 32",)
    assert found["export"].reasons == ("quantize is made",)
    assert found["bench"].reasons == ("quantize and export are made",)
    assert steps(project, recipe(project, width=5))["capture"].reasons == ("the model or its weights changed",)
    assert "the seed changed" in steps(project, recipe(project, seed=1))["capture"].reasons
    other = np.load(project / "rows.npz")
    np.savez(project / "other.npz", x=other["x"] + 1, y=other["y"])
    changed = steps(project, recipe(project, data="other.npz"))
    assert changed["capture"].reasons == ("the data changed",)


def test_a_run_does_what_was_told(project: Path) -> None:
    """What is told to be reused is reused, and the rest is made in the folders that were told."""
    path = recipe(project, samples=48)
    found = steps(project, path)
    before = {folder.name for folder in (project / "runs" / "small").iterdir()}
    outcome = run.run(path, project / "runs")
    for name, step in found.items():
        made = outcome.artifacts[name].path
        assert (made.name not in before) == (step.action == "made")
        if name in ("capture", "quantize", "export"):
            assert made == step.folder


def test_no_folder_is_named_that_is_not_known(project: Path) -> None:
    """A bench and a report behind a stage that is made have no folder yet, and never the one of another recipe."""
    found = steps(project, recipe(project, samples=40, ratio=0.95))
    assert found["quantize"].folder is not None
    assert (found["bench"].folder, found["report"].folder) == (None, None)
    columns, rows = table(list(found.values()))
    assert [row[columns.index("folder")] for row in rows[-2:]] == ["not known yet"] * 2


def test_durations_include_the_measurements_of_a_stage(project: Path, tmp_path: Path) -> None:
    """The time of a measurement after the stage is added, and one during the stage is not counted twice."""
    source = steps(project, recipe(project))["quantize"].folder
    assert source is not None

    def _finished(name: str, seconds: float, end: float) -> Path:
        folder = Path(shutil.copytree(source, tmp_path / name))
        manifest = json.loads((folder / "manifest.json").read_text())
        (folder / "manifest.json").write_text(json.dumps({**manifest, "seconds": seconds}))
        os.utime(folder / "manifest.json", (end, end))
        return folder

    made = _finished("03-quantize-0123456789ab", 4.0, 1000.0)
    _finished("03-quantize-0123456789ab-placement", 3.0, 999.0)
    _finished("03-quantize-0123456789ab-speed", 8.5, 1009.0)
    assert seconds_of(load_artifact(made)) == pytest.approx(12.5)
    _finished("04-quantize-ba9876543210", 6.0, 2000.0)
    assert last_seconds(tmp_path, "quantize") == 6.0
    (tmp_path / "04-quantize-ba9876543210" / "manifest.json").write_text("{")
    assert last_seconds(tmp_path, "quantize") == 4.0
    assert last_seconds(tmp_path, "export") is None


def test_a_stage_that_is_made_again_tells_how_long_it_took_before(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a terminal, work without steps has a line with the time that is left by its last run."""
    runs = Path(shutil.copytree(project / "runs", tmp_path / "runs"))
    path = recipe(project)
    (gone,) = [step.folder for step in run.plan(path, runs) if step.stage == "quantize"]
    assert gone is not None
    manifest = json.loads((gone / "manifest.json").read_text())
    (gone / "manifest.json").write_text(json.dumps({**manifest, "seconds": 500.0}))
    gone.rename(gone.with_name("03-quantize-0123456789ab"))
    monkeypatch.setattr(heartbeat, "LINE_EVERY_S", 0.02)
    run.run(path, runs, Console("text"), until="quantize")
    assert "left if it takes as long as last time" in capsys.readouterr().err


def test_a_missed_gate_ends_the_plan(project: Path) -> None:
    """Stages behind a gate that is known to be missed are not reached."""
    found = steps(project, recipe(project, ratio=0.01))
    assert actions(found) == "rrnnn"
    assert found["export"].reasons[0].startswith("the run stops at a gate: after quantize")


def test_a_removed_artifact_is_made_again(project: Path, tmp_path: Path) -> None:
    """A stage whose folder is gone is made, and the stages after it are reused by their keys."""
    runs = Path(shutil.copytree(project / "runs", tmp_path / "runs"))
    path = recipe(project)
    gone = {step.stage: step for step in run.plan(path, runs)}["quantize"].folder
    assert gone is not None
    shutil.rmtree(gone)
    found = {step.stage: step for step in run.plan(path, runs)}
    assert [found[name].action for name in ("capture", "quantize", "export")] == ["reused", "made", "reused"]


def test_a_plan_loads_no_runtime_and_writes_nothing(project: Path, tmp_path: Path) -> None:
    """`retort run --plan` imports no torch, and makes no folder."""
    path = recipe(project)
    code = (
        "import sys; from retort.__main__ import main\n"
        f"try: main(['run', {str(path)!r}, '--plan', '--runs', {str(tmp_path / 'new')!r}])\nexcept SystemExit: pass\n"
        "print([m for m in ('torch', 'onnx', 'onnxruntime', 'matplotlib') if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=project, capture_output=True, text=True, check=True)
    assert done.stderr.strip().endswith("[]")
    assert "5 of 5 stages would be made" in done.stdout
    assert not (tmp_path / "new").exists()
