"""Recurrent nodes with ``sequence_lens``: the program follows the file for lengths of every kind, at any length."""

from __future__ import annotations

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
from retort.core.errors import ModelError

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
LENGTHS = np.array([3, 7, 1, 7, 4, 0], np.int32)


def numbers(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    """Random float32 numbers."""
    return (0.5 * np.random.default_rng(seed).standard_normal(shape)).astype(np.float32)


def saved(path: Path, kind: str, direction: str, started: bool = False, lengths: Any = None) -> Path:
    """A file with one node on ``[time, batch, 4]``, with all of its outputs; lengths are an input, or a constant."""
    ways = 2 if direction == "bidirectional" else 1
    states = ["h", "c"][: 2 if kind == "LSTM" else 1] if started else []
    outputs = ["y", "last", *(["cell"] if kind == "LSTM" else [])]
    node = helper.make_node(kind, ["x", "W", "R", "B", "lens", *states], outputs, hidden_size=6, direction=direction)
    if kind == "GRU":
        node.attribute.append(helper.make_attribute("linear_before_reset", 1))
    rows = GATES[kind] * 6
    weights = {"W": numbers(ways, rows, 4), "R": numbers(ways, rows, 6, seed=1), "B": numbers(ways, 2 * rows, seed=2)}
    parts = {**weights, **({} if lengths is None else {"lens": lengths})}
    ports = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["time", "batch", 4])]
    ports += [helper.make_tensor_value_info("lens", TensorProto.INT32, ["batch"])] if lengths is None else []
    ports += [helper.make_tensor_value_info(name, TensorProto.FLOAT, [ways, "batch", 6]) for name in states]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in node.output]
    graph = helper.make_graph([node], "g", ports, ends, [numpy_helper.from_array(v, n) for n, v in parts.items()])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    return path


@pytest.mark.parametrize("kind", GATES)
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
def test_all_outputs_follow_the_lengths(kind: str, direction: str, tmp_path: Path) -> None:
    """Steps, last states and cells are those of ONNX Runtime at other lengths and batch sizes, one layer per way."""
    path = saved(tmp_path / "m.onnx", kind, direction)
    program = import_onnx(path, {"x": numbers(6, 7, 4), "lens": LENGTHS})
    assert program.signature.describe_inputs() == "x: float32[time, batch, 4], lens: int32[batch]"
    layers = [node for node in program.module.graph.nodes if f"aten.{kind.lower()}" in str(node.target)]
    assert len(layers) == (2 if direction == "bidirectional" else 1)
    session = onnxruntime.InferenceSession(str(path))
    for steps, lengths in ((7, LENGTHS), (11, np.array([11, 2], np.int32)), (2, np.array([1], np.int32))):
        feeds = {"x": numbers(steps, len(lengths), 4, seed=steps), "lens": lengths}
        with torch.no_grad():
            got = program.module(*map(torch.from_numpy, feeds.values()))
        for left, right in zip(got, session.run(None, feeds), strict=True):
            np.testing.assert_allclose(left.numpy(), right, atol=2e-6)


def test_initial_states_and_lengths(tmp_path: Path) -> None:
    """Initial states are those that are given, and a state without any step is zero, as in ONNX Runtime."""
    path = saved(tmp_path / "m.onnx", "LSTM", "bidirectional", started=True)
    states = {name: numbers(2, 6, 6, seed=seed) for seed, name in enumerate("hc")}
    feeds = {"x": numbers(7, 6, 4), "lens": LENGTHS, **states}
    rows = {name: value if value.ndim == 1 else value.swapaxes(0, 1) for name, value in feeds.items()}
    program = import_onnx(path, rows)
    with torch.no_grad():
        got = program.module(*map(torch.from_numpy, feeds.values()))
    for left, right in zip(got, onnxruntime.InferenceSession(str(path)).run(None, feeds), strict=True):
        np.testing.assert_allclose(left.numpy(), right, atol=2e-6)


def test_constant_lengths_of_another_batch_are_named(tmp_path: Path) -> None:
    """One constant length holds for all rows; three for six rows are refused with both shapes."""
    one = saved(tmp_path / "one.onnx", "GRU", "forward", lengths=np.array([2], np.int32))
    program = import_onnx(one, {"x": numbers(1, 7, 4)})
    assert program.module(torch.randn(5, 3, 4))[0][2:].abs().max() == 0
    three = saved(tmp_path / "three.onnx", "GRU", "forward", lengths=np.array([2, 3, 1], np.int32))
    with pytest.raises(ModelError, match=r"its sequence_lens has the shape \[3\]"):
        import_onnx(three, {"x": numbers(6, 7, 4)})
