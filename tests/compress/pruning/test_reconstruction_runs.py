"""Reconstruction in whole runs: after an interruption, and of an ONNX file on the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from retort.__main__ import main
from retort.compress.capture.capture_program import capture
from retort.compress.program import load_program, store
from retort.compress.pruning.stage import prune
from retort.core.context import Context, Place
from retort.core.data.splits import ArraySplit, Splits
from retort.core.facts.prune_facts import PruneFacts
from retort.core.options.stage_options import PruneOptions
from retort.core.session import open_session


def rows(count: int, seed: int) -> ArraySplit:
    """Samples of 12 values that depend on three."""
    mix = np.random.default_rng(5).normal(size=(3, 12))
    draw = np.random.default_rng(seed)
    return ArraySplit({"x": (draw.normal(size=(count, 3)) @ mix).astype("float32")})


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(12, 48), nn.GELU(), nn.Linear(48, 48), nn.GELU(), nn.Linear(48, 5)).eval()


def test_an_interrupted_run_reconstructs_the_same_weights(tmp_path: Path) -> None:
    """Interrupted in the second cut, the run resumes behind the first one and ends with the same weights and facts."""
    parent = store(capture(net(), {"x": torch.randn(4, 12)}), Place(tmp_path / "model"), "train")
    data = Splits(rows(8, 0), rows(32, 1), rows(64, 2), rows(8, 3))
    options = PruneOptions(macs=0.4, steps=2, min_channels=2, recover=None)
    calls: list[int] = []

    def interrupted(*_: Any) -> float:
        calls.append(len(calls))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return 0.0

    def check(*_: Any) -> float:
        return 0.0

    def run(name: str, scratch: str, file: Any) -> Any:
        context = Context(data, task="regression", scratch=tmp_path / scratch)
        return prune(options, parent, Place(tmp_path / name), context, check_file=file)

    with pytest.raises(KeyboardInterrupt):
        run("resumed", "one", interrupted)
    assert not (tmp_path / "resumed").exists()
    assert (tmp_path / "one" / "prune-step.1.pt2").exists()
    resumed, straight = run("resumed", "one", check), run("straight", "two", check)
    one, two = (load_program(item.main).module.state_dict() for item in (resumed, straight))
    assert all(torch.equal(value, two[name]) for name, value in one.items())
    steps = resumed.facts_as(PruneFacts).steps
    assert [step.reconstruction for step in steps] == [
        step.reconstruction for step in straight.facts_as(PruneFacts).steps
    ]
    assert all(step.reconstruction is not None and step.reconstruction.kept for step in steps)


def test_an_onnx_file_is_cut_and_reconstructed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`retort prune net.onnx` with samples alone gives outputs far nearer to the file's than the cut by itself."""
    torch.onnx.export(
        net(), (torch.randn(4, 12),), tmp_path / "net.onnx", dynamic_shapes=({0: "batch"},), verbose=False
    )
    session = open_session(tmp_path / "net.onnx")
    name = session.signature.inputs[0].name
    capsys.readouterr()
    samples: dict[str, Any] = {name: rows(128, 2).inputs["x"]}
    np.savez(tmp_path / "samples.npz", **samples)
    test = rows(64, 7).inputs["x"]
    (wanted,) = session.run({name: test}).values()
    errors = {}
    for setting in ("off", "on"):
        given = ["prune", str(tmp_path / "net.onnx"), "--data", str(tmp_path / "samples.npz"), "--macs", "0.5"]
        with pytest.raises(SystemExit) as caught:
            main([*given, "--reconstruct", setting, "--out", str(tmp_path / setting), "--json"])
        assert not caught.value.code
        assert json.loads(capsys.readouterr().out)["facts"]["quantized"] is False
        (found,) = open_session(next((tmp_path / setting).glob("*.onnx"))).run({name: test}).values()
        errors[setting] = float(np.square(found - wanted).sum() / np.square(wanted - wanted.mean(0)).sum())
    assert errors["on"] < errors["off"] / 10
