"""A defect in pruning is an internal error; a property of the model is reported with its reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
import torch
from defects import OWN, raising
from torch import Tensor, nn
from torch.nn import functional as F

from retort.__main__ import main
from retort.compress.capture.capture_program import capture
from retort.compress.program import Program, store
from retort.compress.pruning.coupling import contractions
from retort.compress.pruning.coupling.coupler import Unsupported
from retort.compress.pruning.coupling.propagate import couple
from retort.compress.pruning.latency.latency_table import Table
from retort.compress.pruning.latency.subgraphs import Subgraph, Subgraphs
from retort.compress.pruning.proof import masked_reference
from retort.compress.pruning.selection import gradients
from retort.compress.pruning.selection.gradients import Samples
from retort.compress.pruning.stage import prune
from retort.compress.pruning.step import prune_program
from retort.core.artifact import Artifact
from retort.core.console import SILENT, Console
from retort.core.context import Context, Place
from retort.core.data.splits import ArraySplit, Splits
from retort.core.errors import DataError
from retort.core.options.stage_options import PruneOptions, Task


class Mlp(nn.Module):
    """Two layers and an activation between them."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(6, 16), nn.LayerNorm(16), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Scores."""
        return self.last(F.relu(self.norm(self.first(x))))


class Blunt(nn.Module):
    """A network whose outputs have no gradient, because they are class indices."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        """The class of each sample as a number."""
        return self.last(F.relu(self.first(x))).argmax(1).float()


def mlp() -> Program:
    torch.manual_seed(0)
    return capture(Mlp(), {"x": torch.randn(4, 6)})


def blunt() -> Program:
    torch.manual_seed(0)
    return capture(Blunt(), {"x": torch.randn(4, 6)})


def split(rows: int, targets: bool = True) -> ArraySplit:
    draw = np.random.default_rng(rows)
    feeds = {"x": draw.normal(size=(rows, 6)).astype(np.float32)}
    return ArraySplit(feeds, draw.integers(0, 3, rows) if targets else None)


def options(**given: Any) -> PruneOptions:
    return PruneOptions.model_validate({"macs": 0.6, "min_channels": 2, "recover": None, **given})


def pruned(program: Program, folder: Path, targets: bool = True, console: Console = SILENT) -> Artifact:
    model = store(program, Place(folder / "model"), "train")
    train, validation, calibration, test = (split(rows, targets) for rows in (48, 24, 24, 24))
    data = Splits(train, validation, calibration, test)
    task: Task = "classification" if targets else "regression"
    return prune(options(), model, Place(folder / "pruned"), Context(data, task=task, console=console))


@OWN
def test_a_defect_of_a_coupling_rule_is_no_property_of_the_model(
    defect: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An exception in a rule is raised unchanged with the operator's name, and locks no channels."""
    program = mlp()
    monkeypatch.setitem(contractions.RULES, "linear", raising(defect))
    with pytest.raises(type(defect)) as caught:
        couple(program)
    assert caught.value is defect
    assert any("linear 'linear'" in note for note in caught.value.__notes__)


def test_what_a_coupling_rule_does_not_cover_is_locked_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rule states in words what it does not support, and the report quotes it."""

    def _refuses(*args: object) -> NoReturn:
        raise Unsupported("comes in a form that nobody has seen")

    monkeypatch.setitem(contractions.RULES, "linear", _refuses)
    reasons = couple(mlp()).unknown.values()
    assert all("comes in a form that nobody has seen" in reason for reason in reasons)
    assert len(reasons) == 2


def test_an_operator_that_refuses_labels_is_locked_with_what_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """Labels are moved by the operator itself; an exception of PyTorch is the reason, not an internal error."""

    class Moved(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(6, 16), nn.Linear(16, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.first(x).flip(0))

    def _refuses(*args: object, **kwargs: object) -> NoReturn:
        torch.zeros(2).reshape(3)
        raise AssertionError

    from retort.compress.pruning.coupling import coupler

    program = capture(Moved(), {"x": torch.randn(4, 6)})
    monkeypatch.setitem(coupler._COPYING, torch.ops.aten.flip.default, _refuses)
    (reason,) = couple(program).unknown.values()
    assert "flip 'flip'" in reason
    assert "does not run on labels: shape '[3]' is invalid for input of size 2" in reason


def test_the_command_line_calls_a_defect_a_defect(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`retort prune` ends with exit code 1 and reports an internal error, the operator, and what to do."""
    model = store(mlp(), Place(tmp_path / "model"), "train")
    np.savez(tmp_path / "data.npz", x=split(24).read(range(24))[0]["x"], y=np.arange(24) % 3)
    monkeypatch.setitem(contractions.RULES, "linear", raising(KeyError("gone")))
    given = [
        "prune",
        str(model.main),
        "--data",
        str(tmp_path / "data.npz"),
        "--macs",
        "0.6",
        "--out",
        str(tmp_path / "o"),
    ]
    with pytest.raises(SystemExit) as caught:
        main([*given, "--json"])
    assert caught.value.code == 1
    error = json.loads(capsys.readouterr().out.splitlines()[-1])["error"]
    assert error["message"].startswith("internal error: KeyError: 'gone', while coupling linear 'linear'")
    assert "this is a defect of Retort" in error["remedy"]


