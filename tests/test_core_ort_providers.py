"""ONNX Runtime's other providers: chosen explicitly, and refused when they do not really run the model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from retort.__main__ import main
from retort.core.backends.ort import placement
from retort.core.errors import MachineError
from retort.core.options import BenchOptions
from retort.core.session import PROVIDERS, SessionOptions, open_session
from retort.measuring import session_options

IDLE = "AzureExecutionProvider"
needs_idle = pytest.mark.skipif(IDLE not in onnxruntime.get_available_providers(), reason=f"no {IDLE} here")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A product and a ReLU."""
    nodes = [helper.make_node("MatMul", ["x", "w"], ["m"]), helper.make_node("Relu", ["m"], ["y"])]
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 4]) for name in "xy"]
    weight = numpy_helper.from_array(np.eye(4, dtype=np.float32), "w")
    graph = helper.make_graph(nodes, "g", ports[:1], ports[1:], [weight])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    (tmp_path / "model.onnx").write_bytes(made.SerializeToString())
    return tmp_path / "model.onnx"


@needs_idle
def test_a_provider_that_runs_nothing_is_refused(model: Path) -> None:
    """A provider that is listed but takes no node would mean a silent run on the CPU."""
    with pytest.raises(MachineError, match=rf"does not run on {IDLE} as asked") as caught:
        open_session(model, SessionOptions(providers=(IDLE, "CPUExecutionProvider")))
    assert caught.value.facts["nodes"] == {"CPUExecutionProvider": 2}
    assert "nodes per provider: CPUExecutionProvider 2" in caught.value.remedy


@pytest.mark.parametrize("name", ["CUDAExecutionProvider", "TensorrtExecutionProvider"])
def test_a_provider_that_is_not_installed_is_refused(model: Path, name: str) -> None:
    """The provider's name and what there is instead stand in the message."""
    if name in onnxruntime.get_available_providers():
        pytest.skip("it is installed")
    with pytest.raises(MachineError, match=f"has no {name}; it has"):
        open_session(model, SessionOptions(providers=(name,)))


def test_operators_are_counted_by_provider(model: Path) -> None:
    """ONNX Runtime says which provider runs which operator."""
    settings = onnxruntime.SessionOptions()
    settings.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    inner = onnxruntime.InferenceSession(str(model), settings, providers=["CPUExecutionProvider"])
    assert placement(inner) == {"CPUExecutionProvider": ["MatMul", "Relu"]}


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["CUDAExecutionProvider", "TensorrtExecutionProvider"])
def test_a_gpu_provider_agrees_with_the_cpu(model: Path, name: str) -> None:
    """On a GPU: the provider runs the model and gives the CPU's numbers."""
    if name not in onnxruntime.get_available_providers():
        pytest.skip(f"no {name} here")
    x = {"x": np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)}
    session = open_session(model, SessionOptions(providers=(name, "CPUExecutionProvider")))
    np.testing.assert_allclose(session.run(x)["y"], open_session(model).run(x)["y"], rtol=1e-3)


def test_predict_asks_for_a_provider_by_name(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`retort predict --provider cuda` never runs on the CPU instead: it runs there or says why not."""
    np.save(tmp_path / "x.npy", np.zeros((1, 4), np.float32))
    arguments = ["predict", str(model), "--input", str(tmp_path / "x.npy")]
    with pytest.raises(SystemExit) as caught:
        main([*arguments, "--provider", "cuda"])
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        assert caught.value.code == 7
        assert "no CUDAExecutionProvider" in capsys.readouterr().err
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert not caught.value.code


@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_bench_times_a_provider_or_says_why_not(
    provider: str, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`retort bench --provider` and the recipe's key never time the CPU under another name."""
    name = PROVIDERS[provider][0]
    assert session_options(BenchOptions.model_validate({"provider": provider})).providers[0] == name
    if name in onnxruntime.get_available_providers():
        pytest.skip("it is installed")
    np.savez(tmp_path / "data.npz", x=np.zeros((8, 4), np.float32))
    with pytest.raises(SystemExit) as caught:
        main(["bench", str(model), "--data", str(tmp_path / "data.npz"), "--provider", provider])
    assert caught.value.code == 7
    assert f"no {name}; it has" in capsys.readouterr().err


def test_a_program_is_not_run_by_a_provider_of_another_runtime(tmp_path: Path) -> None:
    """PyTorch has no TensorRT provider: asked for it, a program is refused instead of run on the CPU."""
    with pytest.raises(MachineError, match=r"net\.pt2 is a program: TensorrtExecutionProvider .* does not run it"):
        (tmp_path / "net.pt2").touch()
        open_session(tmp_path / "net.pt2", SessionOptions(providers=PROVIDERS["tensorrt"]))
