"""INT8 for `arm` is timed on an Arm processor only; elsewhere nothing is timed, and the result says so."""

from __future__ import annotations

import json
import platform
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from known import known, typed
from torch import nn

from retort.__main__ import main
from retort.compress.capture.capture_program import capture
from retort.compress.program import save_program
from retort.core.artifact import Artifact, load_artifact
from retort.core.console import Console
from retort.core.context import Context, Place
from retort.core.cpu_targets import NOT_TIMED
from retort.core.data.splits import ArraySplit, Splits
from retort.core.facts.quantize_facts import QuantizeFacts
from retort.core.options.stage_options import QuantizeOptions
from retort.pipeline import stages
from retort.pipeline.tuning import int8_speed, quantization_form, timed_files
from retort.pipeline.tuning.quantization_form import Trial, decide

ROUGH = QuantizeOptions(method="minmax", correction=("none",), smooth=False, samples=8, batch_size=8)


class Mixer(nn.Module):
    """Two linear layers over tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(32, 64), nn.Linear(64, 32)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(nn.functional.gelu(self.up(x))).mean(1)


@pytest.fixture
def parent(tmp_path: Path) -> Artifact:
    torch.manual_seed(0)
    save_program(capture(Mixer().eval(), {"x": torch.zeros(2, 6, 32)}), tmp_path / "net.pt2")
    return load_artifact(tmp_path / "net.pt2")


@pytest.fixture
def context(tmp_path: Path) -> Context:
    values = np.random.default_rng(0).normal(size=(16, 6, 32)).astype(np.float32)
    split = ArraySplit({"x": values}, np.zeros(16, np.int64))
    return Context(Splits(split, split, split, split), target="arm", console=Console(), scratch=tmp_path / "scratch")


def on(monkeypatch: pytest.MonkeyPatch, machine: str) -> None:
    """Work as on such a machine: the processor that this test has not."""
    monkeypatch.setattr(platform, "machine", lambda: machine)


def test_nothing_is_timed_without_an_arm_processor(
    parent: Artifact,
    context: Context,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """No time of x86 decides: nothing is compared, and the facts and the screen say what measures."""
    on(monkeypatch, "x86_64")
    compared: list[Any] = []
    monkeypatch.setattr(int8_speed, "_compared", lambda *given: compared.append(given))
    made = stages.quantize(ROUGH, parent, Place(tmp_path / "int8", "k"), context)
    assert int8_speed.speed_of(ROUGH, parent, made, context) == {}
    assert int8_speed.stored_speed(made, "arm") == {}
    assert compared == []
    facts = typed(made, QuantizeFacts)
    assert (facts.target, facts.not_timed, facts.float_for_speed) == ("arm", NOT_TIMED, None)
    assert NOT_TIMED in " ".join(capsys.readouterr().err.split())


def test_an_arm_processor_times_the_files_for_arm(
    parent: Artifact, context: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On an Arm machine INT8 is timed as for `cpu`, in the files that are shipped: those with INT8 activations."""
    on(monkeypatch, "aarch64")
    monkeypatch.setattr(int8_speed, "BLOCKS", 6)
    monkeypatch.setattr(int8_speed, "BUDGET_S", 0.1)
    monkeypatch.setattr(int8_speed, "look_for_faster", lambda *_: None)
    files: list[Path] = []
    file_of = timed_files.file_of

    def _noted(*given: Any, **named: Any) -> Path:
        files.append(file_of(*given, **named))
        types = {item.data_type for item in onnx.load(files[-1], load_external_data=False).graph.initializer}
        assert onnx.TensorProto.UINT8 not in types
        return files[-1]

    monkeypatch.setattr("retort.pipeline.tuning.int8_speed.file_of", _noted)
    made = stages.quantize(ROUGH, parent, Place(tmp_path / "int8", "k"), context)
    assert set(int8_speed.speed_of(ROUGH, parent, made, context)) == {"1", "32"}
    assert len(files) == 2
    assert typed(made, QuantizeFacts).not_timed is None


def test_accuracy_chooses_the_form_where_nothing_is_timed(
    parent: Artifact, context: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`form: auto` compares the outputs of both files, and keeps the form with independent rows."""
    on(monkeypatch, "x86_64")
    auto = ROUGH.model_copy(update={"form": "auto"})
    made = stages.quantize(auto, parent, Place(tmp_path / "int8", "k"), context)
    choice = known(typed(made, QuantizeFacts).form)
    assert choice.kept == "static"
    assert NOT_TIMED in choice.why
    for trial in (known(choice.static), known(choice.dynamic)):
        assert trial.sqnr_db > 20
        assert trial.speedup == {}


def test_a_form_that_is_not_accurate_is_not_kept_for_its_independent_rows() -> None:
    """Where nothing is timed, the more accurate form is kept if the other loses too much."""
    trials: dict[quantization_form.Form, Trial] = {"static": Trial(12, None, {}), "dynamic": Trial(25, None, {})}
    kept, why = decide(trials, {}, ROUGH, NOT_TIMED)
    assert kept == "dynamic"
    assert "loses too much accuracy" in why


def test_the_commands_make_a_file_for_arm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`quantize` and `export` take `--target arm`; `lint` has no finding, and `predict` runs the file here."""
    on(monkeypatch, "x86_64")
    monkeypatch.chdir(tmp_path)

    def call(line: str) -> dict[str, Any]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            main([*line.split(), "--json"])
        assert stopped.value.code == 0
        found: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
        return found

    call("capture retort.examples.digits:student --data digits --out net")
    made = call(
        "quantize net --data digits --target arm --correction none --method minmax --out int8 --set accept=true"
    )
    assert (made["speed"], made["facts"]["not_timed"]) == ({}, NOT_TIMED)
    call("export int8 --target arm --data digits --out file")
    facts = json.loads((tmp_path / "file/manifest.json").read_text())["facts"]
    assert (facts["target"], facts["opset"], facts["kernels"]["unfused_names"]) == ("arm", 20, [])
    assert facts["kernels"]["integer"]["QLinearConv"] == 8
    assert call("lint file") == {"findings": [], "faults": 0, "fix": None}
    call("predict file --data digits")
