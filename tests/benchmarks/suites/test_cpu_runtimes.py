"""The suite that compares OpenVINO with ONNX Runtime prints a ratio for each file and size of batch."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from openvino_here import require_openvino
from served_models import graph

from retort.benchmarks.suites import cpu_runtimes
from retort.core.errors import MissingFileError


def test_a_file_is_timed_in_both_runtimes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """There is a line for the file, with a ratio and its interval per size, and the difference of the outputs."""
    require_openvino()
    model = graph("vector", tmp_path).main
    cpu_runtimes.main([str(model), "--budget", "0.1", "--batch-sizes", "2"])
    line = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [row["batch"] for row in line["rows"]] == [2]
    assert all(row["candidate"] == "OpenVINO" and row["value"] > 0 for row in line["rows"])
    assert all(row["difference"] < 1e-5 for row in line["rows"])


def test_a_file_without_golden_inputs_is_refused(tmp_path: Path) -> None:
    """The inputs are those that `retort export` stores, and never made up."""
    (tmp_path / "model.onnx").touch()
    with pytest.raises(MissingFileError, match=r"has no golden\.npz beside it"):
        cpu_runtimes.golden_inputs(tmp_path / "model.onnx")
