"""Runs of recipes on a user's own model and data, from a folder outside the package."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from known import known, typed
from PIL import Image
from safetensors.torch import save_file

from retort.__main__ import main
from retort.compress.program import load_program
from retort.compress.training import checkpoint
from retort.compress.training.checkpoint import save_checkpoint
from retort.core.errors import ArtifactError, CaptureError, GateError, MachineError, RecipeError, RetortError
from retort.core.facts.facts_table import FACTS
from retort.core.session import open_session
from retort.core.system.owned_folders import SCRATCH
from retort.pipeline import run
from retort.pipeline.runs.run_lock import exclusive

NET = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(),
            nn.Conv2d(width, 2 * width, 3, stride=2, padding=1), nn.BatchNorm2d(2 * width), nn.ReLU(),
            nn.Dropout(0.1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2 * width, 10))

    def forward(self, image):
        return self.body(image)

def large(width=32):
    return Net(width)

def small(width=16):
    return Net(width)

def heavy(width=100_000):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10))

def broken():
    return nn.Linear(3, "four")

class Branching(nn.Module):
    def forward(self, image):
        return image.mean((1, 2, 3)) if image.sum() > 0 else image.amax((1, 2, 3))

def branching():
    return Branching()
"""
RECIPE = """
name: own
model: {MODEL}
data: {DATA}
stages:
  - train: {{epochs: 1, batch_size: 128}}
  - distill: {{student: "own_net:small", epochs: 1, batch_size: 128}}
  - prune: {{macs: 0.6, recover: {{epochs: 1, batch_size: 128}}}}
  - quantize: {{samples: 64, timed: false}}
  - export
  - pack: {{name: own}}
  - bench: {{batch_sizes: [1, 4], blocks: 3, block_ms: 1, budget_s: 0.1}}
  - report
gates:
  - {{after: quantize, size_ratio: 0.9}}
"""
BRIEF = "bench: {batch_sizes: [1], blocks: 3, block_ms: 1, budget_s: 0.1}"
TRAINED = ("train: {epochs: 1}", "export")


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Tests share two cores."""
    torch.set_num_threads(1)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder as users have it: a model and a recipe."""
    (tmp_path / "own_net.py").write_text(NET)
    write(tmp_path, RECIPE.format(MODEL="own_net:large", DATA="digits"))
    return tmp_path


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose model is trained and exported; tests work on copies."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "own_net.py").write_text(NET)
    run.run(short(folder, "own_net:large", "digits", *TRAINED), folder / "runs")
    return folder


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished project."""
    return shutil.copytree(finished, tmp_path / "project")


def write(folder: Path, text: str) -> Path:
    """A recipe in ``folder``."""
    (folder / "recipe.yaml").write_text(text)
    return folder / "recipe.yaml"


def short(folder: Path, model: str, data: str, *stages: str) -> Path:
    """A recipe with the given stages."""
    listed = "\n".join(f"  - {stage}" for stage in stages)
    return write(folder, f"name: own\nmodel: {model}\ndata: {data}\nstages:\n{listed}\n")


def retort(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """Run the command line in ``folder``."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "retort", *arguments]
    # Shells start background jobs deaf to SIGINT, and their children inherit it.
    listen = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    return subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=listen,
    )


def test_whole_line_then_all_reused(project: Path) -> None:
    """A user's model runs through all stages; a second run makes nothing and has the same result."""
    first = run.run(project / "recipe.yaml", project / "runs")
    assert list(first.artifacts) == (
        ["capture", "train", "distill", "prune", "quantize", "export", "pack", "bench", "report"]
    )
    assert [gate.verdict for gate in first.gates] == ["passed"]
    for name, artifact in first.artifacts.items():
        typed(artifact, FACTS[name])
    assert first.report is not None
    assert first.report.read_text().count("<svg") >= 2
    stages = {stage.stage: stage for stage in known(first.result).stages}
    assert known(stages["prune"].macs) < 0.65 * known(stages["distill"].macs)
    assert stages["quantize"].size_bytes < stages["prune"].size_bytes
    assert known(stages["distill"].parameters) < known(stages["train"].parameters)
    assert stages["quantize"].latency[4].ratio is not None
    second = run.run(project / "recipe.yaml", project / "runs")
    assert {name: artifact.key for name, artifact in second.artifacts.items()} == {
        name: artifact.key for name, artifact in first.artifacts.items()
    }
    assert second.result == first.result
    assert set(second.artifacts) - {"export"} <= set(second.reused)


