"""Workers on GPUs: each opens its model on the GPU that the server gives to it, or does not start (serve.md H8)."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from ort_double import Runtime
from served_models import VECTOR, archive, graph

from retort.core.artifact import Artifact
from retort.core.backends import ort
from retort.core.console import SILENT, Console
from retort.core.context import Context, Place
from retort.core.errors import ArtifactError, UserError
from retort.core.options.serving_options import PackOptions
from retort.pipeline.stages import pack
from retort.serve.inference import Endpoint
from retort.serve.requests.wire import NPY, read_npy, read_npz, write_npy
from retort.serve.settings import TRUSTED, Settings
from retort.serve.torchserve import deployment
from retort.serve.torchserve.archives.archive import open_mar
from retort.serve.torchserve.archives.mar import read_member
from retort.serve.torchserve.config import FrontEnd, config_properties
from retort.serve.torchserve.ports import pick_ports

CONTEXT = Context(None)  # type: ignore[arg-type]  # it reads no data
CUDA, TENSORRT = "CUDAExecutionProvider", "TensorrtExecutionProvider"


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """A model for CUDA, packed on a machine without it."""
    return archive("vector", tmp_path_factory.mktemp("gpu"), provider="cuda", workers=2)


def _context(folder: Path, gpu: object = None) -> Any:
    return SimpleNamespace(
        system_properties={"model_dir": str(folder), "gpu_id": gpu},
        get_all_request_header=lambda index: {"body": {"content-type": NPY}},
        get_request_id=str,
        set_response_status=lambda *given: None,
        set_response_content_type=lambda *given: None,
        set_response_header=lambda *given: None,
    )


def test_a_model_is_packed_for_a_gpu_that_is_not_here(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is tried on the CPU, and the user is told; the archive asks for a GPU, and the bundle names the package."""
    context = replace(CONTEXT, console=Console())
    made = pack(PackOptions(provider="cuda"), graph("vector", tmp_path), Place(tmp_path / "made"), context)
    told = " ".join(capsys.readouterr().err.split())
    assert "has no CUDAExecutionProvider" in told
    assert "the model was tried on the CPU, and its workers start only where that works" in told
    mar = open_mar(made)
    assert mar.settings.providers[0] == CUDA
    assert b'deviceType: "gpu"\n' in read_member(mar.path, "model-config.yaml")
    assert mar.settings.golden_tolerance >= 1e-2


def test_a_worker_without_its_provider_does_not_start(packed: Artifact) -> None:
    """It names the provider that is missing, and never computes on the CPU instead."""
    with pytest.raises(RuntimeError, match=rf"has no {CUDA}; it has .*CPUExecutionProvider"):
        Endpoint("1").handle(None, _context(packed.path / "bundle", 0))


@pytest.mark.parametrize(("given", "device"), [(3, "3"), (0, "0"), (None, "0"), (-1, "0")])
def test_a_worker_uses_the_gpu_that_it_was_given(
    packed: Artifact, monkeypatch: pytest.MonkeyPatch, given: object, device: str
) -> None:
    """``device_id`` is TorchServe's ``gpu_id``, and answers come from a session on it."""
    runtime = Runtime({CUDA: ["ReduceSum"]})
    monkeypatch.setattr(ort, "_runtime", lambda: runtime)
    endpoint = Endpoint("1")
    endpoint.handle(None, _context(packed.path / "bundle", given))
    assert runtime.asked[-1][1][0] == {"device_id": device}
    body = endpoint.handle([{"body": write_npy(VECTOR["x"])}], _context(packed.path / "bundle", given))[0]
    assert read_npy(body, TRUSTED) == pytest.approx(VECTOR["x"].sum(axis=1), rel=1e-6)


