"""ONNX Runtime's other providers are chosen explicitly, and rejected if they do not run the model."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from ort_double import Runtime

from retort.__main__ import main
from retort.benchmarks.sessions import session_options
from retort.core.backends import ort
from retort.core.backends.ort import placement
from retort.core.errors import InputError, MachineError, StorageError, UserError
from retort.core.options.stage_options import BenchOptions
from retort.core.session import PROVIDERS, SessionOptions, open_session

CUDA = "CUDAExecutionProvider"
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
    """A provider that is listed but runs no node would silently mean the CPU."""
    with pytest.raises(MachineError, match=rf"does not run on {IDLE} as requested") as caught:
        open_session(model, SessionOptions(providers=(IDLE, "CPUExecutionProvider")))
    assert caught.value.facts["nodes"] == {"CPUExecutionProvider": 2}
    assert "nodes per provider: CPUExecutionProvider 2" in caught.value.remedy


@pytest.mark.parametrize("name", ["CUDAExecutionProvider", "TensorrtExecutionProvider"])
def test_a_provider_that_is_not_installed_is_refused(model: Path, name: str) -> None:
    """The message has the provider's name and the available ones."""
    if name in onnxruntime.get_available_providers():
        pytest.skip("it is installed")
    with pytest.raises(MachineError, match=f"has no {name}; it has"):
        open_session(model, SessionOptions(providers=(name,)))


def test_operators_are_counted_by_provider(model: Path) -> None:
    """ONNX Runtime reports which provider runs which operator."""
    settings = onnxruntime.SessionOptions()
    settings.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    inner = onnxruntime.InferenceSession(str(model), settings, providers=["CPUExecutionProvider"])
    assert placement(inner) == {"CPUExecutionProvider": ["MatMul", "Relu"]}


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["CUDAExecutionProvider", "TensorrtExecutionProvider"])
def test_a_gpu_provider_agrees_with_the_cpu(model: Path, name: str) -> None:
    """On a GPU, the provider runs the model and agrees with the CPU."""
    if name not in onnxruntime.get_available_providers():
        pytest.skip(f"no {name} here")
    x = {"x": np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)}
    session = open_session(model, SessionOptions(providers=(name, "CPUExecutionProvider")))
    np.testing.assert_allclose(session.run(x)["y"], open_session(model).run(x)["y"], rtol=1e-3)


