"""Sizes, parameters and memory of model files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from known import known

from retort.benchmarks import footprint
from retort.core.errors import ArtifactError, MachineError, MissingFileError
from retort.core.signature import Signature
from retort.core.tensors import TensorSpec

onnx = pytest.importorskip("onnx")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402


def gemm(folder: Path, rows: int, quantized: bool = False, side_file: bool = False) -> Path:
    """An ONNX file with one MatMul whose weight is ``[rows, 64]``, in FP32, or in INT8 before DequantizeLinear."""
    rng = np.random.default_rng(0)
    nodes, weights = [], []
    if quantized:
        stored = rng.integers(-127, 128, (rows, 64)).astype(np.int8)
        weights += [numpy_helper.from_array(np.full(64, 0.01, np.float32), "scale")]
        weights += [numpy_helper.from_array(np.zeros(64, np.int8), "zero"), numpy_helper.from_array(stored, "stored")]
        nodes.append(helper.make_node("DequantizeLinear", ["stored", "scale", "zero"], ["weight"], axis=1))
    else:
        weights.append(numpy_helper.from_array(rng.normal(size=(rows, 64)).astype(np.float32), "weight"))
    weights.append(numpy_helper.from_array(np.array([-1, 64], np.int64), "shape"))
    nodes += [helper.make_node("MatMul", ["x", "weight"], ["h"]), helper.make_node("Reshape", ["h", "shape"], ["y"])]
    source = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", rows])
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 64])
    graph = helper.make_graph(nodes, "gemm", [source], [result], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    path = folder / "model.onnx"
    onnx.save(model, str(path), save_as_external_data=side_file, location="weights.bin", size_threshold=0)
    return path


def test_parameters_are_weights_and_nothing_else(tmp_path: Path) -> None:
    """INT8 weights count like FP32 ones; scales, zero points and shapes do not."""
    assert footprint.parameters_in_file(gemm(tmp_path, 100)) == 6400
    assert footprint.parameters_in_file(gemm(tmp_path, 100, quantized=True)) == 6400
    assert footprint.parameters_in_file(tmp_path / "model.mar") is None


def test_size_includes_side_files(tmp_path: Path) -> None:
    """A separate file of weights counts, and a missing one is reported by name."""
    whole = footprint.file_size(gemm(tmp_path, 500), compressed=True)
    assert whole.size_bytes > 500 * 64 * 4
    assert 0.5 * whole.size_bytes < known(whole.gzip_bytes) < whole.size_bytes
    split = gemm(tmp_path, 500, side_file=True)
    assert footprint.file_size(split).size_bytes == pytest.approx(whole.size_bytes, rel=0.02)
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(MissingFileError, match=r"weights\.bin"):
        footprint.file_size(split)


def test_memory_of_a_big_model_is_seen_and_ours_is_not(tmp_path: Path) -> None:
    """100 MB of weights need that much in a new process, a small model little, whatever this process uses."""
    held = np.ones(400_000_000 // 8)
    small = footprint.measure_memory(gemm(tmp_path, 100))
    big = footprint.measure_memory(gemm(tmp_path, 400_000))
    assert held.nbytes > small.peak_bytes
    assert small.model_bytes < 40e6
    assert 100e6 < big.model_bytes < 600e6
    assert big.peak_bytes == big.baseline_bytes + big.model_bytes


def test_faults_of_the_child_come_back_as_ours(tmp_path: Path) -> None:
    """A damaged file, a missing file and a crashed process each give their own error with a remedy."""
    path = tmp_path / "model.onnx"
    path.write_bytes(b"not a model at all")
    with pytest.raises(ArtifactError, match="cannot be loaded") as caught:
        footprint.measure_memory(path)
    assert caught.value.remedy
    with pytest.raises(MissingFileError):
        footprint.measure_memory(tmp_path / "nowhere.onnx")
    with pytest.raises(ArtifactError, match="cannot be read"):
        footprint.parameters_in_file(path)
    with pytest.raises(MachineError, match="ended unexpectedly"):
        footprint.measure_memory(gemm(tmp_path, 10), threads="many")  # type: ignore[arg-type]


def test_zero_feeds_fit_the_signature() -> None:
    """Fixed axes keep their size, the batch axis has the rows, and other dynamic axes a small size."""
    signature = Signature(
        (TensorSpec("ids", "int64", ("batch", "length")), TensorSpec("x", "float32", ("batch", 3))), ()
    )
    feeds = footprint.zero_feeds(signature, 5)
    assert {name: array.shape for name, array in feeds.items()} == {"ids": (5, 8), "x": (5, 3)}
    assert set(signature.validate(feeds)) == {"ids", "x"}
