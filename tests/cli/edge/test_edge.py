"""`retort edge`: from model files to the table of a device, also in parts, by hand, and with faults."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from edge_devices import dense, fake_ssh, run_here

from retort.__main__ import main
from retort.core.artifact import load_artifact

QUICK = ["--seconds", "0.4", "--starts", "1", "--block-ms", "2", "--precision", "0"]


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Two nets and samples in the current folder, and a home of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    draw = np.random.default_rng(0)
    splits = {f"x_{name}": draw.normal(size=(20, 8)).astype(np.float32) for name in ("train", "validation", "test")}
    targets = {f"y_{name}": draw.integers(0, 3, 20) for name in ("train", "validation", "test")}
    np.savez("data.npz", allow_pickle=False, **splits, **targets)
    dense(tmp_path / "wide.onnx", 1024)
    dense(tmp_path / "narrow.onnx", 16)
    return ["wide.onnx", "narrow.onnx"]


def call(*given: str) -> int:
    """The exit code of a command."""
    with pytest.raises(SystemExit) as ended:
        main(["edge", *given])
    return int(ended.value.code or 0)


def said(capsys: pytest.CaptureFixture[str]) -> Any:
    """What a command printed as JSON."""
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def test_one_command_measures_behind_ssh(
    models: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`edge run` sends, measures, brings home and cleans up; the result is a file that `compare` and `report` read."""
    monkeypatch.setenv("PATH", f"{fake_ssh(tmp_path / 'bin')}{os.pathsep}{os.environ['PATH']}")
    options = ["--data", "data.npz", *QUICK, "--python", sys.executable]
    assert call("run", "pi@board", *models, *options, "--json") == 0
    found = said(capsys)
    assert (found["state"], len(found["results"])) == ("finished", 1)
    narrow = found["results"][0]["stages"][1]
    assert narrow["latency"]["1"]["ratio"]["value"] > 1
    assert not list((tmp_path / "home/retort-edge").iterdir())
    assert call("table", "--json") == 0
    rows = said(capsys)["rows"]
    assert [(row["model"], row["precision"], row["verdict"]) for row in rows] == [
        ("wide", "FP32", rows[0]["verdict"]),
        ("narrow", "FP32", rows[0]["verdict"]),
    ]
    assert call("table", "--device", "no such", "--json") == 0
    assert said(capsys)["rows"] == []
    with pytest.raises(SystemExit) as ended:
        main(["report", found["files"][0], "--out", "page.html"])
    assert not ended.value.code
    assert "on pi@board" in Path("page.html").read_text()


def test_parts_by_hand(models: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """A bundle is written once, run in its folder by its README, and read back; the table is shown."""
    given = ["bundle", *models, "--data", "data.npz", *QUICK, "--out", "made"]
    assert call(*given) == 0
    assert call(*given) == 0
    assert "is there already" in capsys.readouterr().err
    assert "python3 -m retort_edge" in Path("made/README.txt").read_text()
    assert run_here(load_artifact(Path("made"))).returncode == 0
    Path("made/out").rename("out")
    assert call("pull", "made", "--by-hand", "out") == 0
    shown = capsys.readouterr().out
    assert "narrow" in shown
    assert "× faster" in shown


def test_faults_are_sentences(models: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """No data, another kind of model, other inputs, no device and both forms of pull are one message each."""
    assert call("bundle", *models) == 2
    assert "Missing option '--data'" in capsys.readouterr().err
    np.save("other.npy", np.zeros(3))
    assert call("bundle", "other.npy", "--data", "data.npz") != 0
    assert call("pull", "data.npz", "pi@board") != 0
    capsys.readouterr()
    assert call("bundle", "wide.onnx", "--data", "data.npz", "--batch-sizes", "0") == 2
    assert call("bundle", "wide.onnx", "--data", "data.npz", *QUICK, "--out", "made") == 0
    assert call("pull", "made") == 2
    assert "give either a device or --by-hand" in capsys.readouterr().err
    assert call("pull", "made", "--by-hand", "nowhere") != 0
    assert "contains no result.json" in capsys.readouterr().err
    assert call("run", "local", "made", "--seconds", "3") == 2
    assert "says itself what is measured" in capsys.readouterr().err
    assert call("doctor", "-x") == 2


def test_a_device_is_looked_at(models: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """`doctor` shows what is there, and its exit code says whether it is enough."""
    assert call("doctor", "local", "--python", sys.executable, "--json") == 0
    found = said(capsys)
    assert found["faults"] == []
    assert found["onnxruntime"]
    assert not Path("home/retort-edge").exists()
    assert call("doctor", "local", "--python", "no-such-python") != 0
    assert "has no working no-such-python" in capsys.readouterr().err
