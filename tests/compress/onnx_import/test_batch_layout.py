"""Where the batch of each input is: names, sizes, states with the batch on axis 1, values that all samples share."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

import retort
from retort.compress.onnx_import import import_onnx
from retort.compress.program import load_program, save_program
from retort.core.data.model_inputs import fit_to
from retort.core.data.splits import ArraySplit, Splits
from retort.core.errors import InputError

Array = NDArray[Any]
FLOAT = TensorProto.FLOAT


def floats(*shape: int, seed: int = 0) -> Array:
    """Random float32 numbers."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def node(kind: str, inputs: str, outputs: str, **attributes: Any) -> onnx.NodeProto:
    """A node; ``_`` omits an input."""
    return helper.make_node(
        kind, ["" if name == "_" else name for name in inputs.split()], outputs.split(), **attributes
    )


def saved(
    path: Path, nodes: list[onnx.NodeProto], inputs: dict[str, Any], outputs: dict[str, int], constants: dict[str, Any]
) -> Path:
    """A file with inputs of the given shapes, and outputs of the given ranks."""
    ports = [helper.make_tensor_value_info(name, FLOAT, shape) for name, shape in inputs.items()]
    ends = [helper.make_tensor_value_info(name, FLOAT, [None] * rank) for name, rank in outputs.items()]
    initializers = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "g", ports, ends, initializers)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), str(path))
    return path


def streaming(path: Path, rows: int | str) -> Path:
    """An LSTM cell of one step, whose states ``[2, rows, 6]`` go in and out together."""
    constants = {
        "w": floats(1, 24, 5), "r": floats(1, 24, 6, seed=1), "b": floats(1, 48, seed=2), "zero": np.array([0]),
        "halves": np.array([1, 1]),
    }  # fmt: skip
    nodes = [
        node("Unsqueeze", "x zero", "series"), node("Split", "state halves", "h c", axis=0),
        node("LSTM", "series w r b _ h c", "all hn cn", hidden_size=6), node("Squeeze", "hn zero", "y"),
        node("Concat", "hn cn", "state_next", axis=0),
    ]  # fmt: skip
    return saved(path, nodes, {"x": [rows, 5], "state": [2, rows, 6]}, {"y": 2, "state_next": 3}, constants)


@pytest.mark.parametrize("rows", ["N", 1, "?"])
def test_a_state_with_its_batch_on_axis_1_is_carried_over_steps(rows: int | str, tmp_path: Path) -> None:
    """A streaming net keeps its layout, and the program follows the file over several steps."""
    path = streaming(tmp_path / "m.onnx", rows)
    program = import_onnx(path, {"x": floats(4, 5), "state": floats(4, 2, 6)})
    assert [spec.shape for spec in program.signature.inputs] == [("batch", 5), (2, "batch", 6)]
    assert [spec.shape for spec in program.signature.outputs] == [("batch", 6), (2, "batch", 6)]
    assert program.signature.batch_invariant
    save_program(program, tmp_path / "p.pt2")
    program = load_program(tmp_path / "p.pt2")
    session = onnxruntime.InferenceSession(str(path))
    state = found = np.zeros((2, 1, 6), np.float32)
    for step in range(4):
        x = floats(1, 5, seed=step)
        expected, state = session.run(None, {"x": x, "state": state})
        with torch.no_grad():
            y, tensor = program.module(torch.from_numpy(x), torch.from_numpy(found))
        found = tensor.numpy()
        np.testing.assert_allclose(y.numpy(), expected, atol=1e-5)
        np.testing.assert_allclose(found, state, atol=1e-5)


def test_data_are_rows_first_for_every_input(tmp_path: Path) -> None:
    """Samples of a data set are laid out for the model once, also if they are fitted twice."""
    program = import_onnx(streaming(tmp_path / "m.onnx", "N"), {"x": floats(4, 5), "state": floats(4, 2, 6)})
    split = ArraySplit({"x": floats(9, 5), "state": floats(9, 2, 6)})
    data = fit_to(Splits(split, split, split, split), program.signature)
    data = fit_to(dataclasses.replace(data), program.signature)
    inputs = data.train.read(range(3))[0]
    np.testing.assert_array_equal(inputs["state"], split.inputs["state"][:3].transpose(1, 0, 2))
    program.signature.validate(inputs)


def test_a_scalar_input_is_shared_by_all_samples(tmp_path: Path) -> None:
    """A scale without axes has no batch; its samples may be one number or one number per row."""
    path = saved(tmp_path / "m.onnx", [node("Mul", "x scale", "y")], {"x": ["N", 4], "scale": []}, {"y": 2}, {})
    for scale in (np.float32(1.5), np.full(3, 1.5, np.float32)):
        program = import_onnx(path, {"x": floats(3, 4), "scale": np.asarray(scale)})
        assert [spec.shape for spec in program.signature.inputs] == [("batch", 4), ()]
        y = program.module(torch.ones(2, 4), torch.tensor(2.0))[0]
        assert y.tolist() == [[2.0] * 4] * 2


