"""Runtimes on a device: one model in two of them, and a GPU that is not there."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from edge_devices import bundle, dense, run_here

from retort.benchmarks.edge.device_result import outputs_of, results_of
from retort.benchmarks.edge.device_runtimes import in_each, packages_of, run_by
from retort.benchmarks.edge.pulled_results import read_results
from retort.benchmarks.edge.runner.models import Model
from retort.core.options.edge_options import EdgeRuntime


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


@pytest.mark.parametrize("runtime", ["cuda", "tensorrt"])
def test_a_gpu_that_is_not_there_is_an_error(runtime: EdgeRuntime, tmp_path: Path) -> None:
    """ONNX Runtime would fall back to the CPU without a word; the candidate fails and says so."""
    path = dense(tmp_path / "net.onnx", 16).main
    entry = {"name": "net", "file": path.name, "batch_axis": {"x": 0}, **run_by(runtime)}
    with pytest.raises(RuntimeError, match=r"net cannot be opened: .*is asked for"):
        Model(tmp_path, entry, 1)
