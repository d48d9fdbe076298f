"""A gate of speed on a device: the recipe names it, and what is timed there decides."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from retort.__main__ import main
from retort.core.cpu_targets import has_arm_processor
from retort.core.errors import MachineError, RetortError
from retort.core.options.recipe import parse_recipe
from retort.pipeline import run

RECIPE = """
name: board
model: "retort.examples.digits:student"
data: digits
stages:
  - train: {{epochs: 1}}
  - quantize: {{timed: false, samples: 32, correction: none}}
  - export
  - bench: {{timer: "edge:local,python={python}", batch_sizes: [8], budget_s: 1.0}}
gates:
  - {{after: quantize, speedup: 0.05, batch_size: 8}}
"""


@pytest.mark.slow
def test_a_gate_of_speed_is_timed_on_the_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The gate passes by the device's times, and the result names the device as the machine."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "r.yaml").write_text(RECIPE.format(python=sys.executable))
    outcome = run.run(tmp_path / "r.yaml", tmp_path / "runs")
    assert [gate.passed for gate in outcome.gates] == [True]
    assert outcome.result is not None
    assert outcome.result.env["device"]["host"]
    assert outcome.result.stage("quantize").latency[8].ratio is not None
    assert not (tmp_path / "home/retort-edge").exists()


def test_a_device_is_named_after_edge() -> None:
    """Another form is a fault of the recipe, by its key."""
    stages = ["train", "export", {"bench": {"timer": "pi@board"}}]
    with pytest.raises(RetortError, match="timer"):
        parse_recipe({"model": "m:f", "data": "digits", "stages": stages})


@pytest.mark.slow
def test_int8_for_arm_is_timed_on_the_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`quantize --target arm --timer edge:HOST` times INT8 there; without a device it says why it times nothing."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    device = f"edge:local,python={sys.executable}"

    def quantize(*given: str) -> str:
        with pytest.raises(SystemExit) as ended:
            main(["quantize", "cap", "--data", "digits", "--target", "arm", "--correction", "none", *given])
        shown = capsys.readouterr()
        assert ended.value.code == 0, shown.err
        return shown.out + shown.err

    with pytest.raises(SystemExit):
        main(["capture", "retort.examples.digits:student", "--data", "digits", "--out", "cap"])
    assert "speedup over FP32" in quantize("--timer", device, "--timed-batches", "4", "--out", "there")
    if not has_arm_processor():
        assert "not timed: this machine has no Arm processor" in quantize("--out", "here")
    assert not (tmp_path / "home/retort-edge").exists()
    with pytest.raises(SystemExit) as away:
        main(["quantize", "cap", "--data", "digits", "--timer", "edge:nowhere.invalid", "--out", "x"])
    assert away.value.code == MachineError.exit_code
    assert "nowhere.invalid cannot be reached" in capsys.readouterr().err
