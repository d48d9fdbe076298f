"""FP16 and BF16: selected by real samples, verified in ONNX Runtime, accepted by TensorRT's parser, also with INT8."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import graph_generator as graphs
import numpy as np
import onnx
import pytest
import torch
from known import known, typed
from onnx import TensorProto, helper, numpy_helper
from torch import nn
from trt_oracle import Oracle

from retort.compress.capture.capture_program import capture
from retort.compress.program import save_program
from retort.compress.quantization import quantize_program
from retort.core.artifact import load_artifact
from retort.core.context import Place
from retort.core.data.splits import ArraySplit
from retort.core.errors import UserError, VerificationError
from retort.core.facts.export_facts import ExportFacts
from retort.core.options.stage_options import EngineOptions, ExportOptions, QuantizeOptions
from retort.core.session import open_session
from retort.export import stage
from retort.export.files import graph_signature
from retort.export.half_precision.check import ACCEPTED, half_errors, require_close
from retort.export.half_precision.convert import to_half
from retort.export.lint import lint
from retort.export.lint.change import random_feeds
from retort.export.lint.graph_view import View
from retort.export.trt.stage import build_engine

Array = np.ndarray[Any, Any]
needs_trt = pytest.mark.skipif(importlib.util.find_spec("tensorrt_rtx") is None, reason="tensorrt-rtx is not installed")


def chain(scale: float = 1.0, weight: float = 1.0, opset: int = 22) -> onnx.ModelProto:
    """Multiply, ReLU, Softmax, multiply; the values between them grow with ``scale``."""
    values = {
        "a": np.eye(8, dtype=np.float32) * weight,
        "k": np.float32(scale),
        "b": np.full((8, 4), 0.25, np.float32),
    }
    nodes = [
        helper.make_node("MatMul", ["x", "a"], ["m"], name="first"),
        helper.make_node("Mul", ["m", "k"], ["g"], name="grow"),
        helper.make_node("Relu", ["g"], ["r"], name="relu"),
        helper.make_node("Softmax", ["r"], ["s"], name="softmax"),
        helper.make_node("MatMul", ["s", "b"], ["y"], name="last"),
    ]
    ports = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", size]) for n, size in (("x", 8), ("y", 4))]
    stored = [numpy_helper.from_array(np.asarray(array), name) for name, array in values.items()]
    graph = helper.make_graph(nodes, "chain", ports[:1], ports[1:], stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def converted(model: onnx.ModelProto, precision: Any = "fp16", **options: Any) -> tuple[onnx.ModelProto, Any]:
    """A model in half precision on random samples."""
    signature = graph_signature(model, Path("x"))
    return to_half(model, precision, signature, random_feeds(signature), **options)


def kinds(model: onnx.ModelProto) -> dict[str, int]:
    """Element type of each node's first output, by node."""
    view = View(model)
    return {node.name: view.type_of(node.output[0]) for node in model.graph.node}


def test_safe_nodes_go_to_half_and_ports_stay() -> None:
    """Multiplications compute in FP16, Softmax in FP32, inputs and outputs stay FP32, two casts at each border."""
    made, report = converted(chain())
    types = kinds(made)
    assert {types[name] for name in ("first", "grow", "relu", "last")} == {TensorProto.FLOAT16}
    assert types["softmax"] == TensorProto.FLOAT
    assert report.kept == {"softmax": "Softmax is computed in FP32"}
    assert report.casts == 4
    assert [value.type.tensor_type.elem_type for value in (*made.graph.input, *made.graph.output)] == [1, 1]
    onnx.checker.check_model(made, full_check=True)


def test_ports_may_be_half() -> None:
    """Without casts at the inputs and outputs, the file reads and writes FP16."""
    made, report = converted(chain(), keep_io=False)
    ports = [value.type.tensor_type.elem_type for value in (*made.graph.input, *made.graph.output)]
    assert ports == [TensorProto.FLOAT16] * 2
    assert report.casts == 2


