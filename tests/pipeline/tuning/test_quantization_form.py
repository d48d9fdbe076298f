"""The choice between static and dynamic INT8: by accuracy first, then by speed, with the reason in a sentence."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from known import known, typed
from torch import nn

from retort.compress.capture.capture_program import capture
from retort.compress.program import save_program
from retort.compress.quantization import memory_budget
from retort.core.artifact import load_artifact
from retort.core.backends.ort import OrtSession
from retort.core.console import Console
from retort.core.context import Context, Place
from retort.core.data.splits import ArraySplit, Splits
from retort.core.facts.quantize_facts import QuantizeFacts
from retort.core.formats.program_file import read_signature
from retort.core.metrics.ratio import Ratio
from retort.core.options.stage_options import QuantizeOptions
from retort.core.system.owned_folders import SCRATCH
from retort.core.tensors import Array
from retort.pipeline import stages
from retort.pipeline.tuning import quantization_form
from retort.pipeline.tuning.quantization_form import Form, Times, Trial, decide

AUTO = QuantizeOptions(form="auto", method="minmax", correction=("none",), timed=False)
FASTER, SLOWER, EQUAL = Ratio(1.2, 1.1, 1.3, 0.95), Ratio(0.8, 0.7, 0.9, 0.95), Ratio(1.0, 0.9, 1.1, 0.95)
NOISY = replace(FASTER, doubts=("the machine was busy",))
Trials = dict[Form, Trial]


def _trials(static_db: float, dynamic_db: float, drops: tuple[float | None, float | None] = (None, None)) -> Trials:
    return {"static": Trial(static_db, drops[0], {}), "dynamic": Trial(dynamic_db, drops[1], {})}


@pytest.mark.parametrize(
    ("trials", "against", "options", "kept", "why"),
    [
        (_trials(25, 24), {1: FASTER, 32: FASTER}, AUTO, "dynamic", "faster"),
        (_trials(25, 24), {1: SLOWER, 32: FASTER}, AUTO, "static", "faster"),
        (_trials(25, 24), {1: EQUAL, 32: EQUAL}, AUTO, "static", "no difference in speed"),
        (_trials(25, 24), {1: NOISY, 32: NOISY}, AUTO, "static", "NOISY (the machine was busy)"),
        (_trials(25, 20), {1: FASTER, 32: FASTER}, AUTO, "static", "loses too much"),
        (_trials(45, 31), {1: FASTER, 32: FASTER}, AUTO, "dynamic", "faster"),
        (_trials(12, 25), {1: SLOWER, 32: SLOWER}, AUTO, "dynamic", "loses too much"),
        (_trials(25, 24, (0.0, 0.03)), {1: FASTER}, AUTO.model_copy(update={"max_drop": 0.01}), "static", "too much"),
        (_trials(25, 24), {1: FASTER}, AUTO.model_copy(update={"min_sqnr": 40.0}), "static", "neither form"),
    ],
)
def test_accuracy_decides_before_speed(
    trials: Trials, against: Times, options: QuantizeOptions, kept: Form, why: str
) -> None:
    """A form that misses the gate is rejected; of two that meet it, the faster is kept, if unclear the static one."""
    form, reason = decide(trials, against, options)
    assert form == kept
    assert why in reason


def test_facts_of_an_open_interval_are_plain_json() -> None:
    """If there are too few rounds for an interval, its ends are null in JSON."""
    facts = Trial(24.0, None, {32: Ratio(2.7, None, None, 0.95)}).facts()
    found = json.loads(json.dumps(facts.to_json(), allow_nan=False))["speedup"]["32"]
    assert (found["value"], found["low"], found["high"]) == (2.7, None, None)


class Mixer(nn.Module):
    """Two linear layers over tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(32, 64), nn.Linear(64, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(nn.functional.gelu(self.up(x))).mean(1)


def _splits(shape: tuple[int, ...]) -> Splits:
    values = np.random.default_rng(0).normal(size=(48, *shape)).astype(np.float32)
    split = ArraySplit({"x": values}, np.zeros(48, np.int64))
    return Splits(split, split, split, split)


def test_both_forms_are_made_measured_and_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`form: auto` keeps one program with the results of both forms in its facts, and deletes the candidate."""
    monkeypatch.setattr(quantization_form, "BLOCKS", 8)
    monkeypatch.setattr(quantization_form, "BUDGET_S", 1.0)
    torch.manual_seed(0)
    save_program(capture(Mixer(), {"x": torch.zeros(2, 6, 32)}), tmp_path / "net.pt2")
    context = Context(_splits((6, 32)), scratch=tmp_path / "scratch")
    made = stages.quantize(AUTO, load_artifact(tmp_path / "net.pt2"), Place(tmp_path / "int8", "k"), context)
    choice = known(typed(made, QuantizeFacts).form)
    assert choice.why
    for trial in (known(choice.static), known(choice.dynamic)):
        assert trial.sqnr_db > 25
        assert set(trial.speedup) == {"1", "32"}
    assert made.key == "k"
    assert (made.path / "plan.yaml").is_file()
    assert read_signature(made.main).batch_invariant is (choice.kept == "static")
    assert not list(tmp_path.glob(f"{SCRATCH}/*"))


def test_forms_are_run_with_batches_that_fit_into_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """No file of a form gets more rows at once than `memory` allows, neither for its quality nor for its time."""
    monkeypatch.setattr(quantization_form, "BLOCKS", 8)
    monkeypatch.setattr(quantization_form, "BUDGET_S", 0.5)
    monkeypatch.setattr(memory_budget, "rows_within", lambda *_: 5)
    sizes: list[int] = []

    def _watch(name: str) -> None:
        run = getattr(OrtSession, name)

        def _watched(self: OrtSession, feeds: Mapping[str, Array]) -> dict[str, Array]:
            sizes.append(len(feeds["x"]))
            found: dict[str, Array] = run(self, feeds)
            return found

        monkeypatch.setattr(OrtSession, name, _watched)

    _watch("run")
    _watch("run_unchecked")
    torch.manual_seed(0)
    save_program(capture(Mixer(), {"x": torch.zeros(2, 6, 32)}), tmp_path / "net.pt2")
    context = Context(_splits((6, 32)), console=Console(), scratch=tmp_path / "scratch")
    made = stages.quantize(AUTO, load_artifact(tmp_path / "net.pt2"), Place(tmp_path / "int8"), context)
    assert set(known(known(typed(made, QuantizeFacts).form).static).speedup) == {"1", "5"}
    assert max(sizes) == 5
    assert "batches of up to 5 are timed" in " ".join(capsys.readouterr().err.split())


def test_without_matrix_products_there_is_nothing_to_choose(tmp_path: Path) -> None:
    """A network of convolutions has only one form, which is kept and reported."""
    net = nn.Sequential(nn.Conv2d(3, 16, 3, stride=3), nn.ReLU(), nn.Conv2d(16, 4, 1))
    save_program(capture(net, {"x": torch.randn(2, 3, 6, 6)}), tmp_path / "net.pt2")
    context = Context(_splits((3, 6, 6)), scratch=tmp_path / "scratch")
    made = stages.quantize(AUTO, load_artifact(tmp_path / "net.pt2"), Place(tmp_path / "int8"), context)
    assert made.facts["form"]["kept"] == "static"
    assert "no matrix product" in made.facts["form"]["why"]
