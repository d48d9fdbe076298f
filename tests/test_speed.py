"""Never slower: INT8 is timed against FP32, what keeps it slow is named, and `prefer: fastest` ships the faster."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest
import torch

from retort import pipeline
from retort.__main__ import main
from retort.core.console import Console

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
def test_a_net_that_int8_slows_down_is_shipped_as_preferred(tmp_path, monkeypatch, capsys, prefer):
    """A net of a few microseconds loses by INT8: the reason is told; `fastest` ships FP32, `asked` INT8."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    torch.set_num_threads(1)
    (tmp_path / "own_net.py").write_text(NET)
    (tmp_path / "recipe.yaml").write_text(RECIPE.format(PREFER=prefer))
    outcome = pipeline.run(tmp_path / "recipe.yaml", tmp_path / "runs", Console())
    told = " ".join(capsys.readouterr().err.split())
    assert "times as fast as FP32" in told
    assert "1 stays in floating point (excluded by the recipe)" in told
    shipped = operators(outcome.artifacts["export"].main)
    assert ("QuantizeLinear" in shipped) is (prefer == "asked")
    assert ("the FP32 program is shipped" in told) is (prefer == "fastest")
    again = pipeline.run(tmp_path / "recipe.yaml", tmp_path / "runs")
    assert again.artifacts["export"].key == outcome.artifacts["export"].key


def test_the_quantize_command_times_what_it_made(tmp_path, monkeypatch, capsys):
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
    assert len(ratios) == 2
    assert call([*given, "--out", "untimed", "--set", "timed=false"]) == 0
    assert "speed" not in json.loads(capsys.readouterr().out.splitlines()[-1])
