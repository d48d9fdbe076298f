"""ONNX files of other tools: shown with their signature, rejected in one sentence if they are damaged."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import retort
from retort.__main__ import main
from retort.compress.onnx_import.reader import read_graph as import_graph
from retort.core.artifact import new_artifact
from retort.core.context import Place
from retort.core.errors import ArtifactError, MissingFileError, ModelError, StorageError
from retort.core.formats.onnx_weights import require_weights
from retort.core.session import open_session
from retort.export.files import load_graph, read_graph


def _model(nodes: list[onnx.NodeProto], opset: int = 20) -> onnx.ModelProto:
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", "rows", 4]) for name in "xy"]
    weight = numpy_helper.from_array(np.eye(4, dtype=np.float32), "w")
    graph = helper.make_graph(nodes, "g", ports[:1], ports[1:], [weight])
    domains = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=domains, ir_version=9)


PRODUCT = helper.make_node("MatMul", ["x", "w"], ["y"])


@pytest.fixture
def apart(tmp_path: Path) -> Path:
    """A model with a separate file of weights."""
    path = tmp_path / "apart.onnx"
    onnx.save(_model([PRODUCT]), path, save_as_external_data=True, location="apart.data", size_threshold=0)
    return path


def _told(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    seen = capsys.readouterr()
    return int(caught.value.code or 0), seen.out + seen.err


def test_show_lists_inputs_and_outputs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`retort show model.onnx` prints name, type and axes of any file, and has them in its JSON."""
    path = tmp_path / "model.onnx"
    path.write_bytes(_model([PRODUCT]).SerializeToString())
    code, text = _told(["show", str(path)], capsys)
    assert code == 0
    for word in ("inputs and outputs", "float32", "batch×rows×4"):
        assert word in text
    told = json.loads(_told(["show", str(path), "--json"], capsys)[1])
    signature = told["artifacts"][0]["signature"]
    assert signature["inputs"] == [{"name": "x", "dtype": "float32", "shape": ["batch", "rows", 4]}]
    assert [spec["name"] for spec in signature["outputs"]] == ["y"]


@pytest.mark.parametrize("command", ["show", "lint", "engine"])
def test_weights_that_are_not_there_are_named(command: str, apart: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every command that reads the file reports which weights are missing and a remedy."""
    apart.with_name("apart.data").unlink()
    code, text = _told([command, str(apart)], capsys)
    assert code == MissingFileError.exit_code
    assert "stores its weights in apart.data, which is not in the same folder" in " ".join(text.split())
    assert "copy the complete file apart.data into the folder of apart.onnx" in " ".join(text.split())


def test_every_reader_refuses_weights_that_end_too_early(apart: Path) -> None:
    """Graph reader, weight reader, importer and ONNX Runtime detect a truncated data file before using it."""
    assert numpy_helper.to_array(load_graph(apart).graph.initializer[0]).trace() == 4
    require_weights(onnx.load(apart, load_external_data=False), apart)
    os.truncate(apart.with_name("apart.data"), 20)
    for read in (read_graph, load_graph, import_graph):
        with pytest.raises(MissingFileError, match=r"apart\.data is truncated: 'w' of apart\.onnx ends at byte 64"):
            read(apart)
    with pytest.raises(ArtifactError, match="the weights that it stores in another file") as caught:
        open_session(apart)
    assert "copy the complete file into the same folder" in caught.value.remedy


def test_a_truncated_file_is_no_onnx(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A truncated file is reported as such, by `show` too, which prints no part of it."""
    path = tmp_path / "cut.onnx"
    content = _model([PRODUCT]).SerializeToString()
    path.write_bytes(content[: len(content) - 3])
    code, text = _told(["show", str(path)], capsys)
    assert code == ArtifactError.exit_code
    assert "cannot be read as ONNX" in text
    assert "truncated or is not an ONNX file" in text
    assert "kind" not in text


def test_quantized_files_and_fused_ones_are_recognised(tmp_path: Path) -> None:
    """Static, dynamic and fused integers, also in a loop's body, are "quantized already", with a remedy."""
    inner = helper.make_graph(
        [helper.make_node("MatMulInteger", ["a", "b"], ["c"])],
        "body",
        [],
        [helper.make_tensor_value_info("c", TensorProto.INT32, None)],
    )
    condition = helper.make_node("If", ["x"], ["y"], then_branch=inner, else_branch=inner)
    names = ("DequantizeLinear", "DynamicQuantizeLSTM", "MatMulIntegerToFloat", "QGemm", "QAttention", "MatMulNBits")
    fused = [helper.make_node(name, ["x", "w"], ["y"], domain="com.microsoft") for name in names]
    for node in (condition, *fused):
        path = tmp_path / "model.onnx"
        path.write_bytes(
            _model([helper.make_node("Gelu", ["x"], ["g"], domain="com.microsoft"), node]).SerializeToString()
        )
        with pytest.raises(ModelError, match="is already quantized") as caught:
            import_graph(path)
        assert "retort quantize FP32.onnx" in caught.value.remedy
    path.write_bytes(
        _model([helper.make_node("FusedConv", ["x", "w"], ["y"], domain="com.microsoft")]).SerializeToString()
    )
    with pytest.raises(ModelError, match="not a standard ONNX operator"):
        import_graph(path)


def test_a_quantized_file_that_does_not_run_is_named(tmp_path: Path) -> None:
    """A file that ONNX Runtime cannot open is quantized already before it is opened, and invalid when it is."""
    codes = {"s": np.float32(0.1), "z": np.uint8(128), "w": np.ones((3, 2, 3, 3), np.int8)}
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("QLinearConv", ["q", "s", "z", "w", "s", "z", "s", "z"], ["c"]),
        helper.make_node("DequantizeLinear", ["c", "s", "z"], ["y"]),
    ]
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", None, None, None]) for name in "xy"]
    weights = [numpy_helper.from_array(np.asarray(value), name) for name, value in codes.items()]
    graph = helper.make_graph(nodes, "g", ports[:1], ports[1:], weights)
    path = tmp_path / "codes.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)
    with pytest.raises(ModelError, match="is already quantized"):
        retort.capture(path, data=np.zeros((4, 2, 8, 8), np.float32))
    with pytest.raises(ArtifactError, match="is not a valid model: Type Error") as caught:
        open_session(path)
    assert "damaged" not in caught.value.remedy


@pytest.mark.parametrize("place", ["file/artifact", "/proc/artifact"])
def test_a_folder_that_cannot_be_made_is_no_defect(place: str, tmp_path: Path) -> None:
    """An output folder inside a file, or at an impossible place, is rejected and is not an internal error."""
    if place.startswith("/proc") and not Path("/proc/self").exists():
        pytest.skip("no /proc here")
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="cannot write"), new_artifact(Place(tmp_path / place), "graph", "export"):
        pass


def test_show_takes_files_whose_outputs_are_no_tensors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A classifier whose output is a sequence of maps, as other tools export it, is shown without its outputs."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    y = helper.make_tensor_sequence_value_info("y", TensorProto.FLOAT, [1])
    graph = helper.make_graph([helper.make_node("SequenceConstruct", ["x"], ["y"])], "g", [x], [y])
    path = tmp_path / "maps.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), path)
    code, text = _told(["show", str(path)], capsys)
    assert code == 0
    assert "maps.onnx" in text
