"""The pruning stage: facts, recovery, steps, resumption after a kill, refusal without a trace."""

from __future__ import annotations

import gc
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from retort.compress.capture.capture_program import capture
from retort.compress.program import Program, cost, load_program, store
from retort.compress.pruning.stage import prune
from retort.compress.pruning.surgery import slice_parameters
from retort.core.artifact import Artifact, load_artifact
from retort.core.context import Context, Place
from retort.core.data.splits import ArraySplit, Splits
from retort.core.errors import ArtifactError, UserError, VerificationError
from retort.core.options.stage_options import PruneOptions, RecoverOptions

SCRIPT = """
import os, signal, sys
from pathlib import Path
import numpy as np
from retort.compress.pruning.stage import prune
from retort.core.artifact import load_artifact
from retort.core.console import Bar, Console
from retort.core.context import Context, Place
from retort.core.data.splits import ArraySplit, Splits
from retort.core.options.stage_options import PruneOptions, RecoverOptions

folder = Path(sys.argv[1])

def split(rows, seed):
    draw = np.random.default_rng(seed)
    return ArraySplit({"x": draw.normal(size=(rows, 12)).astype("float32")}, draw.integers(0, 3, rows))

class Watched(Console):
    def progress(self, label, total):
        self.label, self.steps = label, 0
        return super().progress(label, total)

def advance(bar, steps=1, note=None):
    console.steps += steps
    if console.label == "recover 2" and console.steps > 6:
        os.kill(os.getpid(), signal.SIGKILL)

console = Watched("silent")
Bar.advance = advance
data = Splits(split(96, 0), split(32, 1), split(8, 2), split(32, 3))
options = PruneOptions(macs=0.4, steps=2, min_channels=2, recover=RecoverOptions(epochs=3, batch_size=24))
context = Context(data, scratch=folder / "scratch", console=console)
prune(options, load_artifact(folder / "model"), Place(folder / "resumed"), context)
"""


def split(rows: int, seed: int) -> ArraySplit:
    draw = np.random.default_rng(seed)
    return ArraySplit({"x": draw.normal(size=(rows, 12)).astype("float32")}, draw.integers(0, 3, rows))


DATA = Splits(split(96, 0), split(32, 1), split(8, 2), split(32, 3))


@pytest.fixture
def model(tmp_path: Path) -> Artifact:
    torch.manual_seed(0)
    hidden = [nn.Linear(12, 24), nn.BatchNorm1d(24), nn.ReLU(), nn.Linear(24, 24), nn.Dropout(0.1), nn.Sigmoid()]
    program = capture(nn.Sequential(*hidden, nn.Linear(24, 3)), {"x": torch.randn(4, 12)})
    return store(program, Place(tmp_path / "model"), "train")


def run(options: PruneOptions, model: Artifact, name: str = "pruned", key: str = "", **more: Any) -> Artifact:
    folder = model.path.parent
    context = Context(DATA, scratch=folder / "scratch")
    return prune(options, model, Place(folder / name, key, (model.key,)), context, **more)


def test_the_stage_writes_a_smaller_program_and_its_facts(model: Artifact) -> None:
    """The manifest has the requested and the reached share, what was cut or locked and why, and the proof's error."""
    options = PruneOptions(macs=0.5, steps=2, min_channels=2, recover=RecoverOptions(epochs=1))
    pruned = run(options, model, key="abc")
    facts = pruned.facts
    before, after = cost(load_program(model.main)), cost(load_program(pruned.main))
    assert (facts["macs_before"], facts["macs_after"], facts["macs"]) == (before.macs, after.macs, after.macs)
    assert facts["asked"] == 0.5
    assert facts["got"] == after.macs / before.macs <= 0.5
    assert [step["asked"] for step in facts["steps"]] == pytest.approx([0.5**0.5, 0.5])
    assert all(step["proof"]["relative_error"] < 1e-9 for step in facts["steps"])
    assert all(len(step["recovery"]["history"]) == 1 for step in facts["steps"])
    assert [(group["name"], group["channels_before"]) for group in facts["groups"]] == [("0", 24), ("3", 24)]
    assert sum(group["channels_after"] for group in facts["groups"]) < 48
    assert facts["locked"] == [{"name": "6", "channels": 3, "reason": "is the output 'output'"}]
    assert (pruned.key, pruned.manifest.parents, pruned.manifest.stage) == ("abc", (model.key,), "prune")
    assert list((model.path.parent / "scratch").iterdir()) == []


def test_without_recovery_nothing_is_trained(model: Artifact) -> None:
    """Without recovery and reconstruction, the kept weights equal those of the input."""
    pruned = load_program(run(PruneOptions(parameters=0.6, reconstruct="off", recover=None), model).main)
    kept = dict(pruned.module.named_parameters())["6.bias"]
    assert torch.equal(kept, dict(load_program(model.main).module.named_parameters())["6.bias"])