def test_axes_without_a_name_are_axes_of_their_own(tmp_path: Path) -> None:
    """Two axes called `?` have different sizes at run time."""
    path = saved(
        tmp_path / "m.onnx", [node("Conv", "x w", "y", pads=[1, 1, 1, 1])], {"x": ["N", 3, "?", "?"]}, {"y": 4},
        {"w": floats(4, 3, 3, 3)},
    )  # fmt: skip
    program = import_onnx(path, {"x": floats(2, 3, 8, 12)})
    assert program.signature.inputs[0].shape == ("batch", 3, "x_2", "x_3")
    assert program.module(torch.randn(1, 3, 10, 7))[0].shape == (1, 4, 10, 7)


@pytest.mark.parametrize("shape", [["N", 8, "T"], [1, 8, "T"], [1, 8, 12]])
def test_an_output_may_have_time_first(shape: list[Any], tmp_path: Path) -> None:
    """A net whose output is `[time, batch, classes]` is compared along its own batch axis."""
    nodes = [node("Transpose", "x", "t", perm=[2, 0, 1]), node("MatMul", "t w", "y")]
    path = saved(tmp_path / "m.onnx", nodes, {"x": shape}, {"y": 3}, {"w": floats(8, 5)})
    program = import_onnx(path, {"x": floats(3, 8, 12)})
    assert program.signature.outputs[0].shape[1] == "batch"
    assert program.module(torch.randn(2, 8, 12))[0].shape == (12, 2, 5)


def test_a_file_without_a_batch_has_fixed_sizes(tmp_path: Path) -> None:
    """A graph that cuts its input into two rows of six runs at no other batch; it is imported as it is."""
    nodes = [node("Reshape", "x size", "r"), node("Tanh", "r", "y")]
    path = saved(tmp_path / "m.onnx", nodes, {"x": [3, 4]}, {"y": 2}, {"size": np.array([2, 6])})
    program = import_onnx(path, {"x": floats(3, 4)})
    assert [spec.shape for spec in program.signature.inputs] == [(3, 4)]
    save_program(program, tmp_path / "p.pt2")
    x = torch.randn(3, 4)
    torch.testing.assert_close(load_program(tmp_path / "p.pt2").module(x)[0], x.reshape(2, 6).tanh())


def test_a_weight_that_is_an_input_is_shared(tmp_path: Path) -> None:
    """In a product of two inputs, the left one has the batch."""
    path = saved(tmp_path / "m.onnx", [node("MatMul", "a b", "y")], {"a": [3, 4], "b": [4, 5]}, {"y": 2}, {})
    program = import_onnx(path, {"a": floats(3, 4), "b": floats(4, 5)})
    assert [spec.shape for spec in program.signature.inputs] == [("batch", 4), (4, 5)]


def test_a_net_that_couples_its_rows_says_so(tmp_path: Path) -> None:
    """Where the outputs of a sample depend on the batch, the signature is marked and requests are not joined."""
    nodes = [node("ReduceMean", "x", "m", axes=[0], keepdims=1), node("Sub", "x m", "y")]
    path = saved(tmp_path / "m.onnx", nodes, {"x": ["N", 4]}, {"y": 2}, {})
    assert not import_onnx(path, {"x": floats(4, 4)}).signature.batch_invariant


def test_a_huge_end_of_a_slice_is_no_limit_of_the_batch(tmp_path: Path) -> None:
    """A slice of the batch up to 999,999,999 does not bound it."""
    nodes = [node("Slice", "x start end axes", "s"), node("Relu", "s", "y")]
    constants = {"start": np.array([0]), "end": np.array([999_999_999]), "axes": np.array([0])}
    program = import_onnx(saved(tmp_path / "m.onnx", nodes, {"x": ["N", 4]}, {"y": 2}, constants), {"x": floats(4, 4)})
    assert program.module(torch.ones(7, 4))[0].shape == (7, 4)


def test_names_of_outputs_are_kept(tmp_path: Path) -> None:
    """The names that other tools give to outputs are those of the program."""
    path = saved(tmp_path / "m.onnx", [node("Relu", "in:0", "Call:1")], {"in:0": ["N", 4]}, {"Call:1": 2}, {})
    program = import_onnx(path, {"in:0": floats(3, 4)})
    assert [spec.name for spec in program.signature.outputs] == ["Call:1"]


def test_samples_that_do_not_fit_are_named(tmp_path: Path) -> None:
    """Samples of another width end in one sentence with both shapes."""
    path = saved(tmp_path / "m.onnx", [node("Relu", "x", "y")], {"x": ["N", 4]}, {"y": 2}, {})
    with pytest.raises(InputError, match=r"x: \[3, 5\]"):
        import_onnx(path, {"x": floats(3, 5)})


def test_samples_in_the_layout_of_the_file_are_named(tmp_path: Path) -> None:
    """Rows are on axis 0; an array that has them where the file has its batch is refused with the axis."""
    nodes = [node("LSTM", "x w r", "all h c", hidden_size=6), node("Squeeze", "all one", "y")]
    constants = {"w": floats(1, 24, 4), "r": floats(1, 24, 6), "one": np.array([1])}
    path = saved(tmp_path / "m.onnx", nodes, {"x": [5, "N", 4]}, {"y": 3}, constants)
    with pytest.raises(InputError, match=r"'x' have the shape \[5, 9, 4\], with the samples where the file has"):
        import_onnx(path, {"x": floats(5, 9, 4)})
    program = retort.capture(str(path), data=floats(5, 9, 4))
    assert program.signature.describe_inputs() == "x: float32[5, batch, 4]"
