"""The rules for TensorRT: a sound file has no finding, each fault has one, and NVIDIA's parser agrees."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from retort.core.signature import Signature
from retort.core.tensors import TensorSpec
from retort.export.lint import Finding, lint
from retort.export.translate import to_onnx

Array = np.ndarray[Any, Any]


def pair(x: str, scale: str, zero: str | None, name: str, **attributes: Any) -> list[onnx.NodeProto]:
    """Quantize and dequantize ``x`` into ``name``."""
    grid = [scale, zero] if zero else [scale]
    return [
        helper.make_node("QuantizeLinear", [x, *grid], [f"{name}_q"], name=f"{name}_q", **attributes),
        helper.make_node("DequantizeLinear", [f"{name}_q", *grid], [name], name=name, **attributes),
    ]


def sound() -> onnx.ModelProto:
    """A convolution with 4 output and 4 input channels in the form that TensorRT requires."""
    constants: dict[str, Array] = {
        "s": np.array(0.1, np.float32),
        "z": np.array(0, np.int8),
        "w": np.ones((4, 4, 3, 3), np.int8),
        "ws": np.full(4, 0.01, np.float32),
        "wz": np.zeros(4, np.int8),
        "b": np.zeros(4, np.float32),
    }
    nodes = [
        *pair("x", "s", "z", "xd"),
        helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["wd"], name="wd", axis=0),
        helper.make_node("Conv", ["xd", "wd", "b"], ["y"], name="conv"),
    ]
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


def store(model: onnx.ModelProto, name: str, array: Array) -> None:
    """Replace or add a constant."""
    kept = [tensor for tensor in model.graph.initializer if tensor.name != name]
    del model.graph.initializer[:]
    model.graph.initializer.extend([*kept, numpy_helper.from_array(np.asarray(array), name)])


def at(model: onnx.ModelProto, name: str) -> onnx.NodeProto:
    """A node by name."""
    return next(node for node in model.graph.node if node.name == name)


def no_zero_point(model: onnx.ModelProto) -> None:
    """Drop the zero point of the activation."""
    del at(model, "xd_q").input[2]


def integer_bias(model: onnx.ModelProto) -> None:
    """A bias of INT32 codes."""
    store(model, "b", np.zeros(4, np.int32))
    model.graph.node.insert(0, helper.make_node("DequantizeLinear", ["b", "ws"], ["bd"], name="bd", axis=0))
    at(model, "conv").input[2] = "bd"


def float_weight(model: onnx.ModelProto) -> None:
    """An FP32 weight that is quantized at run time."""
    store(model, "w", np.ones((4, 4, 3, 3), np.float32))
    at(model, "wd").input[0] = "wq"
    model.graph.node.insert(0, helper.make_node("QuantizeLinear", ["w", "ws", "wz"], ["wq"], name="wq", axis=0))


def computed_scale(model: onnx.ModelProto) -> None:
    """A scale that a node computes."""
    model.graph.node.insert(0, helper.make_node("Abs", ["s"], ["s2"], name="abs"))
    at(model, "xd").input[1] = "s2"


def per_channel_activation(model: onnx.ModelProto) -> None:
    """Scales along the channels of an activation."""
    store(model, "s", np.full(4, 0.1, np.float32))
    store(model, "z", np.zeros(4, np.int8))


def integer_operator(model: onnx.ModelProto) -> None:
    """An operator on integers."""
    model.graph.node.append(helper.make_node("MatMulInteger", ["xd_q", "xd_q"], ["m"], name="m"))


def wrong_axis(model: onnx.ModelProto) -> None:
    """Scales along the input channels, which have the same number."""
    at(model, "wd").attribute[0].i = 1


def unsorted(model: onnx.ModelProto) -> None:
    """The convolution before the nodes that it reads."""
    conv = at(model, "conv")
    model.graph.node.remove(conv)
    model.graph.node.insert(0, conv)


def twice(model: onnx.ModelProto) -> None:
    """A value that is computed twice."""
    model.graph.node.append(helper.make_node("Relu", ["y"], ["xd"], name="again"))


FAULTS: list[tuple[str, str, Callable[[onnx.ModelProto], None]]] = [
    ("Q01", "xd", lambda model: store(model, "z", np.array(3, np.int8))),
    ("Q02", "xd", lambda model: store(model, "z", np.array(0, np.uint8))),
    ("Q03", "xd_q", no_zero_point),
    ("Q04", "xd", lambda model: store(model, "s", np.array(0, np.float32))),
    ("Q04", "wd", lambda model: store(model, "ws", np.array([1, 1, np.inf, 1], np.float32))),
    ("Q05", "xd", per_channel_activation),
    ("Q06", "wd", wrong_axis),
    ("Q06", "wd", lambda model: store(model, "w", np.ones((8, 4, 3, 3), np.int8))),
    ("Q07", "bd", integer_bias),
    ("Q09", "wq", float_weight),
    ("Q10", "xd", computed_scale),
    ("Q12", "m", integer_operator),
    ("Q13", "xd", lambda model: store(model, "z", np.array(0, np.int16))),
    ("Q22", "conv", unsorted),
    ("Q22", "again", twice),
]


def serious(model: onnx.ModelProto) -> list[Finding]:
    """Findings that are more than advice."""
    return [finding for finding in lint(model) if finding.verdict != "advice"]


def test_a_sound_file_has_no_finding() -> None:
    """The reference model breaks no rule."""
    assert serious(sound()) == []


@pytest.mark.parametrize(("rule", "where", "break_it"), FAULTS, ids=[f"{rule}-{where}" for rule, where, _ in FAULTS])
def test_each_fault_is_found(rule: str, where: str, break_it: Callable[[onnx.ModelProto], None]) -> None:
    """A fault is reported under its own rule, at its node, with a remedy."""
    model = sound()
    break_it(model)
    findings = lint(model)
    assert any(finding.rule == rule and finding.node == where for finding in findings), findings
    assert all(finding.remedy for finding in findings)


@pytest.mark.parametrize(("transposed", "axis"), [(0, 1), (1, 0)])
def test_the_weight_axis_of_gemm_follows_its_attribute(transposed: int, axis: int) -> None:
    """Gemm's output channels are on axis 1, or on axis 0 if the weight is transposed."""
    model = sound()
    model.graph.node.remove(at(model, "conv"))
    model.graph.node.append(helper.make_node("Gemm", ["xd", "wd", "b"], ["y"], name="gemm", transB=transposed))
    store(model, "w", np.ones((4, 4), np.int8))
    at(model, "wd").attribute[0].i = axis
    del model.graph.input[0].type.tensor_type.shape.dim[2:]
    assert serious(model) == []
    at(model, "wd").attribute[0].i = 1 - axis
    assert [finding.rule for finding in serious(model)] == ["Q06"]