def test_predict_asks_for_a_provider_by_name(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`retort predict --provider cuda` never uses the CPU instead: it uses CUDA or reports the reason."""
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
    """PyTorch has no TensorRT provider: a program with this provider is rejected and not run on the CPU."""
    (tmp_path / "net.pt2").touch()
    for provider in ("tensorrt", "openvino"):
        with pytest.raises(MachineError, match=rf"net\.pt2 is a program: {PROVIDERS[provider][0]} does not run it"):
            open_session(tmp_path / "net.pt2", SessionOptions(providers=PROVIDERS[provider]))


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Runtime:
    """An ONNX Runtime that runs everything on TensorRT, with a temporary cache folder."""
    made = Runtime({"TensorrtExecutionProvider": ["MatMul", "Relu"]})
    monkeypatch.setattr(ort, "_runtime", lambda: made)
    monkeypatch.setenv("RETORT_CACHE", str(tmp_path / "cache"))
    return made


def _on_tensorrt(**given: Any) -> SessionOptions:
    return SessionOptions(providers=PROVIDERS["tensorrt"], **given)


def test_tensorrt_gets_its_profile_and_its_cache(model: Path, runtime: Runtime, tmp_path: Path) -> None:
    """All three shapes come from the signature; engines are stored under the model's hash."""
    open_session(model, _on_tensorrt())
    names, (given, *others) = runtime.asked[-1]
    assert tuple(names) == PROVIDERS["tensorrt"]
    assert [given[f"trt_profile_{end}_shapes"] for end in ("min", "opt", "max")] == ["x:1x4", "x:8x4", "x:64x4"]
    assert given["trt_engine_cache_enable"] == given["trt_timing_cache_enable"] == "1"
    assert Path(given["trt_engine_cache_path"]) == (tmp_path / "cache" / "engines").resolve()
    assert given["trt_engine_cache_prefix"] == f"retort-{hashlib.sha256(model.read_bytes()).hexdigest()[:16]}"
    assert "trt_int8_enable" not in given
    assert others == [{"device_id": "0"}, {}]
    open_session(model, _on_tensorrt(device=2))
    assert [one.get("device_id") for one in runtime.asked[-1][1]] == ["2", "2", None]


def test_ranges_and_options_may_be_given(model: Path, runtime: Runtime) -> None:
    """A range by the axis' name, no cache, and options of the provider, which override derived ones."""
    options = {"TensorrtExecutionProvider": {"trt_fp16_enable": "1"}}
    session = open_session(
        model, _on_tensorrt(ranges={"batch": (2, 4, 6)}, engine_cache="off", provider_options=options)
    )
    given = runtime.asked[-1][1][0]
    assert given == {
        "device_id": "0",
        "trt_fp16_enable": "1",
        **{f"trt_profile_{end}_shapes": f"x:{size}x4" for end, size in (("min", 2), ("opt", 4), ("max", 6))},
    }
    assert session.run({"x": np.ones((4, 4), np.float32)})["y"].shape == (4, 4)
    with pytest.raises(InputError, match="axis 'batch' of input 'x' is 7, outside the engine's 2 to 6") as caught:
        session.run({"x": np.ones((7, 4), np.float32)})
    assert "--axis batch=2:7:7" in caught.value.remedy
    own = {"TensorrtExecutionProvider": {f"trt_profile_{end}_shapes": "x:3x4" for end in ("min", "opt", "max")}}
    open_session(model, _on_tensorrt(provider_options=own, engine_cache="off"))
    assert runtime.asked[-1][1][0] == {"device_id": "0"} | own["TensorrtExecutionProvider"]


def test_every_dynamic_axis_needs_a_range(tmp_path: Path, runtime: Runtime) -> None:
    """Only the batch has a default range; unknown names, wrong order and sizes between steps are reported."""
    port = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", "2*height"])
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", "2*height"])
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [port], [out])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9).SerializeToString()
    for ranges, message in (
        ({}, r"needs a range for the dynamic axis '2\*height'"),
        ({"width": (1, 2, 3)}, r"no dynamic axis 'width'; its dynamic axes are batch, 2\*height"),
        ({"2*height": (8, 4, 16)}, "8:4:16 is not smallest:usual:largest"),
        ({"2*height": (2, 3, 4)}, "takes multiples of 2, not 3"),
    ):
        with pytest.raises(UserError, match=message):
            open_session(made, _on_tensorrt(ranges=ranges))
    open_session(made, _on_tensorrt(ranges={"2*height": (2, 4, 8)}))
    assert runtime.asked[-1][1][0]["trt_profile_opt_shapes"] == "x:8x4"


def test_quantized_files_and_their_side_files_are_seen(model: Path, runtime: Runtime) -> None:
    """Q/DQ enables INT8, and other external weights give another engine."""
    made = onnx.load(model)
    made.graph.node[1].op_type = "QuantizeLinear"
    made.graph.node[1].input.extend(["scale", "zero"])
    made.graph.initializer.extend(
        [
            numpy_helper.from_array(np.array(1, np.float32), "scale"),
            numpy_helper.from_array(np.array(0, np.int8), "zero"),
        ]
    )
    made.graph.output[0].type.tensor_type.elem_type = TensorProto.INT8
    path = model.with_name("apart.onnx")
    onnx.save(made, path, save_as_external_data=True, location="apart.data", size_threshold=0)
    open_session(path, _on_tensorrt())
    first = runtime.asked[-1][1][0]
    assert first["trt_int8_enable"] == "1"
    weights = path.with_name("apart.data")
    weights.write_bytes(bytes(len(weights.read_bytes())))
    open_session(path, _on_tensorrt())
    assert runtime.asked[-1][1][0]["trt_engine_cache_prefix"] != first["trt_engine_cache_prefix"]


