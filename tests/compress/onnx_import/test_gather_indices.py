"""Indices of a table: from its end, as ONNX allows, and outside it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from retort.compress.onnx_import import import_onnx
from retort.core.errors import DataError

ROWS = 20


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The mean of five rows of a table, and a linear layer."""
    draw = np.random.default_rng(0)
    constants = {
        "table": draw.standard_normal((ROWS, 16)).astype(np.float32),
        "W": draw.standard_normal((16, 4)).astype(np.float32),
    }
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["e"]),
        helper.make_node("ReduceMean", ["e"], ["m"], axes=[1], keepdims=0),
        helper.make_node("MatMul", ["m", "W"], ["y"]),
    ]
    ports = [
        helper.make_tensor_value_info("ids", TensorProto.INT64, ["N", 5]),
        helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 4]),
    ]
    initializers = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "g", ports[:1], ports[1:], initializers)
    file = tmp_path / "m.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(file))
    return file


@pytest.mark.parametrize("least", [-ROWS, 0])
def test_indices_from_the_end_are_indices(path: Path, least: int) -> None:
    """Negative indices give the rows that ONNX Runtime gives; without any, the table is a plain embedding."""
    ids = np.random.default_rng(1).integers(least, ROWS, (8, 5))
    program = import_onnx(path, {"ids": ids})
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    with torch.no_grad():
        (found,) = program.module(torch.from_numpy(ids))
    assert np.abs(found.numpy() - session.run(None, {"ids": ids})[0]).max() <= 1e-5
    assert ("aten.where" in program.module.code) == (least < 0)
    assert "aten.embedding" in program.module.code


@pytest.mark.parametrize("index", [ROWS, -ROWS - 1, 9_000_000])
def test_an_index_outside_the_table_is_named(path: Path, index: int) -> None:
    """The message has the index and the rows of the table."""
    ids = np.full((4, 5), 3)
    ids[2, 1] = index
    with pytest.raises(DataError, match=rf"gets the index {index} for a table of {ROWS} rows"):
        import_onnx(path, {"ids": ids})
