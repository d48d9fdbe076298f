"""Runtimes on a device: one model in two of them, and a GPU that is not there."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from edge_devices import bundle, dense, run_here
from openvino_here import require_openvino

from retort.benchmarks.edge.device_result import outputs_of, results_of
from retort.benchmarks.edge.device_runtimes import in_each, packages_of, run_by
from retort.benchmarks.edge.outputs_here import sentence
from retort.benchmarks.edge.pulled_results import read_results
from retort.benchmarks.edge.runner.models import Model
from retort.core.artifact import Artifact, load_artifact
from retort.core.errors import ArtifactError, UserError
from retort.core.formats.weights_beside import model_sha256
from retort.core.options.edge_options import EdgeRuntime
from retort.core.session import open_session


def test_each_runtime_is_a_candidate() -> None:
    """With one runtime a model keeps its name; what has to be installed follows from the runtimes."""
    entry = {"name": "net", "file": "a.onnx"}
    assert in_each(entry, ["ort"]) == [{**entry, **run_by("ort")}]
    both = in_each(entry, ["ort", "openvino"])
    assert [one["name"] for one in both] == ["net (ort)", "net (openvino)"]
    assert packages_of(both) == ["numpy", "onnxruntime", "openvino"]
    assert packages_of(in_each(entry, ["openvino"])) == ["numpy", "openvino"]
    assert packages_of(in_each(entry, ["cuda", "tensorrt"])) == ["numpy", "onnxruntime"]


@pytest.mark.skipif(importlib.util.find_spec("openvino") is None, reason="openvino is not installed")
def test_two_runtimes_are_compared_on_the_device(tmp_path: Path) -> None:
    """The same file in ONNX Runtime and OpenVINO: a paired ratio, equal outputs, and starts of each."""
    made = bundle(tmp_path / "bundle", {"net": dense(tmp_path / "net.onnx", 256)}, runtimes=("ort", "openvino"))
    done = run_here(made)
    assert done.returncode == 0, done.stdout + done.stderr
    pulled = read_results(made.path, made.path / "out")
    assert {part.said["candidate"] for part in pulled.of_kind("cold")} == {"net (ort)", "net (openvino)"}
    (result,) = results_of(pulled)
    other = result.stage("net (openvino)")
    assert (result.reference, other.runtime) == ("net (ort)", "OpenVINO on the CPU")
    assert other.latency[1].ratio is not None
    ours, theirs = (outputs_of(part)["y"] for part in pulled.of_kind("accuracy"))
    np.testing.assert_allclose(theirs, ours, rtol=1e-4, atol=1e-4)


def converted(source: Path, path: Path, rows: int | None = None) -> Artifact:
    """A file of OpenVINO with its weights beside it, made of an ONNX file; with ``rows`` for that batch size alone."""
    made = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys; sys.modules['openvino_telemetry'] = None; import openvino as ov\n"
            f"model = ov.Core().read_model({str(source)!r})\n"
            f"model.reshape([{rows}, 8]) if {rows} else None\n"
            f"ov.save_model(model, {str(path)!r}, compress_to_fp16=False)",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stderr
    return load_artifact(path)


@pytest.mark.slow
def test_a_file_of_openvino_is_a_candidate_beside_onnx(tmp_path: Path) -> None:
    """Its weights travel with it; a paired ratio, equal outputs on the device, and those of this machine."""
    require_openvino()
    onnx = dense(tmp_path / "net.onnx", 256)
    xml = converted(onnx.main, tmp_path / "ir.xml")
    made = bundle(tmp_path / "bundle", {"net": onnx, "ir": xml})
    found = json.loads((made.path / "edge.json").read_text())
    assert {"models/1/model.xml", "models/1/model.bin"} <= found["files"].keys()
    assert found["packages"] == ["numpy", "onnxruntime", "openvino"]
    assert [one["precision"] for one in found["candidates"]] == ["FP32", "FP32"]
    done = run_here(made)
    assert done.returncode == 0, done.stdout + done.stderr
    pulled = read_results(made.path, made.path / "out")
    (result,) = results_of(pulled)
    other = result.stage("ir")
    assert other.runtime == "OpenVINO on the CPU"
    assert other.latency[1].ratio is not None
    assert other.size_bytes == sum((tmp_path / name).stat().st_size for name in ("ir.xml", "ir.bin"))
    ours, theirs = (outputs_of(part)["y"] for part in pulled.of_kind("accuracy"))
    np.testing.assert_allclose(theirs, ours, rtol=1e-4, atol=1e-4)
    assert sentence(pulled, "ir").startswith("as here")


def test_files_of_openvino_have_other_faults(tmp_path: Path) -> None:
    """Weights that are missing or cut are told with what to do; other weights under the same .xml are another model."""
    require_openvino()
    onnx = dense(tmp_path / "net.onnx", 16)
    xml = converted(onnx.main, tmp_path / "ir.xml").main
    before, weights = model_sha256(xml), tmp_path / "ir.bin"
    content = weights.read_bytes()
    weights.write_bytes(content[:-4] + b"\0\0\0\0")
    assert model_sha256(xml) != before
    weights.write_bytes(content[:50])
    with pytest.raises(ArtifactError, match="Incorrect weights in bin file") as caught:
        open_session(xml)
    assert "ends in .bin" in caught.value.remedy
    weights.unlink()
    with pytest.raises(ArtifactError, match="Empty weights data in bin file"):
        open_session(xml)
    weights.write_bytes(content)
    fixed = converted(onnx.main, tmp_path / "fixed.xml", rows=4)
    with pytest.raises(UserError, match="was made for a batch size of 4"):
        bundle(tmp_path / "bundle", {"fixed": fixed})
    (tmp_path / "half.xml").write_text(xml.read_text()[:400])
    with pytest.raises(ArtifactError, match=r"half\.xml cannot be loaded"):
        open_session(tmp_path / "half.xml")


@pytest.mark.parametrize("runtime", ["cuda", "tensorrt"])
def test_a_gpu_that_is_not_there_is_an_error(runtime: EdgeRuntime, tmp_path: Path) -> None:
    """ONNX Runtime would fall back to the CPU without a word; the candidate fails and says so."""
    path = dense(tmp_path / "net.onnx", 16).main
    entry = {"name": "net", "file": path.name, "batch_axis": {"x": 0}, **run_by(runtime)}
    with pytest.raises(RuntimeError, match=r"net cannot be opened: .*is asked for"):
        Model(tmp_path, entry, 1)