def test_a_session_that_runs_elsewhere_is_refused_at_load(packed: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    """If ONNX Runtime puts the heavy nodes on the CPU, the worker does not start (serve.md G14)."""
    monkeypatch.setattr(ort, "_runtime", lambda: Runtime({"CPUExecutionProvider": ["MatMul", "Conv"]}))
    with pytest.raises(RuntimeError, match=f"does not run on {CUDA} as requested"):
        Endpoint("1").handle(None, _context(packed.path / "bundle", 0))


def test_tensorrt_knows_the_ranges_before_the_first_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The batch axis covers every legal request; other axes need a range, and options are handed on."""
    runtime = Runtime({TENSORRT: ["ReduceSum"]})
    monkeypatch.setattr(ort, "_runtime", lambda: runtime)
    monkeypatch.setenv("RETORT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("RETORT_JAVA_ARCHIVE", "off")
    options = {"provider": "tensorrt", "batch_size": 4, "max_rows": 32}
    with pytest.raises(UserError, match="TensorRT needs a range for the dynamic axis 'length'"):
        archive("text", tmp_path / "none", **options)
    made = archive("text", tmp_path, **options, axis=("length=1:16:64",), provider_option=("trt_fp16_enable=1",))
    asked = runtime.asked[-1][1][0]
    assert asked["trt_fp16_enable"] == "1"
    assert asked["trt_profile_max_shapes"].split(",")[0].endswith(":32x64")
    settings = open_mar(made).settings
    assert settings.ranges == {"batch": (1, 4, 32), "length": (1, 16, 64)}
    assert Settings.from_json(settings.to_json()) == settings
    assert b"startupTimeout: 1200\n" in read_member(made.main, "model-config.yaml")
    golden = read_npz(read_member(made.main, "golden.npz"), TRUSTED)
    assert all(np.isfinite(array).all() for name, array in golden.items() if name.startswith("out."))


def test_options_that_fit_no_provider_are_refused(tmp_path: Path) -> None:
    """Ranges are for TensorRT, options for a GPU, and other servers' files are for CPUs."""
    for options, told in (
        ({"axis": ("batch=1:2:4",)}, "only for the provider tensorrt"),
        ({"provider_option": ("a=1",)}, "cannot be given to the provider cpu"),
        ({"provider": "cuda", "target": "ray"}, "--provider cuda cannot be served by ray"),
    ):
        with pytest.raises(UserError, match=told):
            pack(PackOptions(**options), graph("vector", tmp_path / told[:6]), Place(tmp_path / told), CONTEXT)


def test_damaged_settings_of_a_provider_are_refused() -> None:
    """A range that is no three sizes, and an option that is no text, are one error."""
    good = json.loads(Settings().to_json())
    for key, bad in (("ranges", {"batch": [1, 2]}), ("ranges", [1]), ("provider_options", {"a": 1})):
        with pytest.raises(ArtifactError, match=f"serving.json cannot be read: {key} "):
            Settings.from_json(json.dumps({**good, key: bad}))


def test_only_servers_of_such_models_take_gpus(packed: Artifact, tmp_path: Path) -> None:
    """TorchServe is told of no GPU unless a model needs one."""
    ports, front = pick_ports("127.0.0.1", 0), FrontEnd(1, "unix:a", "unix:b")
    needs = open_mar(packed).settings
    for settings, line in ((Settings(), b"number_of_gpu=0\n"), (needs, b"number_of_gpu=64\n")):
        assert line in config_properties({"a.mar": settings}, ports, "127.0.0.1", tmp_path, front)


def test_a_gpu_has_no_more_workers_than_were_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second worker, which models on a CPU get where cores and memory allow, would need the GPU's memory again."""
    monkeypatch.setattr(ort, "_runtime", lambda: Runtime({CUDA: ["ReduceSum"]}))
    monkeypatch.setattr(deployment, "usable_cores", lambda: 8)
    monkeypatch.setattr(deployment, "available_bytes", lambda: 1 << 40)
    mars = [open_mar(archive("vector", tmp_path / provider, provider=provider)) for provider in ("cuda", "cpu")]
    for mar, workers in zip(mars, (1, 2), strict=True):
        assert [one.workers for one in deployment.deployments([mar], None, 500, SILENT)] == [workers]
