"""The types in which an engine computes, from the parsed network and from the inspector; trtexec commands."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from retort.__main__ import main
from retort.core.errors import ArtifactError
from retort.core.options.stage_options import EngineOptions
from retort.core.tensors import TensorSpec
from retort.export.trt.explain import explain_inspector
from retort.export.trt.optimization_profiles import plan_profiles
from retort.export.trt.trtexec_command import commands

needs_trt = pytest.mark.skipif(importlib.util.find_spec("tensorrt_rtx") is None, reason="tensorrt-rtx is not installed")
OLD_FORMAT = {
    "Layers": [
        {
            "Name": "conv1 + relu1",
            "LayerType": "CaskConvolution",
            "Inputs": [{"Name": "q1", "Format/Datatype": "Thirty-two wide channel vectorized row major Int8 format"}],
            "Outputs": [{"Name": "y1", "Format/Datatype": "Thirty-two wide channel vectorized row major Int8 format"}],
            "Metadata": "[ONNX Layer: conv1][ONNX Layer: relu1]",
        },
        {
            "Name": "Reformatting CopyNode for Input Tensor 0 to conv2",
            "LayerType": "Reformat",
            "Inputs": [{"Name": "y1", "Format/Datatype": "Thirty-two wide channel vectorized row major Int8 format"}],
            "Outputs": [{"Name": "y1'", "Format/Datatype": "Row major linear FP32"}],
        },
        {
            "Name": "conv2",
            "LayerType": "CaskConvolution",
            "Inputs": [{"Name": "y1'", "Format/Datatype": "Row major linear FP32"}],
            "Outputs": [{"Name": "y2", "Format/Datatype": "Row major linear FP32"}],
        },
    ],
    "Bindings": ["x", "y2"],
}
NEW_FORMAT = {
    "Layers": [
        {
            "Name": "__myl_Conv_0",
            "LayerType": "kgen",
            "Inputs": [{"Name": "x", "Datatype": "Half", "Format": "Row major linear"}],
            "Outputs": [{"Name": "y", "Datatype": "Half", "Format": "Row major linear"}],
            "Metadata": "[ONNX Layer: conv1]",
        }
    ],
    "I/O Tensors": [{"Name": "x"}],
}


def test_the_inspector_of_10_is_read() -> None:
    """Precision, fused ONNX nodes and reformats are read from the format of 10.x; FP32 comes first."""
    found = explain_inspector(json.dumps(OLD_FORMAT))
    assert [(row.layer, row.precision) for row in found.heavy] == [("conv2", "FP32"), ("conv1 + relu1", "INT8")]
    assert found.heavy[0].change.startswith("quantize the program")
    assert [item["to"] for item in found.reformats] == ["Row major linear FP32"]
    assert found.counts == {"CaskConvolution FP32": 1, "CaskConvolution INT8": 1, "Reformat INT8": 1}


def test_the_inspector_of_11_is_read() -> None:
    """In 11.x, type and layout are separate fields."""
    (row,) = explain_inspector(json.dumps(NEW_FORMAT)).heavy
    assert (row.layer, row.precision) == ("conv1", "FP16")


@pytest.mark.parametrize("text", ["no json", "{}", json.dumps({"Layers": ["conv1", "conv2"]})])
def test_json_without_types_is_rejected(text: str) -> None:
    """Other JSON, or JSON of an engine without detailed verbosity, is rejected with a remedy."""
    with pytest.raises(ArtifactError) as caught:
        explain_inspector(text)
    assert caught.value.remedy


def test_the_command_of_each_line_has_what_that_line_needs() -> None:
    """10.x gets options for strong typing and for timing as in 11.x; both get the profiles and the options."""
    spec = TensorSpec("x", "float32", ("batch", 3, 8, 8))
    options = EngineOptions(workspace_mib=64, tf32=False, hardware="ampere+", timing_cache="c")
    profiles = plan_profiles([spec], (1, 4, 8))
    made = commands(Path("m.onnx"), profiles, options)
    assert made["11.x"][0] == (
        "trtexec --onnx=m.onnx --saveEngine=m.plan --skipInference --minShapes=x:1x3x8x8 --optShapes=x:4x3x8x8 "
        "--maxShapes=x:8x3x8x8 --memPoolSize=workspace:64M --builderOptimizationLevel=3 "
        "--timingCacheFile=c/trtexec.timing --noTF32 --hardwareCompatibilityLevel=ampere+ "
        "--profilingVerbosity=detailed --exportLayerInfo=layers.json"
    )
    assert set(made["10.x"][0].split()) - set(made["11.x"][0].split()) == {"--stronglyTyped"}
    measured = set(made["10.x"][1].split()) - set(made["11.x"][1].split())
    assert measured == {"--useCudaGraph", "--useSpinWait", "--noDataTransfers"}
    assert "--shapes=x:4x3x8x8" in made["11.x"][1]
    two = commands(Path("m.onnx"), plan_profiles([spec], (1,), given=["x=1x3x8x8", "x=2x3x8x8"]), EngineOptions())
    assert "--profile=0 --minShapes=x:1x3x8x8" in two["11.x"][0]
    assert "--profile=1 --minShapes=x:2x3x8x8" in two["11.x"][0]
    removed = ("--fp16", "--int8", "--best", "--calib", "--layerPrecisions")
    assert not any(word in command for pair in made.values() for command in pair for word in removed)


def half_quantized(path: Path) -> Path:
    """Two convolutions, of which only the first is INT8."""
    values: dict[str, Any] = {"s": np.float32(0.1), "z": np.int8(0), "w": np.ones((8, 8, 3, 3), np.int8)}
    values |= {"ws": np.full(8, 0.1, np.float32), "wz": np.zeros(8, np.int8), "v": np.ones((8, 8, 3, 3), np.float32)}
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], name="q"),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"], name="d"),
        helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["wd"], name="wd", axis=0),
        helper.make_node("Conv", ["d", "wd"], ["c"], name="narrow"),
        helper.make_node("Conv", ["c", "v"], ["y"], name="wide"),
    ]
    ports = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", 8, s, s]) for n, s in (("x", 8), ("y", 4))]
    stored = [numpy_helper.from_array(np.asarray(array), name) for name, array in values.items()]
    graph = helper.make_graph(nodes, "g", ports[:1], ports[1:], stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    path.write_bytes(model.SerializeToString())
    return path


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, Any]]:
    """Exit code and JSON of a command."""
    with pytest.raises(SystemExit) as caught:
        main([*arguments, "--json"])
    return int(caught.value.code or 0), json.loads(capsys.readouterr().out)


@pytest.mark.trt
@needs_trt
def test_explain_names_the_layer_in_floating_point(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`retort engine --explain` builds nothing, and reports which convolution is FP32, why, and a remedy."""
    code, told = run(capsys, "engine", str(half_quantized(tmp_path / "m.onnx")), "--explain")
    assert code == 0
    rows = {row["layer"]: row for row in told["heavy"]}
    assert (rows["wide"]["precision"], rows["narrow"]["precision"]) == ("FP32", "INT8")
    assert "no Q/DQ" in rows["wide"]["reason"]
    assert "--precision fp16" in rows["wide"]["change"]
    assert told["heavy"][0]["layer"] == "wide"
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]


def test_emit_prints_both_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`--emit trtexec` needs no TensorRT and prints a command for each release line."""
    code, told = run(capsys, "engine", str(half_quantized(tmp_path / "m.onnx")), "--emit", "trtexec")
    assert code == 0
    assert set(told) == {"10.x", "11.x"}
    assert "--optShapes=x:8x8x8x8" in told["11.x"]["build"]
