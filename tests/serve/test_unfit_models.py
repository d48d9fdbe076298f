"""Models that no request fits are refused before anything is packed."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from retort.core.artifact import load_artifact
from retort.core.errors import UserError
from retort.serve.bundles.bundle import read_graph


def saved(path: Path, nodes: list[onnx.NodeProto], inputs: list[onnx.ValueInfoProto], kind: int) -> Path:
    """An ONNX file with the output ``y``."""
    graph = helper.make_graph(nodes, "g", inputs, [helper.make_tensor_value_info("y", kind, [2])])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), str(path))
    return path


def test_texts_are_refused(tmp_path: Path) -> None:
    """An input of texts is named with its type."""
    text = helper.make_tensor_value_info("words", TensorProto.STRING, [2])
    path = saved(tmp_path / "str.onnx", [helper.make_node("Identity", ["words"], ["y"])], [text], TensorProto.STRING)
    with pytest.raises(UserError) as caught:
        read_graph(load_artifact(path))
    told = "the input 'words' of str.onnx is a tensor(string), and only tensors of numbers can be served"
    assert caught.value.message == told


def test_a_model_without_inputs_is_refused(tmp_path: Path) -> None:
    """A constant answers no request."""
    value = helper.make_tensor("v", TensorProto.FLOAT, [2], [1.0, 2.0])
    path = saved(tmp_path / "noin.onnx", [helper.make_node("Constant", [], ["y"], value=value)], [], TensorProto.FLOAT)
    with pytest.raises(UserError, match=r"noin.onnx has no inputs, so there is nothing to ask it"):
        read_graph(load_artifact(path))
