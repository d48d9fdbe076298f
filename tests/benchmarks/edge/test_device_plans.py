"""TensorRT plans on a device: what travels, what is refused before anything is sent, and runs on a strict double."""

from __future__ import annotations

import ctypes
import gc
import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import strict_gpu
from edge_devices import QUICK
from onnx import helper, numpy_helper
from trt_plans import SIGNATURE, plan

from retort.__main__ import main
from retort.benchmarks.edge.device_bundle import write_device_bundle
from retort.benchmarks.edge.device_readiness import look
from retort.benchmarks.edge.device_runtimes import misfits_of_plan
from retort.benchmarks.edge.runner import plans
from retort.benchmarks.edge.runner.models import Model
from retort.benchmarks.edge.ssh import Device
from retort.core.artifact import Artifact, load_artifact
from retort.core.backends.cuda import driver_fault
from retort.core.console import SILENT
from retort.core.context import Place
from retort.core.data.splits import ArraySplit, Splits
from retort.core.errors import ArtifactError, UserError
from retort.core.options.edge_options import EdgeOptions

HERE = Path(__file__).resolve().parents[2]
READY = {
    "python": "3.10.12", "new": True, "machine": "aarch64", "bits": "64bit", "libc": "glibc 2.35", "system": "Linux",
    "numpy": "1.26", "onnxruntime": "1.23", "free": 10 << 30, "available": 4 << 30, "executable": "/usr/bin/python3",
    "tensorrt": "11.4.0", "gpu": {"name": "Double 9000", "compute_capability": "9.0"},
}  # fmt: skip


def samples(rows: int = 30) -> Splits:
    """Samples of four numbers, and classes."""
    draw = np.random.default_rng(0)
    split = ArraySplit({"x": draw.normal(size=(rows, 4)).astype(np.float32)}, draw.integers(0, 4, rows))
    return Splits(split, split, split, split, ("a", "b", "c", "d"))


def doubling(path: Path) -> Artifact:
    """An ONNX file that computes what the plans of the double compute."""
    ports = [helper.make_tensor_value_info(name, 1, ["batch", 4]) for name in "xy"]
    two = numpy_helper.from_array(np.array(2, np.float32), "two")
    graph = helper.make_graph([helper.make_node("Mul", ["x", "two"], ["y"])], "g", ports[:1], ports[1:], [two])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return load_artifact(path)


def bundled(folder: Path, models: dict[str, Artifact], **options: Any) -> dict[str, Any]:
    """The manifest of a bundle."""
    made = write_device_bundle(models, samples(), EdgeOptions(**{**QUICK, **options}), Place(folder), SILENT)
    found: dict[str, Any] = json.loads((made.path / "edge.json").read_text())
    return found


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[strict_gpu.Driver]:
    """The strict GPU in this process, on which nothing is left at the end."""
    driver = strict_gpu.Driver()
    monkeypatch.setattr(strict_gpu, "driver", driver)
    monkeypatch.setitem(sys.modules, "tensorrt", strict_gpu)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: {"libcuda.so.1": driver}[name])
    for cached in (plans.cuda, plans.logger):
        cached.cache_clear()
    yield driver
    for cached in (plans.cuda, plans.logger):
        cached.cache_clear()
    gc.collect()
    assert (driver.memory, driver.streams) == ({}, {})


def candidate(folder: Path, content: bytes = b"a plan", **built: Any) -> dict[str, Any]:
    """The entry of a plan, whose file is in the folder."""
    path = plan(folder / "engine", content, **built)
    (entry,) = bundled(folder / "bundle", {"net": load_artifact(path)})["candidates"]
    (folder / "bundle" / entry["file"]).write_bytes(content)
    return dict(entry)


def test_a_plan_runs_at_every_batch_size_and_leaves_nothing(gpu: strict_gpu.Driver, tmp_path: Path) -> None:
    """Copies, runs and results are in order on the stream; each size has its profile; all memory is freed."""
    entry = candidate(tmp_path)
    assert entry["profiles"] == [[1, 1, 0], [16, 16, 1]]
    model = Model(tmp_path / "bundle", entry, 1)
    calls = []
    for rows in (1, 16, 1):
        x = np.random.default_rng(rows).normal(size=(rows, 4)).astype(np.float32)
        calls.append((x, model.call({"x": x})))
    assert len(gpu.streams) == 2  # one context per shape
    for x, call in [*calls, *reversed(calls)]:
        (y,) = call()
        np.testing.assert_array_equal(y, 2 * x)
    del calls, call, model


