"""Files that others wrote: names that meet, states for one row, bounds as tensors, numbers in two roles, infinity."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from retort.compress.onnx_import import import_onnx
from retort.compress.program import Program
from retort.core.errors import CaptureError, ModelError

Array = NDArray[Any]
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
HIDDEN = 6


def weights(*shape: int, seed: int = 0) -> Array:
    """Random float32 numbers."""
    return (0.5 * np.random.default_rng(seed).standard_normal(shape)).astype(np.float32)


def node(kind: str, inputs: str, outputs: str, **attributes: Any) -> onnx.NodeProto:
    """A node; ``_`` omits an input."""
    return helper.make_node(
        kind, ["" if name == "_" else name for name in inputs.split()], outputs.split(), **attributes
    )


def saved(
    path: Path, nodes: Sequence[onnx.NodeProto], shape: Sequence[int | str], constants: dict[str, Array], rank: int
) -> Path:
    """A file with the input ``x`` and the output ``y``."""
    ports = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, shape),
        helper.make_tensor_value_info("y", TensorProto.FLOAT, [None] * rank),
    ]
    initializers = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(list(nodes), "g", ports[:1], ports[1:], initializers)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), str(path))
    return path


def imported(path: Path, x: Array) -> tuple[Program, Array, Array]:
    """The program, its output, and the output of ONNX Runtime, row by row where the file has one row."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    single = session.get_inputs()[0].shape[0] == 1
    rows = [x[index : index + 1] for index in range(len(x))] if single else [x]
    expected = np.concatenate([session.run(None, {"x": row})[0] for row in rows])
    program = import_onnx(path, {"x": x})
    return program, program.module(torch.from_numpy(x))[0].detach().numpy(), expected


def recurrent(kind: str, names: str, seed: int = 0, width: int = HIDDEN) -> dict[str, Array]:
    """Weights of a recurrent layer under three names."""
    gates = GATES[kind] * HIDDEN
    shapes = [(1, gates, width), (1, gates, HIDDEN), (1, 2 * gates)]
    return {name: weights(*shape, seed=seed + n) for n, (name, shape) in enumerate(zip(names.split(), shapes))}


@pytest.mark.parametrize(
    ("second", "between"), [("V", "mid"), ("W_1", "mid"), ("W_0", "W_0_1"), ("V", "V_0"), ("V", "W_2")]
)
def test_weights_that_the_import_makes_meet_no_name_of_the_file(second: str, between: str, tmp_path: Path) -> None:
    """Two LSTMs are right whatever their weights and the tensor between them are called."""
    constants = {"ax": np.array([1]), "last": np.array([0])}
    constants |= recurrent("LSTM", "W Wr Wb") | recurrent("LSTM", f"{second} {second}r {second}b", seed=5)
    nodes = [
        node("Transpose", "x", "xt", perm=[1, 0, 2]),
        node("LSTM", "xt W Wr Wb", "Y", hidden_size=HIDDEN),
        node("Squeeze", "Y ax", between),
        node("LSTM", f"{between} {second} {second}r {second}b", "Y2 Yh", hidden_size=HIDDEN),
        node("Squeeze", "Yh last", "y"),
    ]
    path = saved(tmp_path / "m.onnx", nodes, ["N", 7, HIDDEN], constants, 2)
    _, found, expected = imported(path, weights(4, 7, HIDDEN, seed=9))
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_layers_that_share_one_of_their_weights_keep_the_others(tmp_path: Path) -> None:
    """Two LSTMs with the same input weights and different recurrent ones share the first alone."""
    constants = {"ax": np.array([1]), "last": np.array([0])}
    constants |= recurrent("LSTM", "W R B") | {"R2": recurrent("LSTM", "a b c", seed=7)["b"]}
    nodes = [
        node("Transpose", "x", "xt", perm=[1, 0, 2]),
        node("LSTM", "xt W R B", "Y", hidden_size=HIDDEN),
        node("Squeeze", "Y ax", "mid"),
        node("LSTM", "mid W R2 B", "Y2 Yh", hidden_size=HIDDEN),
        node("Squeeze", "Yh last", "y"),
    ]
    path = saved(tmp_path / "m.onnx", nodes, ["N", 7, HIDDEN], constants, 2)
    _, found, expected = imported(path, weights(4, 7, HIDDEN, seed=9))
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("name", ["fc", "to", "forward"])
def test_a_transposed_weight_meets_no_tensor(name: str, tmp_path: Path) -> None:
    """A product whose input is called as its transposed weight would be, and weights called like methods, are right."""
    nodes = [
        node("Mul", "x two", f"{name}_transposed"),
        node("MatMul", f"{name}_transposed {name}", "h"),
        node("Relu", "h", "y"),
    ]
    constants = {name: weights(6, 5), "two": np.float32(2).reshape(())}
    path = saved(tmp_path / "m.onnx", nodes, ["N", 6], {key: np.asarray(value) for key, value in constants.items()}, 2)
    _, found, expected = imported(path, weights(4, 6, seed=3))
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_statistics_meet_no_weight(tmp_path: Path) -> None:
    """A weight called as the tracked mean would be keeps its values."""
    constants = {
        "k": weights(4, 3, 3, 3), "s": weights(4), "b": weights(4, seed=1), "mu": weights(4, seed=2),
        "va": np.abs(weights(4, seed=3)) + 1, "mu_tracked": weights(1, 4, 1, 1, seed=4),
    }  # fmt: skip
    nodes = [
        node("Conv", "x k", "c"), node("BatchNormalization", "c s b mu va", "n"), node("Add", "n mu_tracked", "y"),
    ]  # fmt: skip
    path = saved(tmp_path / "m.onnx", nodes, ["N", 3, 6, 6], constants, 4)
    _, found, expected = imported(path, weights(4, 3, 6, 6, seed=5))
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_bounds_may_be_tensors_with_one_element(tmp_path: Path) -> None:
    """`Clip(x, [0.], [6.])` is a ReLU6."""
    constants = {"low": np.zeros(1, np.float32), "high": np.full(1, 6, np.float32)}
    path = saved(tmp_path / "m.onnx", [node("Clip", "x low high", "y")], ["N", 6], constants, 2)
    program, found, expected = imported(path, 9 * weights(4, 6))
    np.testing.assert_array_equal(found, expected)
    assert "relu6" in program.module.code or "hardtanh" in program.module.code


