"""Files that were written for one sample, or one length: they are generalised where the numbers allow it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
from retort.compress.program import NOTES, Program
from retort.core.errors import ModelError

Array = NDArray[Any]
HIDDEN, FEATURES, STEPS, COUNT = 12, 8, 6, 4


def numbers(*shape: int) -> Array:
    """Random float32 numbers."""
    return (0.3 * np.random.default_rng(0).standard_normal(shape)).astype(np.float32)


def saved(path: Path, nodes: Sequence[onnx.NodeProto], shape: Sequence[Any], constants: Mapping[str, Array]) -> Path:
    """A file with the input ``x`` and the output ``y``."""
    ports = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, shape),
        helper.make_tensor_value_info("y", TensorProto.FLOAT, None),
    ]
    initializers = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(list(nodes), "g", ports[:1], ports[1:], initializers)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    return path


def assert_right(program: Program, path: Path, x: Array, axis: int, output_axis: int) -> None:
    """The program computes for all samples what the file computes for each."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    rows = [session.run(None, {"x": np.expand_dims(row, axis)})[0] for row in x]
    with torch.no_grad():
        (found,) = program.module(torch.from_numpy(np.moveaxis(x, 0, axis).copy()))
    wanted = np.concatenate(rows, output_axis)
    assert found.shape == wanted.shape
    assert np.abs(found.numpy() - wanted).max() <= 1e-5


def recurrent(path: Path, batch: Any, **attributes: Any) -> Path:
    """An LSTM over ``[6, batch, 8]`` whose states are constants for one sample."""
    constants = {
        "W": numbers(1, 4 * HIDDEN, FEATURES), "R": numbers(1, 4 * HIDDEN, HIDDEN), "B": numbers(1, 8 * HIDDEN),
        "h": numbers(1, 1, HIDDEN), "c": numbers(1, 1, HIDDEN), "one": np.array([1]),
    }  # fmt: skip
    nodes = [
        helper.make_node("LSTM", ["x", "W", "R", "B", "", "h", "c"], ["Y"], hidden_size=HIDDEN, **attributes),
        helper.make_node("Squeeze", ["Y", "one"], ["y"]),
    ]
    return saved(path, nodes, [STEPS, batch, FEATURES], constants)


@pytest.mark.parametrize("batch", ["B", 1])
@pytest.mark.parametrize("attributes", [{}, {"clip": 3.0}], ids=["layer", "steps"])
def test_states_for_one_sample_serve_all(tmp_path: Path, batch: Any, attributes: dict[str, float]) -> None:
    """Constant states `[1, 1, 12]` are those of every sample; the file, which runs with one, is compared one by one."""
    path, x = recurrent(tmp_path / "m.onnx", batch, **attributes), numbers(COUNT, STEPS, FEATURES)
    program = import_onnx(path, {"x": x})
    assert program.signature.inputs[0].shape == (STEPS, "batch", FEATURES)
    assert_right(program, path, x, 1, 1)
    noted = any("runs with one sample only" in note for note in program.meta.get(NOTES, ()))
    assert noted == (batch == "B")


def folded(path: Path, shapes: Sequence[Sequence[int]]) -> Path:
    """A linear layer between two reshapes with constants, and the mean over the steps."""
    constants = {
        "first": np.array(shapes[0], np.int64), "W": numbers(16, 8), "second": np.array(shapes[1], np.int64)
    }  # fmt: skip
    nodes = [
        helper.make_node("Reshape", ["x", "first"], ["a"]),
        helper.make_node("MatMul", ["a", "W"], ["b"]),
        helper.make_node("Reshape", ["b", "second"], ["c"]),
        helper.make_node("ReduceMean", ["c"], ["y"], axes=[1], keepdims=0),
    ]
    return saved(path, nodes, [1, STEPS, 16], constants)


@pytest.mark.parametrize(
    "shapes",
    [([6, 16], [1, 6, 8]), ([-1, 16], [1, -1, 8]), ([6, -1], [1, 6, 8]), ([1, 6, 16], [1, 2, 3, 8])],
    ids=["numbers", "free", "features free", "apart"],
)
def test_a_batch_folded_into_a_constant_is_unfolded(tmp_path: Path, shapes: tuple[list[int], list[int]]) -> None:
    """`Reshape` to `[steps, features]` of one sample becomes `[batch * steps, features]`."""
    path, x = folded(tmp_path / "m.onnx", shapes), numbers(COUNT, STEPS, 16)
    program = import_onnx(path, {"x": x})
    assert program.signature.inputs[0].shape == ("batch", STEPS, 16)
    assert_right(program, path, x, 0, 0)


def test_a_shape_that_fits_one_batch_only_is_refused_in_one_sentence(tmp_path: Path) -> None:
    """Where no axis can have the batch, the shape is named, and what to do."""
    constants = {"first": np.array([3, 8], np.int64)}
    path = saved(tmp_path / "m.onnx", [helper.make_node("Reshape", ["x", "first"], ["y"])], [2, 12], constants)
    with pytest.raises(ModelError, match=r"constant shape \[3, 8\], which fits a batch of 2 only\n.*dynamic batch"):
        import_onnx(path, {"x": numbers(COUNT, 12)})


@pytest.mark.parametrize(
    ("kind", "gates", "attributes"),
    [("GRU", 3, {"linear_before_reset": 0}), ("LSTM", 4, {"clip": 3.0}), ("RNN", 1, {"activations": ["Softsign"]})],
)
def test_a_free_length_of_steps_is_fixed_to_that_of_the_samples(
    tmp_path: Path, kind: str, gates: int, attributes: dict[str, Any]
) -> None:
    """Nodes that no layer of PyTorch computes get the length of the samples, and a remark says so and why."""
    constants = {
        "W": numbers(1, gates * HIDDEN, FEATURES),
        "R": numbers(1, gates * HIDDEN, HIDDEN),
        "one": np.array([1]),
    }
    nodes = [
        helper.make_node(kind, ["x", "W", "R"], ["Y"], hidden_size=HIDDEN, **attributes),
        helper.make_node("Squeeze", ["Y", "one"], ["y"]),
    ]
    path = saved(tmp_path / "m.onnx", nodes, ["T", "B", FEATURES], constants)
    x = numbers(COUNT, STEPS, FEATURES)
    program = import_onnx(path, {"x": x})
    assert program.signature.inputs[0].shape == (STEPS, "batch", FEATURES)
    assert_right(program, path, x, 1, 1)
    assert any(note.startswith("the axis 'T' is fixed to the size of the samples: ") for note in program.meta[NOTES])