def test_what_tensorrt_refuses_is_told_in_its_words(gpu: strict_gpu.Driver, tmp_path: Path) -> None:
    """A damaged plan, host code that the plan may not have, a shape out of the profile, and a full GPU."""
    entry = candidate(tmp_path / "broken", b"broken")
    with pytest.raises(RuntimeError, match="net cannot be opened: TensorRT refuses the plan: Magic tag does not match"):
        Model(tmp_path / "broken/bundle", entry, 1)
    entry = candidate(tmp_path / "lean", b"lean")
    with pytest.raises(RuntimeError, match="the plan has host code, and it is not allowed"):
        Model(tmp_path / "lean/bundle", entry, 1)
    entry = candidate(tmp_path / "allowed", b"lean", version_compatible=True)
    model = Model(tmp_path / "allowed/bundle", entry, 1)
    with pytest.raises(RuntimeError, match=r"refuses shape \(40, 4\) of 'x': shape \(40, 4\) is not in profile 0"):
        model.call({"x": np.zeros((40, 4), np.float32)})
    gpu.free = 40
    with pytest.raises(RuntimeError, match="cuMemAlloc_v2 failed: CUDA_ERROR_OUT_OF_MEMORY"):
        model.call({"x": np.zeros((2, 4), np.float32)})
    del model


def test_the_program_for_plans_travels_with_plans_alone(tmp_path: Path) -> None:
    """A bundle of ONNX files has no file for TensorRT; one with a plan has it, the manifest of the plan, and both."""
    one, two = doubling(tmp_path / "net.onnx"), load_artifact(plan(tmp_path / "engine", types=["FP16", "FP32"]))
    assert "retort_edge/plans.py" not in bundled(tmp_path / "a", {"net": one})["files"]
    found = bundled(tmp_path / "b", {"net": one, "plan": two}, batch_sizes=(1, 8))
    assert {"retort_edge/plans.py", "models/1/manifest.json", "models/1/signature.json"} <= found["files"].keys()
    assert [one["precision"] for one in found["candidates"]] == ["FP32", "FP16"]
    assert found["packages"] == ["numpy", "onnxruntime", "tensorrt"]
    assert found["candidates"][1]["batches"] == [[1, 2], [1, 16]]


def test_plans_that_cannot_be_measured_are_refused_at_home(tmp_path: Path) -> None:
    """A batch that no profile allows, values that are shapes, outputs of unknown size, and a plan without manifest."""
    made = load_artifact(plan(tmp_path / "engine"))
    with pytest.raises(UserError, match=r"does not take these samples at a batch of 32") as caught:
        bundled(tmp_path / "a", {"net": made}, batch_sizes=(1, 32))
    assert "1x4:8x4:16x4" in caught.value.remedy
    shaped = load_artifact(plan(tmp_path / "shaped", shape_inputs=["x"], profiles=[{"x": "1x4:1x4:2x4"}]))
    with pytest.raises(UserError, match="the values of 'x' are a shape"):
        bundled(tmp_path / "b", {"net": shaped})
    bare = tmp_path / "bare.plan"
    bare.write_bytes(b"a plan")
    with pytest.raises(ArtifactError, match=r"has no manifest\.json: a plan runs only on the GPU"):
        bundled(tmp_path / "c", {"net": load_artifact(bare)})


