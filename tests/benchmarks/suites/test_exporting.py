"""The export suite: rows by model and part, which are kept for the next run; a failure is recorded in its row."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from retort.benchmarks.machine import cpu_features, int8_outlook
from retort.benchmarks.suites import coverage, exporting, exporting_table
from retort.benchmarks.suites.exporting_shapes import free, lengths, sides
from retort.core.console import SILENT
from retort.core.signature import Signature
from retort.core.tensors import TensorSpec

MODELS = coverage.models()
LONG = ("fnet", "mobilevit_v2")

EXACT, _ = int8_outlook(cpu_features())
OPEN_FAULT = (
    "on processors without integer dot products, the INT8 file of this loop differs by 8 % of its scale at batch 1; "
    "4 % is accepted, so that export refuses it"
)


def test_rows_are_appended_and_taken_up_again(tmp_path: Path) -> None:
    """A part that succeeded is not run again, a failed one is, and the table has a line for each model."""
    path = tmp_path / "exporting.jsonl"
    path.write_text(json.dumps({"model": "lstm", "part": "export", "fault": "crash: killed"}) + "\n")
    found = exporting.run(["lstm"], path, SILENT, ["export", "sizes"])
    row = found["lstm"]["export"]
    assert "fault" not in row, row["fault"]
    assert row["same_bytes"]
    assert row["axes"] == ["sequence"]
    assert [item["shape"] for item in row["shapes"]] == [[3, 12], [1, 18], [3, 8]]
    assert max(item["error"] for item in row["shapes"]) < 1e-5
    lines = path.read_text()
    assert exporting.run(["lstm"], path, SILENT, ["export", "sizes"]) == found
    assert path.read_text() == lines
    table = [exporting_table.line(name, rows) for name, rows in found.items()]
    assert [len(cells) for cells in table] == [len(exporting_table.COLUMNS)]
    assert exporting_table.counts(found)["export"] == 1


def test_axes_are_tried_by_the_kind_of_input() -> None:
    """Text and audio have a length, images two sides, and tables no dynamic axis."""
    words, table = np.zeros((1, 12), np.int64), np.zeros((1, 12), np.float32)
    assert lengths({"words": words}) == [{"words": {1: "sequence"}}]
    assert lengths({"table": table}) == []
    picture = np.zeros((1, 3, 8, 8), np.float32)
    assert sides({"picture": picture, "words": words}) == [{"picture": {2: "height", 3: "width"}}]
    assert sides({"words": words}) == []
    assert free(Signature((TensorSpec("x", "float32", ("batch", "2*height", 4)),), ())) == ["2*height"]


@pytest.mark.slow
@pytest.mark.parametrize("name", [*(pytest.param(n, marks=pytest.mark.long) for n in LONG), "two_inputs", "conv_lstm"])
def test_difficult_architectures_pass_all_parts(name: str, tmp_path: Path) -> None:
    """Fourier layers, folded patches, several inputs and loops are exported for both targets, in INT8, and imported."""
    pytest.importorskip("transformers")
    found = exporting.run([name], tmp_path / "rows.jsonl", SILENT)[name]
    faults = {part: row["fault"] for part, row in found.items() if "fault" in row}
    if name == "conv_lstm" and not EXACT and set(faults) == {"int8"} and "off by" in faults["int8"]:
        pytest.xfail(OPEN_FAULT)
    assert faults == {}
