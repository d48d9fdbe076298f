"""Inputs that are one number for all samples: given as it is, per sample, or fixed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import retort
from retort.__main__ import main
from retort.core.data.array_splits import array_split
from retort.core.errors import DataError

COUNT = 24


def numbers(*shape: int) -> np.ndarray:
    """Random float32 numbers."""
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


@pytest.fixture(params=["xk", "kx"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A file with an input ``x`` of rows and an input ``k`` without axes, in either order."""
    ports = {
        "x": helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 16]),
        "k": helper.make_tensor_value_info("k", TensorProto.FLOAT, []),
    }
    nodes = [
        helper.make_node("Mul", ["x", "k"], ["a"]),
        helper.make_node("MatMul", ["a", "W"], ["b"]),
        helper.make_node("Relu", ["b"], ["y"]),
    ]
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 8])
    weight = numpy_helper.from_array(numbers(16, 8), "W")
    graph = helper.make_graph(nodes, "g", [ports[name] for name in request.param], [output], [weight])
    file = tmp_path / "scaled.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(file))
    return file


@pytest.mark.parametrize("value", [np.array(2, np.float32), np.full(COUNT, 2, np.float32)], ids=["number", "rows"])
def test_a_number_is_the_value_of_every_sample(path: Path, value: np.ndarray) -> None:
    """A number without axes is taken as one per sample; program and file compute with it."""
    x = numbers(COUNT, 16)
    data = {"x": x, "k": value}
    program = retort.capture(path, data=data)
    files = retort.export(program, data=data), retort.export(retort.quantize(program, data=data, timed=False))
    wanted = np.maximum(2 * x @ numbers(16, 8), 0)
    for file, allowed in zip(files, (1e-6, 0.05), strict=True):
        found: Any = file({"x": x, "k": np.array(2, np.float32)})
        assert np.linalg.norm(found - wanted) <= allowed * np.linalg.norm(wanted)


def test_the_command_line_takes_a_number_in_an_npz(path: Path, tmp_path: Path) -> None:
    """`retort capture` reads a number without axes from a file of arrays."""
    np.savez(tmp_path / "data.npz", x=numbers(COUNT, 16), k=np.array(2, np.float32))
    with pytest.raises(SystemExit) as caught:
        main(["capture", str(path), "--data", str(tmp_path / "data.npz"), "--out", str(tmp_path / "made")])
    assert not caught.value.code


def test_a_fixed_input_needs_no_samples(path: Path) -> None:
    """With `fixed`, the data have only the other inputs, as on the command line."""
    x = numbers(COUNT, 16)
    program = retort.capture(path, data={"x": x}, fixed={"k": 2.0})
    found: Any = program({"x": x})
    assert np.abs(found - np.maximum(2 * x @ numbers(16, 8), 0)).max() <= 1e-4


def test_what_samples_share_is_refused_with_the_ways_out(path: Path) -> None:
    """An array of another length is named, with how it can be given."""
    data = {"x": numbers(COUNT, 16), "k": np.ones(10, np.float32)}
    with pytest.raises(DataError, match=r"arrays differ in length: .*k has 10.*\n.*np\.repeat.*`fixed`, `--fix`"):
        retort.capture(path, data=data)


def test_numbers_alone_are_no_samples() -> None:
    """At least one array has rows."""
    with pytest.raises(DataError, match="only numbers without axes: x, k"):
        array_split({"x": np.array(1, np.float32), "k": np.array(2, np.float32)}, None, "data")