@OWN
def test_a_defect_of_an_importance_changes_no_criterion(defect: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    """An exception in the code for gradients is not taken for a model without gradients."""
    monkeypatch.setattr(gradients, "_contribution", raising(defect))
    for asked in ("taylor", "auto"):
        samples = Samples(split(24), "classification")
        with pytest.raises(type(defect)):
            prune_program(mlp(), options(importance=asked), evidence=samples)


def test_an_importance_that_was_asked_for_and_cannot_be_had_is_an_error() -> None:
    """If gradients are requested for a model without gradients, the message says so and names alternatives."""
    with pytest.raises(DataError, match="importance 'taylor' cannot be computed for this model: element 0") as caught:
        prune_program(blunt(), options(importance="taylor"), evidence=Samples(split(24, False), "regression"))
    assert "group_norm" in caught.value.remedy


def test_auto_without_gradients_is_said_and_stored(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`auto` continues with weights; the console and the facts of the step have the reason."""
    made = pruned(blunt(), tmp_path, targets=False, console=Console())
    (step,) = made.facts["steps"]
    assert step["importance"] == "group_norm"
    assert step["importance_unmeasured"].startswith("importance 'taylor' cannot be computed for this model: element 0")
    said = " ".join(capsys.readouterr().err.split())
    assert "channels are ranked by group_norm instead of gradients: importance 'taylor' cannot be computed" in said


def test_auto_with_gradients_has_nothing_to_say(tmp_path: Path) -> None:
    """If gradients are available, the facts have no reason."""
    (step,) = pruned(mlp(), tmp_path).facts["steps"]
    assert (step["importance_unmeasured"], step["proof"]["reason"], step["trials_refused"]) == ("", "", [])


@OWN
def test_a_defect_of_the_proof_is_no_graph_that_does_not_run(
    defect: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An exception in a masked statistic does not lead to a proof in lower precision."""
    monkeypatch.setitem(masked_reference.STATISTICS, "layer_norm", raising(defect))
    with pytest.raises(type(defect)):
        prune_program(mlp(), options())


def test_a_proof_in_a_coarser_precision_says_why() -> None:
    """A graph with an operator without double precision is proven in its own, and the proof has the reason."""

    class Half(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(6, 16), nn.Linear(16, 3)

        def forward(self, x: Tensor) -> Tensor:
            return only_single(self.last(F.relu(self.first(x))))

    torch.manual_seed(0)
    program = capture(Half(), {"x": torch.randn(4, 6)})
    proof = prune_program(program, options(tolerance=1e-3)).proof
    assert proof.dtype == "float32"
    assert "retort_tests::only_single" in proof.reason
    assert "single precision alone" in proof.reason


@torch.library.custom_op("retort_tests::only_single", mutates_args=())
def only_single(x: torch.Tensor) -> torch.Tensor:
    if x.dtype != torch.float32:
        raise RuntimeError("single precision alone")
    return x.clone()


@only_single.register_fake
def _(x: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(x)


@OWN
def test_a_defect_in_timing_subgraphs_is_raised(
    defect: Exception, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """An exception during the construction of subgraphs does not count as a subgraph that takes no time."""

    class Timer:
        identity, threads, batch = "double", 1, 1

    table = Table(Timer(), tmp_path, SILENT)  # type: ignore[arg-type]
    subgraphs = Subgraphs(mlp(), 1, frozenset())
    monkeypatch.setattr(Subgraphs, "assemble", raising(defect))
    with pytest.raises(type(defect)):
        table._measure(subgraphs, {"subgraph": (Subgraph([]), np.zeros(1, np.bool_))})
    assert table.unknown == {}
