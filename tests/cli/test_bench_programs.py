"""`retort bench` on a program beside an ONNX file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import retort
from retort.__main__ import main

FAST = ["--data", "digits", "--blocks", "4", "--budget-s", "1", "--batch-sizes", "1"]


def measured(capsys: pytest.CaptureFixture[str], *given: str) -> dict[str, Any]:
    """The JSON result of `retort bench`."""
    with pytest.raises(SystemExit) as ended:
        main(["bench", *given, *FAST, "--json"])
    assert ended.value.code == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


@pytest.mark.slow
def test_a_program_beside_a_file_is_exported_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Both run in ONNX Runtime, with a note; with --as-is the program runs in PyTorch, and the note is about that."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    program = retort.capture(net, np.zeros((2, 1, 8, 8), np.float32))
    program.save(tmp_path / "net.pt2")
    retort.export(program, tmp_path / "file.onnx")
    given = [str(tmp_path / "net.pt2"), str(tmp_path / "file.onnx")]
    found = measured(capsys, *given)
    assert [stage["runtime"] for stage in found["stages"]] == ["ONNX Runtime on the CPU"] * 2
    assert "'net' is a program, so its exported ONNX file was measured" in found["notes"][0]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file.onnx", "net.pt2"]
    found = measured(capsys, *given, "--as-is")
    assert [stage["runtime"] for stage in found["stages"]] == ["PyTorch on the CPU", "ONNX Runtime on the CPU"]
    assert "includes the change of the runtime" in found["notes"][0]
