"""The coverage suite: models of others and difficult ones are pruned by half, proven, exported and trained."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from retort.benchmarks.suites import coverage
from retort.core.console import SILENT
from retort.core.errors import UserError

MODELS = coverage.models()
OFTEN = {
    "resnet", "mobilenet_v2", "convnext_v2", "albert", "deberta_v2", "gpt2", "qwen2", "whisper_encoder",
    "lstm_bidirectional", "gru_two_layers", "cnn_gru", "unet", "densenet", "shufflenet", "uneven_split", "shared_twice",
    "tied_words", "volume", "excited", "two_inputs", "masked_attention",
}  # fmt: skip
"""One for each kind of coupling; `make test-long` prunes the others (docs/benchmarks/coverage.md has the table)."""


def test_the_suite_is_as_wide_as_it_claims() -> None:
    """At least 45 architectures are from transformers; recurrent networks, a U-Net and a DenseNet are our own."""
    names = [name for _, name in MODELS]
    assert len(set(names)) == len(names)
    assert sum("transformers_zoo" in zoo for zoo, _ in MODELS) >= 45
    assert set(names) > OFTEN
    assert {"lstm", "gru", "lstm_two_layers", "cnn_gru", "unet", "densenet", "shufflenet"} <= set(names)
    with pytest.raises(UserError, match="no model 'bort'"):
        coverage.models(["bort"])


def test_rows_are_appended_and_taken_up_again(tmp_path: Path) -> None:
    """A model that succeeded is not run again, a failed one is, and the table has a line for each."""
    pytest.importorskip("transformers")
    path = tmp_path / "coverage.jsonl"
    failed = {"model": "tied_words", "asked": 0.5, "fault": "crash: killed"}
    path.write_text(json.dumps(failed) + "\n")
    rows = coverage.run(["lstm", "tied_words"], 0.5, path, SILENT)
    assert all(coverage.is_pruned(row) for row in rows)
    lines = path.read_text()
    assert coverage.run(["lstm", "tied_words"], 0.5, path, SILENT) == rows
    assert path.read_text() == lines
    columns, table = coverage.table([*rows, failed])
    assert [len(line) for line in table] == [len(columns)] * 3
    assert table[2][-1] == "crash: killed"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("zoo", "name"),
    [pytest.param(zoo, name, id=name, marks=[] if name in OFTEN else pytest.mark.long) for zoo, name in MODELS],
)
def test_half_of_every_architecture_goes(zoo: str, name: str, tmp_path: Path) -> None:
    """At least 40 % of the multiply-accumulates are removed, proven in PyTorch and ONNX Runtime; the rest can train."""
    if "transformers" in zoo:
        pytest.importorskip("transformers")
    row = coverage.measure(zoo, name, 0.5, tmp_path)
    assert "fault" not in row, row["fault"]
    assert coverage.is_pruned(row)
    assert row["proof_error"] <= coverage.TOLERANCE
    assert row["file_error"] <= 1e-3
    assert row["unknown"] == []