@pytest.mark.parametrize(
    ("changed", "built", "told"),
    [
        ({}, {}, ""),
        ({"tensorrt": ""}, {}, "the Python package tensorrt is missing: on a Jetson, sudo apt install"),
        (
            {"tensorrt": "10.3.0"},
            {},
            r"model\.plan was built by tensorrt 11\.4\.0\.106; the device's is 10\.3\.0: build",
        ),
        ({"tensorrt": "12.0.1"}, {"version_compatible": True}, ""),
        ({"gpu": {"name": "Orin", "compute_capability": "8.7"}}, {}, "built for compute capability 9.0; Orin has 8.7"),
        ({"gpu": {"name": "Orin", "compute_capability": "8.7"}}, {"hardware": "ampere+"}, ""),
        ({"gpu": {"name": "Thor", "compute_capability": "9.0"}}, {}, "built for Double 9000; the device's is Thor"),
        ({"gpu": {"why": "the device has no NVIDIA driver"}}, {}, "needs an NVIDIA GPU, and the device has no NVIDIA"),
        ({"gpu": {"name": "Nano", "compute_capability": "5.3"}}, {"types": ["FP8"]}, "computes in FP8, which needs"),
    ],
)
def test_a_plan_for_another_board_is_refused_before_it_is_sent(
    changed: dict[str, Any], built: dict[str, Any], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Version, GPU and types of the plan stand in its manifest; each fault is one sentence with the command."""
    entry = candidate(tmp_path, **built)
    monkeypatch.setattr(Device, "ask", lambda *given, **named: {**READY, **changed})
    packages = ["numpy", "tensorrt"]
    faults = look(Device("jetson", "/x"), packages=packages, plans=[entry]).faults
    assert len(faults) == bool(told)
    assert re.search(told, faults[0] if faults else "")
    assert not misfits_of_plan(entry, READY) or built


def _site(folder: Path) -> Path:
    """A folder in which Python finds the double of TensorRT, and CUDA's driver is that of the double."""
    described = folder / "tensorrt-11.4.0.106.dist-info"
    described.mkdir(parents=True)
    (described / "METADATA").write_text("Metadata-Version: 2.1\nName: tensorrt\nVersion: 11.4.0.106\n")
    (folder / "tensorrt.py").write_text("from strict_gpu import *\n")
    (folder / "sitecustomize.py").write_text(
        "import ctypes\n\n\nclass CDLL(ctypes.CDLL):\n    def __new__(cls, name, *given, **named):\n"
        "        if name == 'libcuda.so.1':\n            import strict_gpu\n\n            return strict_gpu.driver\n"
        "        return super().__new__(cls)\n\n\nctypes.CDLL = CDLL\n"
    )
    return folder


@pytest.mark.slow
def test_a_plan_and_an_onnx_file_are_measured_in_the_same_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`edge run` with both: preflight, paired ratio, equal outputs, starts; the folder on the device is gone."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(_site(tmp_path / "site")), str(HERE)]))
    values = samples()
    np.savez("data.npz", allow_pickle=False, **{f"x_{name}": values.test.read(range(30))[0]["x"] for name in
             ("train", "validation", "test")}, **{f"y_{name}": np.arange(30) % 4 for name in
             ("train", "validation", "test")})  # fmt: skip
    doubling(tmp_path / "net.onnx")
    plan(tmp_path / "engine")
    quick = [
        "--seconds",
        "0.5",
        "--starts",
        "1",
        "--block-ms",
        "2",
        "--precision",
        "0",
        "--batch-sizes",
        "2",
        "--noise",
        "off",
    ]
    with pytest.raises(SystemExit) as ended:
        main(["edge", "run", "local", "net.onnx", "engine/model.plan", "--data", "data.npz", *quick, "--python",
              sys.executable, "--json"])  # fmt: skip
    told = capsys.readouterr()
    assert not ended.value.code, told
    (result,) = json.loads(told.out.splitlines()[-1])["results"]
    ours, theirs = result["stages"]
    assert theirs["runtime"] == "TensorRT on the GPU"
    assert theirs["latency"]["2"]["ratio"]["value"] > 0
    assert theirs["metric"]["value"] == ours["metric"]["value"]
    assert theirs["agreement"]["value"] == 1
    assert not (tmp_path / "home/retort-edge").exists()


def test_the_double_has_the_names_and_arguments_of_the_bindings() -> None:
    """Each method of the double is one of TensorRT's, with the same arguments in the same order."""
    real = pytest.importorskip("tensorrt_rtx")
    for name in ("Runtime", "ICudaEngine", "IExecutionContext", "ILogger"):
        ours, theirs = getattr(strict_gpu, name), getattr(real, name)
        for method, does in vars(ours).items():
            if method.startswith("_") or not callable(does):
                continue
            text = str(getattr(theirs, method).__doc__)
            given = does.__code__.co_varnames[1 : does.__code__.co_argcount]
            forms = [re.findall(r"(\w+): ", form)[1:] for form in re.findall(rf"{method}\((self: [^)]*)\)", text)]
            assert any(form[: len(given)] == list(given) for form in forms), (name, method, forms)
    assert hasattr(real.ICudaEngine, "num_optimization_profiles")
    assert {"INPUT", "OUTPUT"} <= set(real.TensorIOMode.__members__)
    assert {"ERROR", "INTERNAL_ERROR"} <= set(real.ILogger.Severity.__members__)


@pytest.mark.gpu
@pytest.mark.trt
def test_a_real_plan_agrees_with_onnx_runtime(tmp_path: Path) -> None:
    """On a GPU, the program for devices runs a plan that is built here, and gives what ONNX Runtime gives."""
    if driver_fault() is not None:
        pytest.skip("no GPU")
    from retort.core.options.stage_options import EngineOptions
    from retort.export.trt.stage import build_engine

    made = build_engine(EngineOptions(tf32=False), doubling(tmp_path / "net.onnx"), Place(tmp_path / "engine"))
    (entry,) = bundled(tmp_path / "bundle", {"net": made}, batch_sizes=(1, 8))["candidates"]
    model = Model(tmp_path / "bundle", entry, 1)
    for rows in (1, 8, 1):
        x = np.random.default_rng(rows).normal(size=(rows, 4)).astype(np.float32)
        np.testing.assert_allclose(model.run({"x": x})[0], 2 * x, rtol=1e-6)


def test_a_device_without_a_gpu_says_why() -> None:
    """The question to a device without NVIDIA's driver is answered, and with the double it names the GPU."""
    from retort.benchmarks.edge.questions import readiness

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ctypes, "CDLL", lambda name: strict_gpu.Driver())
        assert readiness.gpu() == {"name": "Double 9000", "compute_capability": "9.0"}
        patch.setattr(ctypes, "CDLL", _not_there)
        assert readiness.gpu() == {"why": "the device has no NVIDIA driver"}
    assert SIGNATURE.inputs[0].dtype == "float32"


def _not_there(name: str) -> ctypes.CDLL:
    raise OSError(name)
