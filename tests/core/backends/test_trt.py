"""The TensorRT session: plans that are rejected before loading, profiles, CUDA graphs per shape, fallback."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from trt_double import Context, Driver, Engine, Kind, Runtime, TensorRT
from trt_plans import DEVICE, SIGNATURE, feeds, machine, plan

from retort.core.backends import trt, trt_reports, trt_versions
from retort.core.backends.cuda import Cuda, driver_fault, find_device
from retort.core.backends.trt_plan import read_plan
from retort.core.backends.trt_versions import load_flavor, same_line
from retort.core.context import Place
from retort.core.errors import ArtifactError, InputError, MachineError
from retort.core.session import SessionOptions, open_session
from retort.core.signature import Signature
from retort.core.tensors import TensorSpec

needs_trt = pytest.mark.skipif(importlib.util.find_spec("tensorrt_rtx") is None, reason="tensorrt-rtx is not installed")


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A machine with one GPU and TensorRT 11.4."""
    return machine(monkeypatch)


def contexts(session: Any) -> list[Any]:
    """The contexts that the session's engine created."""
    engine = session._engine
    assert isinstance(engine, Engine)
    return engine.contexts


def test_a_plan_computes_and_frees_everything(driver: Any, tmp_path: Path) -> None:
    """Outputs are those of the engine at every shape; closing frees all memory."""
    session = open_session(plan(tmp_path))
    for rows in (1, 2, 16, 3, 2, 2, 16, 16):
        np.testing.assert_array_equal(session.run(feeds(rows))["y"], 2 * feeds(rows)["x"])
    assert session.backend == "tensorrt"
    assert session.providers == ("TensorRT 11.4.0.106",)
    session.close()
    session.close()
    assert driver.memory == {}
    assert driver.graphs == {}


def test_each_shape_is_recorded_once_and_launched_from_then_on(driver: Any, tmp_path: Path) -> None:
    """The first call of a shape runs normally, the second records a graph, and later calls launch it."""
    session = open_session(plan(tmp_path))
    for _ in range(4):
        session.run(feeds(2))
    assert driver.calls.count("cuStreamBeginCapture_v2") == 1
    assert driver.calls.count("cuGraphLaunch") == 3
    session.run(feeds(8))
    session.run(feeds(8))
    assert session.recorded() == 2  # type: ignore[attr-defined]
    assert len(contexts(session)) == 2
    np.testing.assert_array_equal(session.run(feeds(2))["y"], 2 * feeds(2)["x"])


def test_without_graphs_nothing_is_recorded(driver: Any, tmp_path: Path) -> None:
    """The option switches recording off."""
    session = open_session(plan(tmp_path), SessionOptions(cuda_graphs=False))
    for _ in range(3):
        session.run(feeds(2))
    assert "cuStreamBeginCapture_v2" not in driver.calls


def test_a_void_recording_falls_back(driver: Any, tmp_path: Path) -> None:
    """A network that cannot be recorded runs as before, and recording is not tried again."""
    driver.void = True
    session = open_session(plan(tmp_path))
    for _ in range(4):
        np.testing.assert_array_equal(session.run(feeds(2))["y"], 2 * feeds(2)["x"])
    assert driver.calls.count("cuStreamBeginCapture_v2") == 1
    assert session.recorded() == 0  # type: ignore[attr-defined]


def test_the_nearest_profile_serves(driver: Any, tmp_path: Path) -> None:
    """Of the profiles that contain a shape, the one with the nearest usual shape is used."""
    session = open_session(plan(tmp_path))
    for rows in (1, 2, 8):
        session.run(feeds(rows))
    assert [context.profile for context in contexts(session)] == [0, 0, 1]


def test_a_shape_outside_all_profiles_is_refused(driver: Any, tmp_path: Path) -> None:
    """The message has the shape and the shapes that the engine supports."""
    session = open_session(plan(tmp_path))
    with pytest.raises(InputError, match=r"no profile of the engine contains x \[17, 4\]") as caught:
        session.run(feeds(17))
    assert "1x4:8x4:16x4" in caught.value.remedy


