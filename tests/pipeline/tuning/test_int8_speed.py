"""Never slower: INT8 is timed against FP32, what keeps it slow is named, and `prefer: fastest` ships the faster."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest
import torch

from retort.__main__ import main
from retort.core.console import Console
from retort.core.errors import MachineError
from retort.core.metrics.ratio import Ratio
from retort.pipeline import run
from retort.pipeline.tuning import int8_speed

NET = """
from torch import nn

def tiny():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 4), nn.ReLU(), nn.Linear(4, 10))
"""
RECIPE = """
name: own
prefer: {PREFER}
model: own_net:tiny
data: digits
stages:
  - quantize: {{samples: 32, method: minmax, correction: none, exclude: ["1"]}}
  - export
  - bench: {{batch_sizes: [1], blocks: 5, block_ms: 1, budget_s: 2}}
"""


def call(arguments: list[str]) -> object:
    """Exit code of a command run in this process."""
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    return stopped.value.code


def operators(path: Path) -> set[str]:
    return {node.op_type for node in onnx.load(path).graph.node}


@pytest.mark.parametrize("prefer", ["fastest", pytest.param("asked", marks=pytest.mark.slow)])
def test_a_net_that_int8_slows_down_is_shipped_as_preferred(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], prefer: str
) -> None:
    """A net that measures slower in INT8: the reason is told; `fastest` ships FP32, `asked` INT8."""
    monkeypatch.setattr(int8_speed, "_measured", lambda _: {"1": Ratio(0.8, 0.7, 0.9, 0.95)})
    monkeypatch.setattr(int8_speed, "look_for_faster", lambda *_: {})
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    torch.set_num_threads(1)
    (tmp_path / "own_net.py").write_text(NET)
    (tmp_path / "recipe.yaml").write_text(RECIPE.format(PREFER=prefer))
    outcome = run.run(tmp_path / "recipe.yaml", tmp_path / "runs", Console())
    told = " ".join(capsys.readouterr().err.split())
    assert "times as fast as FP32" in told
    assert "1 stays in floating point (excluded by the recipe)" in told
    shipped = operators(outcome.artifacts["export"].main)
    assert ("QuantizeLinear" in shipped) is (prefer == "asked")
    assert ("the FP32 program is shipped" in told) is (prefer == "fastest")
    again = run.run(tmp_path / "recipe.yaml", tmp_path / "runs")
    assert again.artifacts["export"].key == outcome.artifacts["export"].key


def test_the_quantize_command_times_what_it_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`retort quantize` ends with the ratio to FP32 and what stays in floating point; `timed=false` leaves it out."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    torch.set_num_threads(1)
    (tmp_path / "own_net.py").write_text(NET)
    assert call(["capture", "own_net:tiny", "--data", "digits", "--out", "net"]) == 0
    given = [
        "quantize",
        "net",
        "--data",
        "digits",
        "--json",
        "--exclude",
        "1",
        "--correction",
        "none",
        "--method",
        "minmax",
    ]
    capsys.readouterr()
    assert call([*given, "--out", "timed"]) == 0
    told = capsys.readouterr()
    ratios = json.loads(told.out.splitlines()[-1])["speed"]
    assert all(0 < item["low"] <= item["value"] for item in ratios.values())
    assert {item["clock"] for item in ratios.values()} == {"thread"}
    assert len(ratios) == 2
    assert call([*given, "--out", "untimed", "--set", "timed=false"]) == 0
    assert "speed" not in json.loads(capsys.readouterr().out.splitlines()[-1])


def test_what_cannot_be_timed_is_made_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A program that cannot be run as ONNX loses its timing, with the reason, and not the quantization."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "own_net.py").write_text(NET)
    assert call(["capture", "own_net:tiny", "--data", "digits", "--out", "net"]) == 0

    def refuse(*_: object) -> None:
        raise MachineError("no session here", "use another machine")

    monkeypatch.setattr(int8_speed, "_opener", refuse)
    given = ["quantize", "net", "--data", "digits", "--correction", "none", "--method", "minmax", "--out", "int8"]
    assert call(given) == 0
    told = " ".join(capsys.readouterr().err.split())
    assert "INT8 was not timed against FP32: no session here" in told
    assert (tmp_path / "int8" / "manifest.json").is_file()


def test_too_few_rounds_for_an_interval_are_no_reason_to_search() -> None:
    """A large model that is timed twice and is twice as fast is not called slower."""
    assert not int8_speed.is_slower({"32": Ratio(2.0, None, None, 0.95)})
    assert int8_speed.is_slower({"32": Ratio(0.9, None, None, 0.95)})
    assert int8_speed.is_slower({"1": Ratio(1.1, 0.99, 1.2, 0.95)})


@pytest.mark.parametrize(
    ("ratio", "told"),
    [
        (Ratio(0.8, 0.7, 0.9, 0.95), "INT8 is slower than FP32 at batch 1"),
        (Ratio(2.25, None, None, 0.95), "cannot be told: too few rounds were timed for an interval"),
        (Ratio(1.02, 0.97, 1.08, 0.95), "cannot be told: the interval contains 1"),
        (Ratio(1.9, 1.8, 2.0, 0.95, doubts=("the ratio moved",)), "cannot be told: the ratio moved"),
        (Ratio(1.9, 1.8, 2.0, 0.95), ""),
    ],
)
def test_what_is_told_is_what_was_measured(ratio: Ratio, told: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Slower and "cannot tell" are told apart, noise is named, and no cause is claimed that was not measured."""
    faster = int8_speed._say({"1": ratio}, [], Console())
    shown = " ".join(capsys.readouterr().err.split())
    assert faster is (ratio.value > 1)
    assert told in shown
    assert ("warning" in shown) is bool(told)
    assert "conversions" not in shown