def test_one_number_may_have_two_roles(tmp_path: Path) -> None:
    """The lower bound of a Clip is the slope of a PRelu too, and both work."""
    constants = {"c": np.asarray(np.float32(0.25)), "high": np.asarray(np.float32(1))}
    nodes = [node("PRelu", "x c", "p"), node("Clip", "p c high", "y")]
    path = saved(tmp_path / "m.onnx", nodes, ["N", 6], constants, 2)
    _, found, expected = imported(path, 2 * weights(4, 6))
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("kind", list(GATES))
def test_a_state_for_one_row_serves_every_row(kind: str, tmp_path: Path) -> None:
    """A file for batch 1 with constant first states `[1, 1, H]` runs at any batch; it crashed the process before."""
    constants = recurrent(kind, "W R B", width=10) | {"h0": weights(1, 1, HIDDEN, seed=4), "ax": np.array([0])}
    states = "h0"
    if kind == "LSTM":
        constants, states = {**constants, "c0": weights(1, 1, HIDDEN, seed=5)}, "h0 c0"
    extra = {"linear_before_reset": 1} if kind == "GRU" else {}
    nodes = [
        node("Transpose", "x", "xt", perm=[1, 0, 2]),
        node(kind, f"xt W R B _ {states}", "Y Yh", hidden_size=HIDDEN, **extra),
        node("Squeeze", "Yh ax", "y"),
    ]
    path = saved(tmp_path / "m.onnx", nodes, [1, 12, 10], constants, 2)
    program, found, expected = imported(path, weights(5, 12, 10, seed=6))
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert program.module(torch.randn(3, 12, 10))[0].shape == (3, HIDDEN)


def test_a_state_of_another_shape_is_refused(tmp_path: Path) -> None:
    """A first state for two rows in a file for any number of rows is one sentence, not a crash."""
    constants = recurrent("RNN", "W R B", width=10) | {"h0": weights(1, 2, HIDDEN), "ax": np.array([0])}
    nodes = [
        node("Transpose", "x", "xt", perm=[1, 0, 2]),
        node("RNN", "xt W R B _ h0", "Y Yh", hidden_size=HIDDEN),
        node("Squeeze", "Yh ax", "y"),
    ]
    path = saved(tmp_path / "m.onnx", nodes, ["N", 12, 10], constants, 2)
    with pytest.raises((ModelError, CaptureError), match=r"initial state has the shape \[1, 2, 6\]"):
        import_onnx(path, {"x": weights(5, 12, 10)})


def test_equal_infinities_are_equal(tmp_path: Path) -> None:
    """A file that masks logits with minus infinity is imported."""
    mask = np.array([0, -np.inf, 0, 0], np.float32)
    path = saved(tmp_path / "m.onnx", [node("Add", "x mask", "y")], ["N", 4], {"mask": mask}, 2)
    _, found, expected = imported(path, weights(4, 4))
    np.testing.assert_array_equal(found, expected)
    assert np.isneginf(found[:, 1]).all()


@pytest.mark.parametrize(("mode", "frame"), [("nearest", "asymmetric"), ("linear", "half_pixel")])
def test_a_size_read_from_another_value_keeps_the_batch_dynamic(mode: str, frame: str, tmp_path: Path) -> None:
    """YOLO's files resize to `Concat(Shape(a)[:2], Shape(b)[2:])`; the batch in it is that of the resized value."""
    constants = {"w": weights(3, 3, 2, 2), "roi": np.zeros(0, np.float32), "scales": np.zeros(0, np.float32)}
    constants |= {name: np.array([value]) for name, value in (("zero", 0), ("two", 2), ("four", 4))}
    nodes = [
        node("Conv", "x w", "small", strides=[2, 2]),
        node("Shape", "small", "s"),
        node("Slice", "s zero two", "head"),
        node("Shape", "x", "t"),
        node("Slice", "t two four", "tail"),
        node("Concat", "head tail", "size", axis=0),
        node("Resize", "small roi scales size", "y", mode=mode, coordinate_transformation_mode=frame,
             nearest_mode="floor"),
    ]  # fmt: skip
    path = saved(tmp_path / "m.onnx", nodes, ["N", 3, 8, 6], constants, 4)
    program, found, expected = imported(path, weights(4, 3, 8, 6))
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert program.module(torch.randn(7, 3, 8, 6))[0].shape == (7, 3, 8, 6)