def test_the_oldest_shape_goes_first(driver: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At most the permitted number of shapes is kept; the oldest is removed first."""
    monkeypatch.setattr(trt, "BUCKETS", 2)
    session = open_session(plan(tmp_path))
    for rows in (16, 16, 8, 8, 4, 4):
        session.run(feeds(rows))
    assert session.recorded() == 2  # type: ignore[attr-defined]
    assert len(driver.graphs) == 2


def test_outputs_of_unknown_size_are_fetched_after_the_run(driver: Any, tmp_path: Path) -> None:
    """Their memory is allocated during the run; such networks are not recorded."""
    session = open_session(plan(tmp_path, b"dynamic"))
    for rows in (1, 4, 2):
        expected = 2 * feeds(rows)["x"]
        np.testing.assert_array_equal(session.run(feeds(rows))["y"], expected[expected > 0])
    assert session.recorded() == 0  # type: ignore[attr-defined]
    session.close()
    assert driver.memory == {}


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"version": "10.3.0"}, "was built by tensorrt 10.3.0; here is 11.4.0.106"),
    ({"device": {**DEVICE, "compute_capability": "8.6"}}, "for compute capability 8.6; Double 9000 has 9.0"),
    ({"device": {**DEVICE, "name": "NVIDIA L4"}}, "was built for NVIDIA L4; here is Double 9000"),
    ({"version": "8.6.1", "version_compatible": True}, "was built by tensorrt 8.6.1"),
    ({"version": "11.5.0", "version_compatible": True}, "was built by tensorrt 11.5.0"),
]


@pytest.mark.parametrize(("built", "reason"), REFUSED)
def test_a_foreign_plan_is_refused_before_it_is_loaded(
    driver: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, built: dict[str, Any], reason: str
) -> None:
    """Version and device are compared first; the message has a one-line reason and the build command."""
    monkeypatch.setattr(Runtime, "deserialize_cuda_engine", lambda *_: pytest.fail("it was loaded"))
    with pytest.raises(ArtifactError, match=reason) as caught:
        open_session(plan(tmp_path, **built))
    assert caught.value.remedy == "build it here: retort engine model.onnx --level 5"


@pytest.mark.parametrize(
    "built",
    [
        {"version": "10.3.0", "version_compatible": True},
        {"hardware": "ampere+", "device": {**DEVICE, "name": "NVIDIA L4", "compute_capability": "8.9"}},
        {"hardware": "same-capability", "device": {**DEVICE, "name": "NVIDIA H100"}},
        {"device": {"name": "", "compute_capability": "", "driver": "", "memory_bytes": 0}},
    ],
)
def test_a_portable_plan_is_taken(driver: Any, tmp_path: Path, built: dict[str, Any]) -> None:
    """A plan that was built to be portable, or ahead of time, runs elsewhere."""
    assert open_session(plan(tmp_path, **built)).run(feeds(1))["y"].shape == (1, 4)


def test_an_altered_or_bare_plan_is_refused(driver: Any, tmp_path: Path) -> None:
    """Bytes that differ from the manifest's, and a plan without a manifest, are not loaded."""
    path = plan(tmp_path)
    path.write_bytes(b"another plan")
    with pytest.raises(ArtifactError, match="altered or truncated"):
        open_session(path)
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(ArtifactError, match="is not the manifest of an engine"):
        open_session(path)
    (tmp_path / "manifest.json").unlink()
    with pytest.raises(ArtifactError, match=r"has no manifest\.json"):
        open_session(path)


def test_what_tensorrt_cannot_load_is_an_error_with_its_reason(driver: Any, tmp_path: Path) -> None:
    """If there is no engine, the error quotes TensorRT's log."""
    with pytest.raises(ArtifactError, match="Magic tag does not match"):
        open_session(plan(tmp_path, b"broken"))


def test_without_a_gpu_no_object_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing driver is detected before TensorRT is used, because its runtime would crash."""
    monkeypatch.setattr(trt_versions, "driver_fault", lambda: "no NVIDIA driver: libcuda.so.1 was not found")
    with pytest.raises(MachineError, match=r"not installed|needs an NVIDIA GPU") as caught:
        open_session(plan(tmp_path))
    assert caught.value.remedy


def test_the_driver_is_asked_without_a_context() -> None:
    """A machine without library, driver or GPU is described; one with a GPU has a name and a capability."""
    assert "libcuda" in str(driver_fault(lambda: None))
    assert driver_fault(lambda: Driver(0)) == "the driver sees no GPU"
    device = find_device(0, lambda: Driver())
    assert device is not None
    assert (device.name, device.compute_capability, device.driver) == ("Double 9000", "9.0", "13.2")


def test_a_failing_call_of_the_driver_is_named() -> None:
    """The message has the call and a remedy."""
    machine = Cuda(0, Driver())
    with pytest.raises(MachineError, match="cuMemFree_v2 failed"):
        machine.free(12345)


def test_an_unknown_runtime_is_refused() -> None:
    """Only known packages can build or run."""
    with pytest.raises(MachineError, match="tensorrt_lean cannot build"):
        load_flavor("build", "tensorrt_lean")
    assert same_line("11.4.0.106", "11.4.0.99")
    assert not same_line("11.4.0", "11.4.1")


@pytest.mark.trt
@needs_trt
def test_the_double_has_only_what_the_real_module_has() -> None:
    """Each name of the double exists in the installed TensorRT-RTX."""
    import tensorrt_rtx

    live = {Runtime: tensorrt_rtx.Runtime, Engine: tensorrt_rtx.ICudaEngine, Context: tensorrt_rtx.IExecutionContext}
    own = {"contexts", "driver", "dynamic"}
    for stand_in, real in live.items():
        names = {name for name in vars(stand_in) if not name.startswith("_")} - own
        assert names <= set(dir(real)), stand_in
    names = {name for name in vars(TensorRT) if not name.startswith("_")} - own
    assert names <= set(dir(tensorrt_rtx))
    assert hasattr(tensorrt_rtx.ExecutionContextAllocationStrategy, "USER_MANAGED")


@pytest.mark.gpu
@pytest.mark.trt
@pytest.mark.parametrize("graphs", [True, False])
def test_a_real_engine_agrees_with_onnx_runtime(tmp_path: Path, graphs: bool) -> None:
    """On a GPU, a plan that is built here agrees with ONNX Runtime at several shapes, recorded or not."""
    if driver_fault() is not None:
        pytest.skip("no GPU")
    from onnx import TensorProto, helper, numpy_helper

    from retort.core.artifact import load_artifact
    from retort.core.options.stage_options import EngineOptions
    from retort.export.trt.stage import build_engine

    weight = numpy_helper.from_array(np.random.default_rng(0).normal(size=(8, 3, 3, 3)).astype(np.float32), "w")
    nodes = [helper.make_node("Conv", ["x", "w"], ["c"], pads=[1] * 4), helper.make_node("Relu", ["c"], ["y"])]
    shapes: list[list[str | int]] = [["batch", 3, 16, 16], ["batch", 8, 16, 16]]
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in zip("xy", shapes)]
    graph = helper.make_graph(nodes, "g", ports[:1], ports[1:], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    made = build_engine(EngineOptions(tf32=False), load_artifact(tmp_path / "m.onnx"), Place(tmp_path / "engine"))
    reference, session = open_session(tmp_path / "m.onnx"), open_session(made.main, SessionOptions(cuda_graphs=graphs))
    for rows in (1, 8, 32, 8, 8, 1):
        x = {"x": np.random.default_rng(rows).normal(size=(rows, 3, 16, 16)).astype(np.float32)}
        np.testing.assert_allclose(session.run(x)["y"], reference.run(x)["y"], rtol=1e-3, atol=1e-4)
    assert (session.recorded() > 0) == graphs  # type: ignore[attr-defined]
    session.close()


def test_tensors_that_numpy_lacks_are_refused(driver: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine with BF16 inputs or outputs is rejected with the command that builds another one."""
    monkeypatch.setattr(Engine, "get_tensor_dtype", lambda *_: Kind("BF16"))
    with pytest.raises(ArtifactError, match="has 'x' in BF16"):
        open_session(plan(tmp_path))


def test_another_engine_than_the_signature_is_refused(
    driver: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names that are not in the signature are reported."""
    monkeypatch.setattr(Engine, "get_tensor_name", lambda self, index: "xz"[index])
    with pytest.raises(ArtifactError, match="tensors that differ from its signature: y, z"):
        open_session(plan(tmp_path))


def test_values_of_shape_tensors_stay_on_the_host(driver: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shape tensor is read from pinned host memory, and each of its values has its own context."""
    monkeypatch.setattr(Engine, "is_shape_inference_io", lambda self, name: name == "n")
    monkeypatch.setattr(Engine, "num_io_tensors", 3)
    monkeypatch.setattr(Engine, "get_tensor_name", lambda self, index: "xyn"[index])
    wider = Signature((*SIGNATURE.inputs, TensorSpec("n", "float32", (2,))), SIGNATURE.outputs)
    path = plan(tmp_path, profiles=[{"x": "1x4:2x4:4x4", "n": "1x1:2x2:4x4"}] * 2, shape_inputs=["n"])
    (tmp_path / "signature.json").write_text(wider.to_json())
    session = open_session(path)
    for value in (1.0, 2.0, 1.0):
        session.run({**feeds(2), "n": np.full(2, value, np.float32)})
    made = contexts(session)
    assert len(made) == 2
    buffer = session._buffers["n"]  # type: ignore[attr-defined]
    assert all(context.places["n"] == buffer.host for context in made)
    assert buffer.device not in {place for context in made for place in context.places.values()}


def test_an_error_that_a_run_survived_is_told(driver: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorRT's error recorder is read after every run; the next run starts without the errors of the one before."""
    session = open_session(plan(tmp_path))
    recorder, execute = session._runtime.error_recorder, Context.execute_async_v3  # type: ignore[attr-defined]

    def reports(self: Any, stream: int) -> bool:
        recorder.report_error(Kind("EXECUTION"), "an illegal memory access")
        recorder.report_error(Kind("EXECUTION"), "another one")
        return bool(execute(self, stream))

    monkeypatch.setattr(Context, "execute_async_v3", reports)
    with pytest.raises(MachineError, match=r"reports an error of a run: an illegal memory access \(and 1 more\)"):
        session.run(feeds(2))
    monkeypatch.setattr(Context, "execute_async_v3", execute)
    np.testing.assert_array_equal(session.run(feeds(2))["y"], 2 * feeds(2)["x"])
    assert recorder.num_errors() == 0
    for _ in range(40):
        recorder.report_error(None, "more")
    assert recorder.has_overflowed()
    assert recorder.num_errors() < 40


@needs_trt
def test_the_error_recorder_is_one_of_tensorrt() -> None:
    """Every method that TensorRT calls is there, and the object can be made from the live base class."""
    import tensorrt_rtx

    recorder = trt_reports.error_recorder(tensorrt_rtx)
    assert isinstance(recorder, tensorrt_rtx.IErrorRecorder)
    own = {name for name in dir(tensorrt_rtx.IErrorRecorder) if not name.startswith("_")} - {"MAX_DESC_LENGTH"}
    assert own <= set(vars(type(recorder)))


@pytest.mark.parametrize(
    ("built", "told"),
    [
        ({"profiles": [{"x": "1x5:2x5:4x5"}]}, r"has a profile 1x5:2x5:4x5 for 'x', but .* has shape \['batch', 4\]"),
        ({"profiles": [{"x": "4x4:2x4:8x4"}]}, "has a profile 4x4:2x4:8x4 for 'x'"),
        ({"profiles": [{"z": "1x4:2x4:4x4"}]}, "for 'z', but its signature has no such input"),
        ({"types": ["FP32", "FP8"], "hardware": "ampere+"}, "computes in FP8, which needs compute capability 8.9"),
        ({"profiles": [{"x": "1x4:2x4:4x4"}]}, "has 2 profiles; its manifest says 1"),
    ],
)
def test_what_the_manifest_says_must_fit(driver: Any, tmp_path: Path, built: Any, told: str, monkeypatch: Any) -> None:
    """Profiles and precision are checked before TensorRT reads the plan, their number when it has read it."""
    monkeypatch.setattr(
        Driver,
        "_cuDeviceGetAttribute",
        lambda self, value, which, device: setattr(value._obj, "value", 8 if which == 75 else 0),
    )
    asked: list[bytes] = []

    def read(self: Any, content: bytes) -> Engine:
        asked.append(content)
        return Engine(driver, False)

    monkeypatch.setattr(Runtime, "deserialize_cuda_engine", read)
    device = {**DEVICE, "compute_capability": "8.0"}
    with pytest.raises(ArtifactError, match=told):
        open_session(plan(tmp_path, **{"device": device, **built}))
    assert bool(asked) == ("manifest says" in told)


def test_the_largest_batch_has_no_gap_below_it(tmp_path: Path) -> None:
    """Sizes that follow each other from 1 on count, in whatever order the profiles are."""
    for profiles, largest in (
        (["1x4:1x4:2x4", "1x4:8x4:16x4"], 16),
        (["8x4:8x4:16x4", "1x4:2x4:4x4"], 4),
        (["5x4:8x4:16x4", "1x4:2x4:4x4"], 16),
        (["2x4:2x4:4x4"], 0),
    ):
        found = read_plan(plan(tmp_path, profiles=[{"x": text} for text in profiles]))
        assert found.largest_batch == largest