def test_a_finding_says_rule_node_reason_and_remedy() -> None:
    """Its text contains all four."""
    assert str(Finding("Q01", "n", "is wrong", "mend it")) == "Q01 n: is wrong (mend it)"


PARSE = """
import json, sys
import tensorrt_rtx as trt

class Quiet(trt.ILogger):
    def __init__(self):
        super().__init__()
        self.lines = []
    def log(self, severity, text):
        self.lines.append(text)

logger = Quiet()
builder = trt.Builder(logger)
flags = trt.NetworkDefinitionCreationFlag
network = builder.create_network(1 << int(flags.STRONGLY_TYPED))
parser = trt.OnnxParser(network, logger)
found = {"parsed": parser.parse_from_file(sys.argv[1]), "plan": 0}
found["errors"] = [parser.get_error(index).desc() for index in range(parser.num_errors)]
found["outputs"], found["layers"] = network.num_outputs, network.num_layers
kinds = [(network.get_layer(i).type, network.get_layer(i).get_output(0).dtype) for i in range(network.num_layers)]
found["quantize"] = [str(dtype) for kind, dtype in kinds if kind == trt.LayerType.QUANTIZE]
if found["parsed"] and network.num_outputs and "build" in sys.argv:
    config, profile = builder.create_builder_config(), builder.create_optimization_profile()
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        sizes = [[low if size < 0 else size for size in tensor.shape] for low in (1, 4, 8)]
        profile.set_shape(tensor.name, *sizes)
    found["profile"] = config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network, config)
    found["plan"] = 0 if plan is None else plan.nbytes
    found["weights"] = [int(text.split()[-2]) for text in logger.lines if "Total Weights Memory" in text]
print(json.dumps(found))
"""
needs_trt = pytest.mark.skipif(importlib.util.find_spec("tensorrt_rtx") is None, reason="tensorrt-rtx is not installed")