def test_large_values_stay_in_fp32() -> None:
    """If samples have values near the limit of FP16, the node stays in FP32 with the reason."""
    _, report = converted(chain(scale=1e5))
    assert {"grow", "relu"} <= set(report.kept)
    assert "reaches" in report.kept["grow"]
    assert report.half == ["last"] or "first" in report.half
    _, wide = converted(chain(scale=1e5), "bf16")
    assert {"grow", "relu"} <= set(wide.half)


def test_weights_outside_the_range_stay_in_fp32() -> None:
    """A constant that FP16 cannot represent, or would round to zero, keeps its node in FP32."""
    assert "reaches 1e+05" in converted(chain(weight=1e5), largest=1e9)[1].kept["first"]
    assert "too small for FP16" in converted(chain(weight=1e-8))[1].kept["first"]


def test_patterns_are_excluded() -> None:
    """Nodes whose names match a pattern stay in FP32."""
    assert converted(chain(), exclude=("la*",))[1].kept["last"] == "excluded"


def test_an_old_opset_is_refused_with_the_one_needed() -> None:
    """BF16 needs opset 22 in most operators."""
    with pytest.raises(UserError, match="bf16 needs opset 22 here, the file has 20") as caught:
        converted(chain(opset=20), "bf16")
    assert "--opset 22" in caught.value.remedy


def test_a_large_error_is_rejected() -> None:
    """The message has the output and its error."""
    with pytest.raises(VerificationError, match=r"the error of output 'y' is 5\.0e-02"):
        require_close({"y": 0.05}, "fp16")
    require_close({"y": 0.05}, "bf16")


@pytest.mark.trt
@needs_trt
@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_generated_graphs_convert(precision: str) -> None:
    """Graphs of all kinds, with and without INT8, are converted, pass lint and parser, and stay close."""
    oracle, done = Oracle(), 0
    for seed in range(60):
        graph = graphs.generate(seed)
        if graph.half or graph.opset < (19 if precision == "fp16" else 22):
            continue
        model = graph.model()
        made, report = converted(model, precision)
        assert report.half
        assert [str(item) for item in lint(made) if item.verdict != "advice"] == []
        answer = oracle.ask(made.SerializeToString())
        assert answer["parsed"], (seed, answer)
        errors = half_errors(model, made, random_feeds(graph_signature(model, Path("x"))))
        require_close(errors, precision, 0.15 if graph.int8 else ACCEPTED[precision])
        done += 1
    oracle.close()
    assert done >= 8


