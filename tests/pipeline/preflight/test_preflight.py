"""A recipe that cannot run is refused before its first stage, with all of its faults at once."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from retort.compress.sources import trial_run
from retort.core.context import Context
from retort.core.errors import MissingFileError, RecipeError
from retort.core.options.stage_options import CaptureOptions, ModelSpec
from retort.core.signature import Signature
from retort.pipeline import run
from retort.pipeline.preflight import machine_needs
from retort.pipeline.preflight.preflight import check_recipe

NET = """
from torch import nn

def build(width=4, classes=10):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, classes))

def small(width=2, classes=3):
    return build(width, classes)

def wrong_size():
    return nn.Linear(3, 2)

def leaves():
    raise SystemExit(3)
"""

TEXT_NET = """
from torch import nn

class Net(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.embedding, self.head = nn.Embedding(512, 4), nn.Linear(4, classes)

    def forward(self, input_ids):
        return self.head(self.embedding(input_ids).mean(1))

def build(classes):
    return Net(classes)
"""
SORTED_DATA = """
import numpy as np

class Rows:
    def __len__(self):
        return 600

    def __getitem__(self, index):
        if not 0 <= index < 600:
            raise IndexError(index)
        return np.full((1, 8, 8), index / 600, np.float32), index // 200

def load():
    return Rows()
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a module of a user, which is the current folder."""
    (tmp_path / "checked_net.py").write_text(NET)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def faults(folder: Path, text: str, fast: bool = False) -> list[dict[str, Any]]:
    """All faults of a recipe."""
    path = folder / "r.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError) as caught:
        check_recipe(path, folder / "runs", fast)
    found: Any = caught.value.facts["faults"]
    return list(found)


def recipe(model: str, stages: str = "[export]", data: str = "digits", more: str = "") -> str:
    """A recipe of four lines, and more."""
    return f"model: {model}\ndata: {data}\nstages: {stages}\n{more}"


def test_all_faults_are_listed_at_once(project: Path) -> None:
    """Names, arguments, files, gates, the metric and Java: each has its key, its line and a remedy."""
    found = faults(
        project,
        "name: bad\nmetric: mse\nmodel:\n  source: checked_net:biuld\n  weights: none.safetensors\ndata: digits\n"
        "stages:\n  - train: {epochs: 1}\n  - distill:\n"
        "      student: {source: 'checked_net:small', args: {clases: 3}}\n"
        "  - quantize: {plan: none.yaml}\n  - export\n  - pack: {sign: none.key}\n  - serve: {java: /no/java}\n"
        "  - bench: {batch_sizes: [1, 4]}\n"
        "gates:\n  - {after: quantize, speedup: 2, batch_size: 32}\n  - {after: capture, accuracy_drop: 0.1}\n",
    )
    assert [(fault["key"], fault["line"]) for fault in found] == [
        ("metric", 2),
        ("model.source", 4),
        ("model.weights", 5),
        ("stages.1.distill.student.args.clases", 10),
        ("stages.2.quantize.plan", 11),
        ("stages.4.pack.sign", 13),
        ("stages.5.serve.java", 14),
        ("gates.0.batch_size", 17),
        ("gates.1.after", 18),
    ]
    assert all(fault["remedy"] for fault in found)
    assert "did you mean 'build'" in found[1]["message"]
    assert "did you mean 'classes'" in found[3]["message"]


def test_metrics_and_losses_of_other_tasks_are_found_before_a_run(project: Path) -> None:
    """A metric to keep and losses that cannot work in a stage are faults of the recipe, also below `recover`."""
    recipe = project / "tasks.yaml"
    recipe.write_text(
        "name: tasks\nmodel: my_nets:build\ndata: digits\nstages:\n"
        "  - train: {epochs: 1, keep: mse}\n"
        "  - distill: {student: my_nets:build, losses: [dkd], augment: [mixup], keep: cosine}\n"
        "  - prune: {macs: 0.5, recover: {losses: [dkd], augment: [cutmix]}}\n"
    )
    with pytest.raises(RecipeError) as caught:
        check_recipe(recipe, project)
    text = str(caught.value)
    assert "stages.0.train.keep (line 5): 'mse' does not fit `task: classification`" in text
    assert "stages.1.distill.keep (line 6): 'cosine' compares with a reference model" in text
    assert "stages.1.distill.losses (line 6): the loss `dkd` needs one class per sample, and `mixup` mixes two" in text
    assert "stages.2.prune.recover.losses (line 7): the loss `dkd`" in text


def test_losses_of_the_user_are_looked_up(project: Path) -> None:
    """A loss that does not exist or takes other arguments is found before a run, with its line."""
    losses = "losses: [kd, 'checked_net:biuld', 'checked_net:build']"
    stages = f"\n  - capture\n  - distill:\n      student: checked_net:build\n      {losses}\n"
    found = faults(project, recipe("checked_net:build", stages), fast=False)
    mine = {fault["key"]: (fault["line"], fault["message"]) for fault in found}
    missing, other = (mine[f"stages.1.distill.losses.{number}.loss"] for number in (1, 2))
    assert (missing[0], other[0]) == (7, 7)
    assert "did you mean 'build'" in missing[1]
    assert "does not take four arguments" in other[1]


def test_models_are_run_on_two_samples(project: Path) -> None:
    """The classes of the targets, the student's outputs and the weights of classes must fit the model."""
    stages = "[{train: {class_weights: [1, 2]}}, {distill: {student: 'checked_net:small'}}, export]"
    found = faults(project, recipe("{source: 'checked_net:build', args: {classes: 5}}", stages))
    assert [fault["key"] for fault in found] == (
        ["data.source", "stages.0.train.class_weights", "stages.1.distill.student"]
    )
    assert "classes from 0 to 9, and the model predicts 5" in found[0]["message"]
    assert "the student output" in found[2]["message"]


def test_classes_are_counted_in_sorted_files_too(project: Path) -> None:
    """A model with too few classes is found in files that are sorted by class, after two parts are held out of them."""
    for name in ("cat", "dog", "eel"):
        (project / "texts" / name).mkdir(parents=True)
        for number in range(200):
            (project / "texts" / name / f"{number:03d}.txt").write_text(f"{name} {number}")
    (project / "text_net.py").write_text(TEXT_NET)
    data = "{source: texts, args: {vocabulary: bytes, max_length: 8}}"
    (found,) = faults(project, recipe("{source: 'text_net:build', args: {classes: 2}}", data=data))
    assert "classes from 0 to 2, and the model predicts 2 classes" in found["message"]


def test_targets_of_a_dataset_are_spread_over_it(project: Path) -> None:
    """A dataset that is sorted by class and is not in memory is not judged by its first samples."""
    (project / "sorted_data.py").write_text(SORTED_DATA)
    (found,) = faults(project, recipe("{source: 'checked_net:build', args: {classes: 2}}", data="sorted_data:load"))
    assert "classes from 0 to 2, and the model predicts 2 classes" in found["message"]


@pytest.mark.parametrize(
    ("model", "key", "message"),
    [
        ("checked_net:wrong_size", "model.source", r"does not run on two samples \(image: \[2, 1, 8, 8\]\)"),
        ("checked_net:leaves", "model.source", "SystemExit"),
        ("checked_net", "model.source", "there is no model 'checked_net'"),
        ("none.pt2", "model.source", "no such model"),
        ("checked_net.py", "model.source", "there is no model"),
        ("{source: 'checked_net:build', weights: cut.safetensors}", "model.weights", "is truncated"),
        ("{source: 'checked_net:build', weights: other.safetensors}", "model.weights", "do not fit the model"),
    ],
)
def test_each_fault_of_a_model_names_its_key(project: Path, model: str, key: str, message: str) -> None:
    """A module that does not run, exits or is missing; files that are missing, cut or of another model."""
    save_file({"a": np.ones(4, np.float32)}, project / "other.safetensors")
    (project / "cut.safetensors").write_bytes((project / "other.safetensors").read_bytes()[:-4])
    (found,) = faults(project, recipe(model))
    assert found["key"] == key
    assert found["line"] == 1
    assert re.search(message, found["message"]), found["message"]


def test_data_that_cannot_be_read_have_a_line(project: Path) -> None:
    """A damaged file of data, targets of another type, and samples without targets that a stage needs."""
    (project / "bad.npz").write_bytes(b"no archive")
    x = np.zeros((40, 1, 8, 8), np.float32)
    np.savez(project / "values.npz", x=x, y=np.linspace(0, 1, 40, dtype=np.float32))
    np.savez(project / "bare.npz", x=x)
    (found,) = faults(project, recipe("checked_net:build", data="bad.npz"))
    assert (found["key"], found["line"]) == ("data.source", 2)
    (found,) = faults(project, recipe("checked_net:build", data="values.npz"))
    assert (found["key"], "task: regression" in found["remedy"]) == ("task", True)
    bare = faults(project, recipe("checked_net:build", "[train, export]", "bare.npz", "metric: accuracy\n"))
    assert [fault["key"] for fault in bare] == ["stages.0.train", "metric"]


def test_fast_reads_only_the_recipe(project: Path) -> None:
    """With --fast nothing is imported or opened, and the faults of the text are still found."""
    path = project / "r.yaml"
    path.write_text(recipe("no_such_module:f", data="none.npz"))
    assert check_recipe(path, project / "runs", fast=True).model.source == "no_such_module:f"
    (found,) = faults(project, recipe("no_such_module:f", more="metric: mae\n"), fast=True)
    assert found["key"] == "metric"
    code = (
        "import sys; from retort.__main__ import main\n"
        "try: main(['check', 'r.yaml', '--fast'])\nexcept SystemExit: pass\n"
        "print([m for m in ('torch', 'onnx', 'onnxruntime', 'sklearn') if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=project, capture_output=True, text=True, check=True)
    assert done.stderr.strip().endswith("[]")


def test_missing_packages_name_their_extra(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each missing package is told once, at the stage that needs it, with the command that installs it."""
    missing = {"ts", "onnxscript", "tensorrt", "tensorrt_rtx"}
    monkeypatch.setattr(machine_needs, "find_spec", lambda name: None if name in missing else find_spec(name))
    found = faults(project, recipe("checked_net:build", "[export, engine, pack, serve]"))
    told = {fault["key"]: fault for fault in found}
    assert "`onnxscript` is not installed" in told["stages.0.export"]["message"]
    assert "[cpu]" in told["stages.0.export"]["remedy"]
    assert "[gpu]" in told["stages.1.engine"]["remedy"]
    assert "[serve]" in told["stages.3.serve"]["remedy"]


def test_a_folder_that_cannot_be_written_is_found(project: Path) -> None:
    """A run whose folder would be below a file is refused."""
    (project / "runs").write_text("a file")
    (found,) = faults(project, recipe("checked_net:build"))
    assert "cannot be written" in found["message"]


def test_a_full_disk_is_found_for_a_factory_too(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The size of a model without files is not known; less than a small model takes is a fault all the same."""
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=20_000_000))
    (found,) = faults(project, recipe("checked_net:build"))
    assert found["message"].startswith("20 MB are free for ")
    assert found["message"].endswith("and the stages need about 50 MB")


def test_a_run_checks_before_its_first_stage(project: Path) -> None:
    """A fault of the last stage stops the run before the first one; nothing is written."""
    path = project / "r.yaml"
    path.write_text(recipe("checked_net:build", "[{distill: {student: 'checked_net:small', epochs: 1}}, export]"))
    with pytest.raises(RecipeError, match="the teacher predicts"):
        run.run(path, project / "runs")
    assert not (project / "runs").exists()


def test_finished_stages_are_not_checked_again(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the capture only the student is tried, and its fault is found with the signature of the teacher."""
    path = project / "r.yaml"
    path.write_text(recipe("checked_net:build", "[{distill: {student: 'checked_net:small', epochs: 1}}, export]"))
    tried: list[str] = []
    trial = trial_run.signature_in_trial

    def _noted(spec: ModelSpec, context: Context, options: CaptureOptions) -> Signature:
        tried.append(spec.source)
        return trial(spec, context, options)

    monkeypatch.setattr(trial_run, "signature_in_trial", _noted)
    run.run(path, project / "runs", until="capture")
    assert tried == ["checked_net:build"]
    with pytest.raises(RecipeError) as caught:
        run.run(path, project / "runs")
    assert tried == ["checked_net:build", "checked_net:small"]
    found: Any = caught.value.facts["faults"]
    assert [fault["key"] for fault in found] == ["stages.0.distill.student"]
    assert "the teacher predicts" in found[0]["message"]


BROKEN_DATA = """
import numpy as np

class Rows:
    def __init__(self, broken):
        self.broken = broken

    def __len__(self):
        return 600

    def __getitem__(self, index):
        if index >= self.broken:
            raise OSError("the image is broken")
        return np.full((1, 8, 8), index / 600, np.float32), index % 10

class Own(Rows):
    def read(self, indices):
        raise ZeroDivisionError("in my reader")

    def fingerprint(self):
        return "own"

def load(broken):
    return Rows(broken)

def reader():
    return {name: Own(0) for name in ("train", "validation", "calibration", "test")}
"""


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ("{source: 'broken_data:load', args: {broken: 0}}", "of the dataset cannot be read: OSError: the image is bro"),
        ("{source: 'broken_data:load', args: {broken: 100}}", "of the dataset cannot be read: OSError: the image is b"),
        ("broken_data:reader", "ZeroDivisionError: in my reader"),
    ],
)
def test_data_that_cannot_be_read_are_a_fault(project: Path, data: str, words: str) -> None:
    """An exception of a user's dataset is a fault of the data beside the others, and no internal error."""
    (project / "broken_data.py").write_text(BROKEN_DATA)
    found = faults(project, recipe("checked_net:build", "[{train: {epochs: 1}}, export]", data, "metric: mse\n"))
    assert {fault["key"] for fault in found} == {"data.source", "metric"}
    assert any(words in fault["message"] for fault in found)


def test_a_missing_recipe_is_no_fault_list(project: Path) -> None:
    """A path that is no file is told as such."""
    for path, text in (("none.yaml", "no such recipe"), (".", "is a folder"), ("/dev/null", "a device")):
        with pytest.raises(MissingFileError, match=text):
            check_recipe(Path(path), project / "runs")


def test_faults_of_the_text_hide_no_others(project: Path) -> None:
    """An unknown key and a wrong value do not hide a model, data or a gate that cannot be used."""
    stages = "[{quantize: {methd: mse}}, export, {bench: {batch_sizes: [0]}}]"
    more = "gates: [{after: quantize, speedup: 2, batch_size: 7}]\n"
    found = {fault["key"]: fault for fault in faults(project, recipe("nosuch:build", stages, "missing.npz", more))}
    assert "no module named 'nosuch'" in found["model.source"]["message"]
    assert "missing.npz" in found["data.source"]["message"]
    assert "batch size 7" in found["gates.0.batch_size"]["message"]
    assert {"stages.0.quantize.methd", "stages.2.bench.batch_sizes.0"} <= set(found)
    assert all(fault["line"] for fault in found.values())


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs /proc")
def test_a_folder_of_the_kernel_is_refused(project: Path) -> None:
    """In /proc no folder can be made, although its mode does not say so to root."""
    (project / "r.yaml").write_text(recipe("checked_net:build"))
    with pytest.raises(RecipeError, match="cannot be written"):
        check_recipe(project / "r.yaml", Path("/proc/x"))


def test_a_folder_whose_name_is_not_utf8_is_refused_before_any_stage(project: Path, tmp_path: Path) -> None:
    """ONNX Runtime cannot open files below it, so a run with an export stage would fail behind its training."""
    runs = tmp_path / os.fsdecode(b"runs-\xff")
    (project / "r.yaml").write_text(recipe("checked_net:build", "[{quantize: {timed: false}}, export]"))
    with pytest.raises(RecipeError, match="a name that is not UTF-8"):
        check_recipe(project / "r.yaml", runs)
    (project / "r.yaml").write_text(recipe("checked_net:build", "[{quantize: {timed: false}}]"))
    check_recipe(project / "r.yaml", runs)


def test_labels_that_are_no_index_are_told_before_a_run(project: Path) -> None:
    """Whole numbers beyond the scores of the model would stop the first stage that uses the labels."""
    cells = ",".join(f"x{number}" for number in range(64))
    lines = [cells + ",label", *(f"{',0.5' * 64},{10 * (number % 2) + 10}"[1:] for number in range(40))]
    (project / "d.csv").write_text("\n".join(lines) + "\n")
    found = faults(project, recipe("checked_net:build", "[train, export]", "d.csv"))
    assert [fault["key"] for fault in found] == ["data.source"]
    assert "the data have the label 10, and the model has 10 scores" in found[0]["message"]


def test_torchserve_serves_only_what_is_packed_for_it(project: Path) -> None:
    """A recipe that packs for another server and then starts TorchServe is refused at its line."""
    (found,) = faults(project, recipe("checked_net:build", "[export, pack: {target: triton}, serve]"), fast=True)
    assert "`serve` starts TorchServe, but `pack` has `target: triton`" in found["message"]


def test_times_of_arm_are_refused_without_an_arm_processor(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A gate of speed and `prefer: fastest` are refused for `arm` on x86, with what measures on the device."""
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    gates = "gates: [{after: quantize, accuracy_drop: 0.1}, {after: quantize, speedup: 1.5}]\n"
    more = f"target: arm\nprefer: fastest\n{gates}"
    text = recipe("checked_net:build", "[quantize, export]", more=more)
    found = {fault["key"]: fault["remedy"] for fault in faults(project, text)}
    assert set(found) == {"gates.1.speedup", "prefer"}
    assert all("`retort edge run`" in remedy for remedy in found.values())
    on_a_board = f"[quantize, export, {{bench: {{timer: 'edge:local,python={sys.executable}'}}}}]"
    (fastest,) = faults(project, recipe("checked_net:build", on_a_board, more=more))
    assert fastest["key"] == "prefer"
    (project / "r.yaml").write_text(text)
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    check_recipe(project / "r.yaml", project / "runs")


def test_augmentation_and_sampling_are_tried_on_a_few_samples(tmp_path: Path) -> None:
    """A transform for another kind of input and weights of too few classes are faults of every training, with lines."""
    path = tmp_path / "recipe.yaml"
    path.write_text(
        "model: retort.examples.digits:teacher\ndata: digits\nstages:\n"
        "  - train: {augment: [{rotate: 5}, mask], sampling: [1, 2]}\n"
        "  - prune: {macs: 0.5, recover: {augment: [gain]}}\n"
    )
    with pytest.raises(RecipeError) as caught:
        check_recipe(path, tmp_path / "runs")
    text = str(caught.value)
    assert "stages.0.train.augment (line 4): `augment`: `mask` changes rows of tokens" in text
    assert "stages.0.train.sampling (line 4): `sampling` has 2 weights" in text
    assert "stages.1.prune.recover.augment (line 5): `augment`: `gain` changes recordings" in text
