"""Recurrent nodes whose inputs do not fit: one sentence names the input, and no kernel reads beyond its memory."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from retort.compress.onnx_import import import_onnx
from retort.compress.program import NOTES
from retort.core.errors import ModelError

Array = NDArray[Any]
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
HIDDEN, FEATURES, STEPS, ROWS = 12, 8, 6, 5
PLACES = ("W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P")


def numbers(*shape: int) -> Array:
    """Random float32 numbers."""
    return (0.3 * np.random.default_rng(0).standard_normal(shape)).astype(np.float32)


def file_of(path: Path, kind: str, parts: Mapping[str, Array], features: Any, **attributes: Any) -> Path:
    """A file with one recurrent node, whose sequence is ``[6, batch, features]``."""
    names = [name if name in parts else "" for name in PLACES]
    while not names[-1]:
        names.pop()
    node = helper.make_node(kind, ["x", *names], ["y"], hidden_size=HIDDEN, **attributes)
    ports = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, [None if features is None else STEPS, "batch", features]),
        helper.make_tensor_value_info("y", TensorProto.FLOAT, None),
    ]
    constants = [numpy_helper.from_array(value, name) for name, value in parts.items()]
    graph = helper.make_graph([node], "g", ports[:1], ports[1:], constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    return path


def fitting(kind: str, ways: int) -> dict[str, Array]:
    """Weights that fit 8 features and 12 hidden units."""
    rows = GATES[kind] * HIDDEN
    return {"W": numbers(ways, rows, FEATURES), "R": numbers(ways, rows, HIDDEN), "B": numbers(ways, 2 * rows)}


@pytest.mark.parametrize("kind", GATES)
@pytest.mark.parametrize("direction", ["forward", "bidirectional"])
@pytest.mark.parametrize("plain", [True, False])
@pytest.mark.parametrize("name", ["W", "R", "B"])
def test_weights_that_do_not_fit_are_named(tmp_path: Path, kind: str, direction: str, plain: bool, name: str) -> None:
    """A weight whose rows or columns do not fit ``hidden_size`` is named with both shapes, in every kind of node."""
    ways = 2 if direction == "bidirectional" else 1
    parts = fitting(kind, ways)
    parts[name] = numbers(*parts[name].shape[:-1], 1200) if name != "W" else numbers(ways, 4 * HIDDEN + 4, FEATURES)
    more = {} if plain else {"clip": 3.0}
    path = file_of(tmp_path / "m.onnx", kind, parts, FEATURES, direction=direction, **more)
    with pytest.raises(ModelError, match=rf"{kind} '{kind}_0'.* its {name} has the shape \[.*it must be \["):
        import_onnx(path, {"x": numbers(ROWS, STEPS, FEATURES)})


@pytest.mark.parametrize("kind", GATES)
@pytest.mark.parametrize("plain", [True, False])
@pytest.mark.parametrize("features", [7, 9, 8000])
def test_sequences_that_do_not_fit_the_weights_are_named(tmp_path: Path, kind: str, plain: bool, features: int) -> None:
    """Samples of another feature size than W are refused with both numbers, where the file leaves the axis free."""
    more = {} if plain else {"clip": 3.0}
    path = file_of(tmp_path / "m.onnx", kind, fitting(kind, 1), None, **more)
    with pytest.raises(ModelError, match=rf"a sequence of {features} features per step, and its W is for 8"):
        import_onnx(path, {"x": numbers(ROWS, STEPS, features)})


@pytest.mark.parametrize(
    ("name", "shape"),
    [("initial_h", (1, ROWS, 40)), ("initial_c", (2, 1, HIDDEN)), ("P", (1, 12)), ("sequence_lens", (3,))],
)
def test_states_peepholes_and_lengths_that_do_not_fit_are_named(
    tmp_path: Path, name: str, shape: tuple[int, ...]
) -> None:
    """An initial state, peepholes or lengths of another shape are named with both shapes."""
    value = np.full(shape, 2, np.int32) if name == "sequence_lens" else numbers(*shape)
    path = file_of(tmp_path / "m.onnx", "LSTM", {**fitting("LSTM", 1), name: value}, FEATURES, clip=3.0)
    with pytest.raises(ModelError, match=rf"its {name} has the shape"):
        import_onnx(path, {"x": numbers(ROWS, STEPS, FEATURES)})


def test_a_fixed_axis_of_a_file_has_no_place_in_the_callers_code(tmp_path: Path) -> None:
    """The remark on an axis that a node fixes names the axis, and no line of Retort or of the script that imports."""
    path = file_of(tmp_path / "m.onnx", "LSTM", fitting("LSTM", 1), None)
    program = import_onnx(path, {"x": numbers(ROWS, STEPS, FEATURES)})
    (note,) = [note for note in program.meta[NOTES] if "'x_2' is fixed" in note]
    assert "the model fixes the axis 'x_2' to 8: " in note
    assert " line " not in note