def test_rerun_loads_no_runtime(finished: Path) -> None:
    """A run that reuses everything imports neither torch nor ONNX Runtime."""
    code = (
        "import sys; from pathlib import Path; from retort.pipeline import run\n"
        "outcome = run.run(Path('recipe.yaml'))\n"
        "print(outcome.reused, [m for m in ('torch', 'onnxruntime', 'onnx') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=finished, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['capture', 'train', 'export'] []"


def test_changed_option_redoes_only_what_follows(copied: Path) -> None:
    """Editing a stage's options reuses the stages before it."""
    added = "quantize: {samples: 32, timed: false, correction: none}"
    changed = short(copied, "own_net:large", "digits", "train: {epochs: 1}", added, "export")
    assert run.run(changed, copied / "runs").reused == ["capture", "train"]


def test_edited_model_is_captured_again(copied: Path) -> None:
    """Changing the user's source file makes a new capture."""
    recipe = short(copied, "own_net:large", "digits", "capture")
    same = run.run(recipe, copied / "runs")
    assert same.reused == ["capture"]
    (copied / "own_net.py").write_text(NET + "\n# a change\n")
    assert run.run(recipe, copied / "runs").artifacts["capture"].key != same.artifacts["capture"].key


def test_killed_run_goes_on_to_the_same_result(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run that is killed and then interrupted during training ends with the weights of an uninterrupted run."""
    recipe = short(project, "own_net:large", "digits", "train: {epochs: 6, batch_size: 64}")
    whole = run.run(recipe, project / "whole")
    process = retort(project, "run", "recipe.yaml", "--runs", "killed")
    wait_for(project / f"killed/own/{SCRATCH}", process)
    process.kill()
    _, told = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL, told

    def interrupted(*given: Any) -> None:
        save_checkpoint(*given)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(SystemExit) as stopped:
        patch.chdir(project)
        patch.setattr(checkpoint, "save_checkpoint", interrupted)
        main(["run", "recipe.yaml", "--runs", "killed"])
    assert stopped.value.code == 130
    told = capsys.readouterr().err
    assert re.search(r"stopped: `train`: the checkpoint after epoch \d of 6 is kept; the finished stage before", told)
    assert "is kept in killed/own: capture" in told
    assert "→ go on with `retort run recipe.yaml --runs killed`" in told
    resumed = run.run(recipe, project / "killed")
    one, two = (load_program(made.artifacts["train"].main).module.state_dict() for made in (resumed, whole))
    assert all(torch.equal(value, two[name]) for name, value in one.items())
    assert not list((project / "killed/own").glob(".*.tmp"))


def wait_for(folder: Path, process: subprocess.Popen[str]) -> None:
    """Wait until the training has written a new checkpoint in ``folder``."""
    seen = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()} if folder.exists() else {}
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline and process.poll() is None:
        for path in list(folder.rglob("*")) if folder.exists() else []:
            if path.is_file() and not path.name.endswith(".tmp") and seen.get(path) != stamp(path):
                return
        time.sleep(0.02)
    raise AssertionError(f"no checkpoint appeared in {folder}: {process.poll()}")


def stamp(path: Path) -> int | None:
    """Modification time, or None if the file no longer exists."""
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return None


def test_ctrl_c_in_a_measurement_says_that_nothing_is_kept(finished: Path, project: Path) -> None:
    """`bench` is measured from the beginning again; the exit code is 130."""
    (model,) = (finished / "runs").rglob("model.onnx")
    shutil.copy(model, project / "a.onnx")
    shutil.copy(model, project / "b.onnx")
    given = ["bench", "a.onnx", "b.onnx", "--data", "digits", "--budget-s", "60", "--blocks", "100000"]
    process = retort(project, *given)
    deadline = time.monotonic() + 90
    while "onnxruntime" not in Path(f"/proc/{process.pid}/maps").read_text() and time.monotonic() < deadline:
        time.sleep(0.1)  # until the runtime is loaded
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 130, told
    assert told.splitlines()[-2] == "retort: stopped; nothing unfinished is kept"
    assert told.splitlines()[-1] == f"  → start again with `retort {' '.join(given)}`"


def test_missed_gate_stops_the_line_and_keeps_the_work(copied: Path) -> None:
    """A missed gate stops the run with stage, number and interval; finished artifacts stay."""
    recipe = short(
        copied, "own_net:large", "digits", "train: {epochs: 1}", "distill: {student: 'own_net:small', epochs: 1}"
    )
    recipe.write_text(recipe.read_text() + "gates:\n  - {after: distill, size_ratio: 0.01}\n")
    with pytest.raises(GateError, match=r"after distill: .*% of the bytes of train; .* at most 1%: MISSED"):
        run.run(recipe, copied / "runs")
    assert list((copied / "runs/own").glob("02-distill-*/manifest.json"))


def test_gate_against_itself_is_refused(project: Path) -> None:
    """A gate that would compare a stage with itself, and so always pass, is rejected."""
    recipe = short(project, "own_net:small", "digits", "capture")
    recipe.write_text(recipe.read_text() + "gates:\n  - {after: capture, accuracy_drop: 0.01}\n")
    with pytest.raises(RetortError, match="compares it with itself"):
        run.run(recipe, project / "runs")


def test_altered_artifact_is_refused(copied: Path) -> None:
    """A file that changed after it was written stops the run, and the message has its name."""
    (made,) = (copied / "runs/own").glob("00-capture-*/model.pt2")
    made.write_bytes(made.read_bytes()[:-10])
    with pytest.raises(ArtifactError, match="altered or truncated"):
        run.run(copied / "recipe.yaml", copied / "runs")


def test_two_runs_do_not_mix(project: Path) -> None:
    """A second run of the same recipe in the same folder is rejected while the first is running."""
    recipe = short(project, "own_net:large", "digits", "capture")
    with exclusive(project / "runs/own"), pytest.raises(MachineError, match="another `retort run`"):
        run.run(recipe, project / "runs")


@pytest.mark.parametrize("form", ["safetensors", "pt", "wrapped"])
def test_weights_of_each_form_are_loaded(project: Path, form: str) -> None:
    """Weights from safetensors, a state dict and a checkpoint with one give the eager model's outputs."""
    sys.path.insert(0, str(project))
    try:
        import own_net  # type: ignore[import-not-found]

        torch.manual_seed(7)
        model = own_net.Net(32).eval()
    finally:
        sys.path.remove(str(project))
        sys.modules.pop("own_net")
    state = model.state_dict()
    path = project / ("net.safetensors" if form == "safetensors" else "net.pt")
    if form == "safetensors":
        save_file(state, path)
    else:
        torch.save({"state_dict": state, "epoch": 3} if form == "wrapped" else state, path)
    recipe = short(project, f"{{source: 'own_net:large', weights: {path.name}}}", "digits", "capture")
    program = load_program(run.run(recipe, project / "runs").artifacts["capture"].main)
    images = torch.rand(3, 1, 8, 8)
    torch.testing.assert_close(program.module(images)[0], model(images), atol=1e-5, rtol=0)


def test_weights_that_do_not_fit_are_listed(project: Path) -> None:
    """Missing keys and wrong shapes are listed, before anything is captured."""
    torch.save({"body.0.weight": torch.zeros(3)}, project / "net.pt")
    recipe = short(project, "{source: 'own_net:large', weights: net.pt}", "digits", "export")
    with pytest.raises(RecipeError, match=r"body.0.weight has shape \[3\] in the file[\s\S]*missing: body.0.bias"):
        run.run(recipe, project / "runs")


def test_pickled_weights_are_refused(project: Path) -> None:
    """A pickled module is rejected with a better way to save it."""
    torch.save(torch.nn.Linear(2, 2), project / "net.pt")
    recipe = short(project, "{source: 'own_net:large', weights: net.pt}", "digits", "export")
    with pytest.raises(RecipeError, match="contains pickled Python objects besides tensors"):
        run.run(recipe, project / "runs")


@pytest.mark.parametrize(
    ("model", "data", "error", "message"),
    [
        ("own_net:broken", "digits", RecipeError, r"raised TypeError[\s\S]*own_net.py|torch"),
        ("own_net:branching", "digits", CaptureError, r"own_net.py"),
        ("own_net:larg", "digits", RetortError, "did you mean 'large'"),
        ("own_nett:large", "digits", RetortError, "no module named 'own_nett'"),
        ("own_net:large", "wine", RetortError, "."),
    ],
)
def test_bad_models_get_one_clear_message(project: Path, model: str, data: str, error: type, message: str) -> None:
    """A factory that raises, data-dependent control flow, a typo and a wrong input shape give one message each."""
    recipe = short(project, model, data, "export")
    with pytest.raises(error, match=message) as caught:
        run.run(recipe, project / "runs")
    assert isinstance(caught.value, RetortError)
    assert caught.value.remedy


def test_npz_data(project: Path) -> None:
    """A recipe runs with data in an npz file."""
    images = np.random.default_rng(0).random((80, 1, 8, 8), np.float32)
    np.savez(project / "own.npz", x=images, y=np.arange(80) % 10)
    outcome = run.run(short(project, "own_net:large", "own.npz", "train: {epochs: 1}", "export"), project / "runs")
    assert open_session(outcome.artifacts["export"].main).signature.inputs[0].shape == ("batch", 1, 8, 8)


def test_image_folder_data(project: Path) -> None:
    """A recipe runs with a folder of images, and the model learns its classes."""
    for name, shade in (("dark", 30), ("light", 220)):
        (project / "pictures" / name).mkdir(parents=True)
        for index in range(30):
            noise = np.random.default_rng(index).integers(-20, 20, (10, 10))
            Image.fromarray((shade + noise).astype(np.uint8)).save(project / "pictures" / name / f"{index}.png")
    data = "{source: pictures, args: {size: 8, mode: L}}"
    recipe = short(project, "own_net:small", data, "train: {epochs: 8, batch_size: 8}", "export", BRIEF)
    result = run.run(recipe, project / "runs").result
    assert known(known(known(result).stages[0].metric).value) >= 0.9


def test_disk_that_fills_up_keeps_finished_stages(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """On a full disk the line stops with a storage error; finished stages are reused once there is space."""
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("mounting a small disk needs root")
    disk = project / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=52m", "tmpfs", str(disk)], check=False).returncode:
        pytest.skip("this sandbox does not mount")
    try:
        recipe = short(project, "own_net:heavy", "digits", "train: {epochs: 1}", "export")
        with pytest.raises(SystemExit) as stopped:
            main(["run", str(recipe), "--runs", str(disk)])
        assert stopped.value.code == 8
        assert "free some space" in capsys.readouterr().err
        assert list(disk.rglob("00-capture-*/manifest.json"))
        assert not list(disk.rglob("manifest.json.tmp"))
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)