def parse(path: Path, *options: str) -> dict[str, Any]:
    """NVIDIA's verdict, from a separate process, because a bad file may crash it."""
    done = subprocess.run(
        [sys.executable, "-c", PARSE, str(path), *options], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    verdict: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return verdict


class Net(nn.Module):
    """A CNN with enough channels for INT8."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 32, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, 128, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(128, 128, 3),
        )
        self.head = nn.Linear(128, 16)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Scores."""
        return self.head(self.layers(image).mean((2, 3)))


@pytest.mark.trt
@needs_trt
def test_the_parser_of_tensorrt_takes_our_file_and_builds_it(tmp_path: Path) -> None:
    """NVIDIA's parser and builder accept the INT8 file with its dynamic batch; the plan's weights are smaller."""
    from retort.compress.capture.capture_program import capture
    from retort.compress.program import reexport
    from retort.compress.quantization import quantize_program
    from retort.core.data.splits import ArraySplit
    from retort.core.options.stage_options import QuantizeOptions

    torch.manual_seed(0)
    images = np.random.default_rng(0).normal(size=(8, 3, 12, 12)).astype(np.float32)
    program = capture(Net(), {"image": images[:2]})
    done = quantize_program(program, QuantizeOptions(samples=8), ArraySplit({"image": images}), "tensorrt")
    verdicts = []
    for name, item in (("fp32", program), ("int8", done)):
        model = to_onnx(reexport(item), item.signature, "tensorrt")
        assert serious(model) == []
        (tmp_path / f"{name}.onnx").write_bytes(model.SerializeToString())
        verdicts.append(parse(tmp_path / f"{name}.onnx", "build"))
    for verdict in verdicts:
        assert verdict["parsed"], verdict["errors"]
        assert verdict["outputs"] == 1
        assert verdict["plan"] > 0
    assert verdicts[0]["quantize"] == []
    assert len(verdicts[1]["quantize"]) >= 3
    assert set(verdicts[1]["quantize"]) == {"DataType.INT8"}
    assert verdicts[1]["weights"][-1] <= 0.3 * verdicts[0]["weights"][-1]


REFUSED = {"Q01", "Q04", "Q07", "Q12", "Q13", "Q22"}


@pytest.mark.trt
@needs_trt
def test_what_the_parser_of_tensorrt_refuses_is_found_by_lint(tmp_path: Path) -> None:
    """Each fault that NVIDIA's parser rejects has a finding; the sound file passes both."""
    path = tmp_path / "model.onnx"
    path.write_bytes(sound().SerializeToString())
    assert parse(path)["parsed"]
    for rule, _, break_it in FAULTS:
        if rule not in REFUSED - {"Q04", "Q22"}:
            continue
        model = sound()
        break_it(model)
        path.write_bytes(model.SerializeToString())
        assert not parse(path)["parsed"], rule
        assert lint(model), rule


def test_an_fp32_file_has_no_finding() -> None:
    """The rules find nothing in a model without Q/DQ, and its graph is sorted."""
    program = torch.export.export(
        nn.Linear(4, 4).eval(), (torch.randn(3, 4),), dynamic_shapes=({0: torch.export.Dim("b")},)
    )
    spec = [TensorSpec(name, "float32", ("batch", 4)) for name in ("x", "y")]
    assert lint(to_onnx(program, Signature((spec[0],), (spec[1],)), "tensorrt")) == []