def test_engines_need_a_folder(model: Path, runtime: Runtime, tmp_path: Path) -> None:
    """A folder that is not writable is rejected before anything is built, with a remedy."""
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="cannot be written") as caught:
        open_session(model, _on_tensorrt(engine_cache=str(tmp_path / "file" / "engines")))
    assert "--engine-cache off" in caught.value.remedy


def test_heavy_nodes_elsewhere_are_no_run_on_tensorrt(model: Path, runtime: Runtime) -> None:
    """A product that runs on CUDA is rejected with the counts, and so is a provider that runs nothing."""
    runtime.placed = {"TensorrtExecutionProvider": ["Relu"], "CUDAExecutionProvider": ["MatMul"]}
    with pytest.raises(MachineError, match=r"1 of its heavy nodes run on CUDAExecutionProvider \(MatMul\)"):
        open_session(model, _on_tensorrt())
    runtime.placed = {"CUDAExecutionProvider": ["MatMul", "Relu"]}
    with pytest.raises(MachineError, match="it runs no node there"):
        open_session(model, _on_tensorrt())


@pytest.mark.parametrize(
    ("text", "told", "remedy"),
    [
        (
            "cuda_call.cc:129 CUDA failure 101: invalid device ordinal ; GPU=3 ; x",
            "CUDA failure 101: invalid",
            "nvidia",
        ),
        ("FAIL : CUDNN failure 1001: CUDNN_STATUS_NOT_INITIALIZED ; GPU=0", "CUDNN failure 1001: CUDNN_S", "nvidia"),
        ("EP_FAIL : TensorRT EP could not deserialize engine from cache: e", "TensorRT EP could not deser", "engines`"),
    ],
)
def test_a_provider_that_fails_says_why(
    text: str, told: str, remedy: str, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ONNX Runtime would print the reason and take the CPU; a session is refused with the reason instead."""

    class Failing(onnxruntime.InferenceSession):  # type: ignore[misc]
        def _create_inference_session(self, providers: Any, *rest: Any) -> None:
            if CUDA in providers:
                self._fallback_providers = ["CPUExecutionProvider"]
                raise RuntimeError(text)
            super()._create_inference_session(providers, *rest)

    made = Runtime({CUDA: ["MatMul"]})
    assert Failing(str(model), providers=[CUDA]).get_providers() == ["CPUExecutionProvider"]
    monkeypatch.setattr(made, "InferenceSession", Failing)
    monkeypatch.setattr(ort, "_runtime", lambda: made)
    with pytest.raises(MachineError, match=f"on the GPU: {told}") as caught:
        open_session(model, SessionOptions(providers=(CUDA,)))
    assert remedy in caught.value.remedy


def test_bench_hands_ranges_and_options_on() -> None:
    """The profile contains the sizes of timing and of accuracy; options without a provider are rejected."""
    made = session_options(
        BenchOptions(
            provider="tensorrt",
            batch_sizes=(1, 128),
            axis=("sequence=8:64:128",),
            provider_option=("trt_fp16_enable=1",),
            engine_cache="off",
        )
    )
    assert made.ranges == {"batch": (1, 128, 128), "sequence": (8, 64, 128)}
    assert made.provider_options == {"TensorrtExecutionProvider": {"trt_fp16_enable": "1"}}
    assert made.engine_cache == "off"
    for given in ({"provider_option": ("a=1",)}, {"provider": "cuda", "provider_option": ("fast",)}):
        with pytest.raises(UserError, match="cannot be given to the provider"):
            session_options(BenchOptions.model_validate(given))


def test_integer_products_are_exact_on_every_processor(tmp_path: Path) -> None:
    """The largest UINT8 codes times the largest INT8 weights are exact; 16-bit kernels would saturate."""
    codes, weights = np.full((2, 64), 255, np.uint8), np.full((64, 16), 127, np.int8)
    nodes = [
        onnx.helper.make_node("DequantizeLinear", ["x", "one", "zero"], ["xd"]),
        onnx.helper.make_node("DequantizeLinear", ["w", "one"], ["wd"]),
        onnx.helper.make_node("MatMul", ["xd", "wd"], ["y"]),
        onnx.helper.make_node("QuantizeLinear", ["y", "large", "zero"], ["q"]),
        onnx.helper.make_node("DequantizeLinear", ["q", "large", "zero"], ["out"]),
    ]
    large = 255 * 127 * 64 / 200
    held = {"one": np.float32(1), "zero": np.uint8(0), "w": weights, "large": np.float32(large)}
    graph = onnx.helper.make_graph(
        nodes,
        "saturating",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.UINT8, ["batch", 64])],
        [onnx.helper.make_tensor_value_info("out", onnx.TensorProto.FLOAT, ["batch", 16])],
        [onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in held.items()],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 21)], ir_version=10)
    found = open_session(model.SerializeToString()).run({"x": codes})["out"]
    np.testing.assert_allclose(found, 255 * 127 * 64, rtol=1e-6)


@pytest.mark.parametrize(
    ("flags", "asked"), [("sse2 avx2", True), ("avx2 avx512_vnni", False), ("avx2 avx_vnni", False), (None, True)]
)
def test_exact_products_are_requested_only_without_vnni(
    flags: str | None, asked: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With VNNI products are exact, and the request would make them slower; an unknown processor gets the request."""
    source = tmp_path / "cpuinfo"
    if flags is not None:
        source.write_text(f"model name\t: x\nflags\t\t: {flags}\nvmx flags\t: vnmi\n" * 2)
    monkeypatch.setattr(ort, "CPU_INFO", source)
    settings = ort.exact_settings(onnxruntime)
    if asked:
        assert settings.get_session_config_entry("session.x64quantprecision") == "1"
    else:
        with pytest.raises(RuntimeError, match="config"):
            settings.get_session_config_entry("session.x64quantprecision")


def test_a_weight_that_two_products_share_is_opened(tmp_path: Path) -> None:
    """If nodes share an INT8 weight, ONNX Runtime cannot make products exact; the file still runs."""
    held = {"one": np.float32(1), "zero": np.uint8(0), "w": np.full((8, 8), 3, np.int8), "large": np.float32(4)}
    nodes = [helper.make_node("DequantizeLinear", ["x", "one", "zero"], ["xd"])]
    for side in "ab":
        nodes += [
            helper.make_node("DequantizeLinear", ["w", "one"], [f"wd{side}"]),
            helper.make_node("MatMul", ["xd", f"wd{side}"], [f"y{side}"]),
            helper.make_node("QuantizeLinear", [f"y{side}", "large", "zero"], [f"q{side}"]),
            helper.make_node("DequantizeLinear", [f"q{side}", "large", "zero"], [f"out{side}"]),
        ]
    ports = [helper.make_tensor_value_info("x", TensorProto.UINT8, ["batch", 8])]
    ports += [helper.make_tensor_value_info(f"out{side}", TensorProto.FLOAT, ["batch", 8]) for side in "ab"]
    stored = [numpy_helper.from_array(np.asarray(value), name) for name, value in held.items()]
    graph = helper.make_graph(nodes, "shared", ports[:1], ports[1:], stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    found = open_session(model.SerializeToString()).run({"x": np.ones((2, 8), np.uint8)})
    np.testing.assert_array_equal(found["outa"], np.full((2, 8), 24, np.float32))
    np.testing.assert_array_equal(found["outb"], found["outa"])