def test_recovery_can_learn_from_the_labels_alone(model: Artifact) -> None:
    """Without distillation, the task's own loss is used, and the weights differ from those of a distilled recovery."""
    states = []
    for name, distill in (("soft", True), ("hard", False)):
        options = PruneOptions(macs=0.6, recover=RecoverOptions(epochs=1, distill=distill))
        states.append(load_program(run(options, model, name).main).module.state_dict())
    assert not torch.equal(states[0]["6.bias"], states[1]["6.bias"])


def test_gradual_cuts_share_one_recovery(model: Artifact) -> None:
    """Three cuts on a cubic ramp: one epoch after each except the last, which gets the remaining epochs."""
    options = PruneOptions(macs=0.5, schedule="gradual", steps=3, min_channels=2, recover=RecoverOptions(epochs=4))
    steps = run(options, model).facts["steps"]
    assert [step["asked"] for step in steps] == pytest.approx([0.5 + 0.5 * (1 - t / 3) ** 3 for t in (1, 2, 3)])
    assert [len(step["recovery"]["history"]) for step in steps] == [1, 1, 2]
    assert {step["importance"] for step in steps} == {"taylor"}


@pytest.mark.slow
def test_a_killed_run_resumes_to_the_same_bits(model: Artifact, tmp_path: Path) -> None:
    """Killed with SIGKILL in the recovery of its second step, it ends with the weights of an uninterrupted run."""
    script = tmp_path / "run.py"
    script.write_text(SCRIPT)
    killed = subprocess.run([sys.executable, str(script), str(tmp_path)], check=False, capture_output=True)
    assert killed.returncode == -9, killed.stderr.decode()
    assert sorted(path.name for path in (tmp_path / "scratch").iterdir()) == [
        "prune-step.1.pt2",
        "prune-steps.json",
        "recover-2.checkpoint",
    ]
    assert not (tmp_path / "resumed").exists()
    options = PruneOptions(macs=0.4, steps=2, min_channels=2, recover=RecoverOptions(epochs=3, batch_size=24))
    resumed, straight = run(options, model, "resumed"), run(options, model, "straight")
    one, two = (load_program(item.main).module.state_dict() for item in (resumed, straight))
    assert all(torch.equal(value, two[name]) for name, value in one.items())
    assert resumed.facts["steps"] == straight.facts["steps"]


def test_steps_of_other_options_are_not_taken(model: Artifact) -> None:
    """Steps in the scratch folder of an interrupted run with other options are not reused."""
    folder = model.path.parent / "scratch"
    folder.mkdir()
    (folder / "prune-steps.json").write_text('{"identity": "other", "done": [{}], "groups": {}}')
    pruned = run(PruneOptions(macs=0.5, recover=None), model)
    assert len(pruned.facts["steps"]) == 1


def test_a_refused_cut_leaves_nothing_behind(model: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the proof fails, no artifact is written and the input is not changed."""
    right = slice_parameters.kept_of

    def wrong(*given: Any) -> Any:
        return [None if kept is None else np.arange(len(kept)) for kept in right(*given)]

    monkeypatch.setattr(slice_parameters, "kept_of", wrong)
    with pytest.raises(VerificationError, match="the cut is rejected"):
        run(PruneOptions(macs=0.5, recover=None), model)
    assert not (model.path.parent / "pruned").exists()
    load_artifact(model.path)


def test_the_uncut_program_is_freed_before_the_file_is_proven(model: Artifact) -> None:
    """While the file of the cut program is written, the dense weights are no longer in memory."""
    wanted = [tuple(item.shape) for item in load_program(model.main).module.parameters()]

    def check(*_: Any) -> float:
        gc.collect()
        found = [item for item in gc.get_objects() if type(item) is Program]
        held.extend(1 for item in found if [tuple(weight.shape) for weight in item.module.parameters()] == wanted)
        return 0.0

    held: list[int] = []
    for options in (PruneOptions(macs=0.5, recover=None), PruneOptions(macs=0.5, steps=2, recover=None)):
        assert run(options, model, f"cut-{options.cuts}", check_file=check).facts["steps"][0]["file"]["error"] == 0.0
    assert not held


def test_a_budget_out_of_reach_is_refused_before_any_training(model: Artifact) -> None:
    """The last step's budget is checked first, so that no training is wasted on an unreachable budget."""
    with pytest.raises(UserError, match="cannot be reached"):
        run(PruneOptions(macs=0.05, steps=3, min_channels=12), model)
    assert not (model.path.parent / "scratch").exists()


def test_only_programs_are_pruned(model: Artifact) -> None:
    """An artifact of another kind is refused."""
    path = model.path.parent / "model.onnx"
    path.write_bytes(b"onnx")
    with pytest.raises(ArtifactError, match="needs a program"):
        run(PruneOptions(macs=0.5), load_artifact(path))