class Reader(nn.Module):
    """A recurrent layer with one direction after a layer in half precision."""

    def __init__(self, kind: Callable[..., nn.Module]) -> None:
        super().__init__()
        self.first, self.layer, self.out = nn.Linear(6, 16), kind(16, 24, batch_first=True), nn.Linear(24, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Scores."""
        result: torch.Tensor = self.out(self.layer(self.first(x))[0].mean(1))
        return result


@pytest.mark.trt
@needs_trt
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_a_recurrent_layer_among_fp16_is_built(tmp_path: Path, kind: Callable[..., nn.Module]) -> None:
    """A recurrent layer stays in FP32, and TensorRT builds it although it reads values from half precision."""
    torch.manual_seed(0)
    data = {"x": np.random.default_rng(0).normal(size=(8, 12, 6)).astype(np.float32)}
    program = capture(Reader(kind).eval(), {"x": torch.from_numpy(data["x"][:2])})
    save_program(program, tmp_path / "program.pt2")
    options = ExportOptions(precision="fp16")
    graph = stage.write_graph(
        options.model_copy(update={"target": "tensorrt"}),
        load_artifact(tmp_path / "program.pt2"),
        Place(tmp_path / "g"),
        data,
    )
    assert any(f"{kind.__name__} is computed in FP32" == reason for reason in graph.facts["half"]["kept_fp32"].values())
    made = build_engine(EngineOptions(batch_sizes=(1, 4), timing_cache="off"), graph, Place(tmp_path / "engine"))
    assert made.facts["plan_bytes"] > 0


def test_int8_and_fp16_work_together() -> None:
    """Around INT8 nodes, everything else is FP16, scales too, so that the outputs of DequantizeLinear are FP16."""
    graph = next(g for g in map(graphs.generate, range(100)) if g.int8 and not g.half and g.opset >= 19)
    made, _ = converted(graph.model())
    view = View(made)
    heavy = [node for node in made.graph.node if node.op_type in ("Conv", "Gemm", "MatMul")]
    assert heavy
    for node in heavy:
        assert {view.type_of(name) for name in node.input} in ({TensorProto.FLOAT16}, {TensorProto.FLOAT})
    assert any(view.type_of(node.output[0]) == TensorProto.FLOAT16 for node in heavy)


class Net(nn.Module):
    """A CNN."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU()
        )
        self.head = nn.Linear(16, 6)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Scores."""
        return self.head(self.layers(image).mean((2, 3)))


@pytest.fixture(scope="module")
def samples() -> dict[str, Array]:
    """Inputs."""
    return {"image": np.random.default_rng(0).normal(size=(8, 3, 8, 8)).astype(np.float32)}


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory, samples: dict[str, Array]) -> dict[str, Path]:
    """A program and its INT8 form for TensorRT."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("programs")
    program = capture(Net(), {"image": samples["image"][:2]})
    done = quantize_program(program, QuantizeOptions(samples=8), ArraySplit(samples), "tensorrt")
    save_program(program, folder / "fp32.pt2")
    save_program(done, folder / "int8.pt2")
    return {name: folder / f"{name}.pt2" for name in ("fp32", "int8")}


@pytest.mark.parametrize(("program", "precision"), [("fp32", "fp16"), ("fp32", "bf16"), ("int8", "fp16")])
def test_the_export_stage_writes_half(
    tmp_path: Path, programs: dict[str, Path], samples: dict[str, Array], program: str, precision: Any
) -> None:
    """`precision` of the export stage: parity with PyTorch, golden vectors, and facts about FP32 nodes."""
    options = ExportOptions(precision=precision)
    made = stage.write_graph(
        options.model_copy(update={"target": "tensorrt"}),
        load_artifact(programs[program]),
        Place(tmp_path / "g"),
        samples,
    )
    facts = typed(made, ExportFacts)
    assert facts.precision == precision
    assert known(facts.half).half_nodes >= 4
    wanted = TensorProto.BFLOAT16 if precision == "bf16" else TensorProto.FLOAT16
    model = onnx.load(str(made.main))
    types = View(model).types
    assert all(types[n.output[0]] == wanted for n in model.graph.node if n.op_type in ("Conv", "Gemm", "MatMul"))
    assert np.load(made.file("golden.npz"))["out.output"].shape == (4, 6)


def test_half_ports_reach_the_session(tmp_path: Path, programs: dict[str, Path], samples: dict[str, Array]) -> None:
    """With FP16 inputs and outputs, the signature states so, and a session accepts FP32 feeds anyway."""
    options = ExportOptions(precision="fp16", half_io=True)
    made = stage.write_graph(
        options.model_copy(update={"target": "tensorrt"}),
        load_artifact(programs["fp32"]),
        Place(tmp_path / "g"),
        samples,
    )
    session = open_session(made.main)
    assert session.signature.inputs[0].dtype == "float16"
    assert session.run({"image": samples["image"][:3]})["output"].dtype == np.float16
    assert json.loads(made.file("signature.json").read_text())["outputs"][0]["dtype"] == "float16"


def test_bf16_is_not_for_a_cpu(tmp_path: Path, programs: dict[str, Path], samples: dict[str, Array]) -> None:
    """ONNX Runtime has no BF16 kernels for the CPU, which is reported at once."""
    with pytest.raises(UserError, match="no BF16 kernels"):
        stage.write_graph(
            ExportOptions(precision="bf16"), load_artifact(programs["fp32"]), Place(tmp_path / "g"), samples
        )
