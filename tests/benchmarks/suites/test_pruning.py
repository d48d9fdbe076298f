"""The pruning suites: the summary of several seeds, the tables, and unknown names."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from retort.benchmarks.suites import pruning, pruning_latency


def row(seed: int, ours: float, theirs: float, ok: bool = True) -> dict[str, Any]:
    """The row of a seed in which a tool classifies a share of a hundred samples correctly."""
    targets = np.arange(100) % 2
    scores = {}
    for key, share in (("retort", ours), ("torch_pruning", theirs)):
        right = np.arange(100) < 100 * share
        scores[key] = np.eye(2)[np.where(right, targets, 1 - targets)]
    accuracy = {key: {"before": 0.5, "after": value} for key, value in (("retort", ours), ("torch_pruning", theirs))}
    state = {"ok": True, "share": 0.5, "seconds": 1.0 + seed}
    return {
        "net": "residual",
        "seed": seed,
        "retort": state,
        "torch_pruning": state if ok else {"ok": False, "error": "IndexError: out of range"},
        "accuracy": {"dense": {"before": 1.0, "after": 1.0}, **accuracy},
        "speedup": {str(batch): {"retort": [1.5 + seed], "torch_pruning": [1.4]} for batch in pruning.BATCHES},
        "scores": scores,
        "targets": targets,
    }


def test_seeds_are_pooled() -> None:
    """Accuracy is the mean over seeds, the lead is that of all samples together, and latency is the median."""
    found = pruning.together([row(0, 0.9, 0.8), row(1, 0.8, 0.8)])
    assert found["accuracy"]["retort"]["after"] == pytest.approx(0.85)
    assert found["lead"]["value"] == pytest.approx(0.05)
    assert found["lead"]["low"] < 0.05 < found["lead"]["high"]
    assert found["speedup"]["1"]["retort"] == [2.0]
    lines = pruning.table([found])
    assert [line[1] for line in lines] == ["dense", "torch_pruning", "retort", "Retort's lead"]


def test_a_tool_that_failed_once_failed() -> None:
    """If one seed failed, the row has the failure and its reason, and no lead."""
    found = pruning.together([row(0, 0.9, 0.8), row(1, 0.8, 0.8, ok=False)])
    assert "lead" not in found
    assert any("IndexError" in line[2] for line in pruning.table([found]))


def test_the_latency_table_has_requested_and_measured_times(capsys: pytest.CaptureFixture[str]) -> None:
    """A case that was reached has its deviation, a rejected case its reason; for an unknown name there is a list."""
    landed = {
        "net": "bert", "batch": 32, "asked_share": 0.5, "dense_ms": 4.0, "asked_ms": 2.0, "got_ms": 2.04,
        "got_low_ms": 2.0, "got_high_ms": 2.1, "verdict": "landed", "macs_share": 0.4, "tried": 3, "seconds": 9.0,
    }  # fmt: skip
    refused = {"net": "lstm", "batch": 1, "asked_share": 0.1, "error": "cannot be reached", "seconds": 2.0}
    one, two = pruning_latency.table([landed, refused])
    assert (one[5], one[-1], two[-1]) == ("+2.0%", "landed", "cannot be reached")
    assert len(one) == len(two) == len(pruning_latency.COLUMNS)
    with pytest.raises(SystemExit):
        pruning_latency.main(["resnet99"])
    assert "resnet18_b1" in capsys.readouterr().err
