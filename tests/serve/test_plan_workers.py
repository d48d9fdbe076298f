"""Native TensorRT plans in archives and bundles: checked before they are read, and never run beyond a profile."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from served_models import VECTOR, graph
from trt_double import Context as TensorRTContext
from trt_double import Driver, Runtime, TensorRT
from trt_plans import DEVICE, feeds, machine, plan

from retort.__main__ import main
from retort.core.artifact import Artifact, load_artifact, sha256_file
from retort.core.backends import trt
from retort.core.backends.cuda import Device, driver_fault, find_device
from retort.core.backends.trt_versions import Flavor
from retort.core.console import Console
from retort.core.context import Context, Place
from retort.core.errors import ArtifactError, InputError, MissingFileError, UserError
from retort.core.options.serving_options import BundleOptions, PackOptions
from retort.core.options.stage_options import EngineOptions
from retort.export.trt.stage import build_engine
from retort.pipeline.stages import bundle, pack
from retort.serve.bundles.bundled import check_bundle, open_bundle
from retort.serve.engine import Engine
from retort.serve.inference import Endpoint
from retort.serve.integrity import SUMS, format_sums, read_sums
from retort.serve.requests.request import Incoming
from retort.serve.requests.wire import NPY, NPZ, read_npy, read_npz, write_npy, write_npz
from retort.serve.settings import PLAN, PLAN_FILES, TRUSTED, Settings
from retort.serve.signing.private_key import make_pair
from retort.serve.signing.trust import Trust
from retort.serve.torchserve.archives.archive import open_mar
from retort.serve.torchserve.archives.mar import read_member, write_mar
from retort.serve.torchserve.archives.self_test import prove

CONTEXT = Context(None, console=Console("text"))  # type: ignore[arg-type]  # it reads no data
Array = np.ndarray[Any, Any]


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """A plan with two profiles, packed where its GPU is."""
    folder = tmp_path_factory.mktemp("plan")
    plan(folder / "plan")
    with pytest.MonkeyPatch.context() as patch:
        machine(patch)
        return pack(PackOptions(name="net"), load_artifact(folder / "plan"), Place(folder / "made"), CONTEXT)


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Driver:
    """A machine with four GPUs and TensorRT 11.4."""
    return machine(monkeypatch, 4)


def _context(folder: Path, gpu: object = None) -> Any:
    return SimpleNamespace(
        system_properties={"model_dir": str(folder), "gpu_id": gpu},
        get_all_request_header=lambda index: {"body": {"content-type": NPY}},
        get_request_id=str,
        set_response_status=lambda *given: None,
        set_response_content_type=lambda *given: None,
        set_response_header=lambda *given: None,
    )


def test_an_archive_brings_the_plan_with_its_manifest(packed: Artifact, driver: Driver) -> None:
    """Both are listed in the checksums; the archive asks for a GPU, carries TensorRT's session, and proves itself."""
    mar = open_mar(packed)
    assert set(PLAN_FILES) <= set(mar.sums)
    assert "retort/core/backends/trt_plan.py" in mar.sums
    assert "model.onnx" not in mar.sums
    assert b'deviceType: "gpu"\n' in read_member(mar.path, "model-config.yaml")
    assert mar.settings.needs_gpu
    assert mar.settings.engine == "tensorrt==11.4.0.*"
    assert Settings.from_json(mar.settings.to_json()) == mar.settings
    golden = read_npz(read_member(mar.path, "golden.npz"), TRUSTED)
    np.testing.assert_array_equal(golden["out.y"], 2 * golden["in.x"])  # made up, and computed by the plan itself
    assert prove(mar).same_runtime


@pytest.mark.parametrize(("given", "device"), [(3, 3), (0, 0), (None, 0)])
def test_a_worker_runs_the_plan_on_its_gpu(
    packed: Artifact, driver: Driver, monkeypatch: pytest.MonkeyPatch, given: object, device: int
) -> None:
    """TorchServe's ``gpu_id`` is the device, and the answers and the description are those of the plan."""
    asked: list[int] = []

    def found(index: int) -> Device | None:
        asked.append(index)
        return find_device(index, lambda: driver)

    monkeypatch.setattr(trt, "find_device", found)
    endpoint = Endpoint("1")
    endpoint.handle(None, _context(packed.path / "bundle", given))
    assert asked == [device]
    body = endpoint.handle([{"body": write_npy(feeds(3)["x"])}], _context(packed.path / "bundle", given))[0]
    np.testing.assert_array_equal(read_npy(body, TRUSTED), 2 * feeds(3)["x"])
    assert endpoint.engine is not None
    told = endpoint.engine.describe()
    assert (told["backend"], told["providers"]["actual"]) == ("tensorrt", ["TensorRT 11.4.0.106"])
    endpoint.engine.close()


def _hashed(folder: Path) -> None:
    sums = {name: sha256_file(folder / name) for name in read_sums(folder)}
    (folder / SUMS).write_bytes(format_sums(sums))


def _altered(folder: Path) -> None:
    (folder / PLAN).write_bytes(b"another plan")


def _altered_and_hashed(folder: Path) -> None:
    _altered(folder)
    _hashed(folder)


def _manifest(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def changed(folder: Path) -> None:
        path = folder / PLAN_FILES[1]
        raw = json.loads(path.read_text())
        change(raw["facts"])
        path.write_text(json.dumps(raw))
        _hashed(folder)

    return changed


def _other_signature(folder: Path) -> None:
    path = folder / "signature.json"
    path.write_text(path.read_text().replace('"float32"', '"float16"', 1))
    _hashed(folder)


REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "altered": (_altered, r"engine/model\.plan has SHA-256 \w+, SHA256SUMS says"),
    "altered and hashed again": (_altered_and_hashed, "was altered or truncated since it was built"),
    "another TensorRT": (
        _manifest(lambda facts: facts["engine"].update(version="10.13.0.35")),
        r"was built by tensorrt 10\.13\.0\.35; here is 11\.4\.0\.106",
    ),
    "another capability": (
        _manifest(lambda facts: facts["engine"].update(device={**DEVICE, "compute_capability": "8.0"})),
        r"was built for compute capability 8\.0; Double 9000 has 9\.0",
    ),
    "another precision": (
        _manifest(lambda facts: facts.update(layers={"CONVOLUTION FP4": 3})),
        r"computes in FP4, which needs compute capability 10\.0; Double 9000 has 9\.0",
    ),
    "another profile": (
        _manifest(lambda facts: facts["engine"].update(profiles=[{"x": "1x5:1x5:2x5"}])),
        r"has a profile 1x5:1x5:2x5 for 'x', but its signature has shape \['batch', 4\]",
    ),
    "another signature": (_other_signature, "the signature beside the settings says x: float16"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_plan_that_does_not_fit_is_never_read(
    packed: Artifact, driver: Driver, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, case: str
) -> None:
    """A worker refuses it in one sentence, before TensorRT sees it, and builds nothing (serve.md H7)."""
    change, told = REFUSED[case]
    folder = shutil.copytree(packed.path / "bundle", tmp_path / "copy")
    change(folder)
    monkeypatch.setattr(Runtime, "deserialize_cuda_engine", lambda *given: pytest.fail("TensorRT read the plan"))
    with pytest.raises(RuntimeError, match=told) as caught:
        Endpoint("1").handle(None, _context(folder, 0))
    assert len(str(caught.value).splitlines()) == 1


CONTRADICTIONS: dict[str, tuple[str, Callable[[bytes], bytes], str]] = {
    "more rows than a profile takes": (
        "serving.json", lambda raw: raw.replace(b'"rows": 16', b'"rows": 17'),
        "has a plan that takes up to 16 rows, but serving.json allows 17",
    ),
    "another TensorRT": (
        "serving.json", lambda raw: raw.replace(b"tensorrt==11.4.0", b"tensorrt==11.5.0"),
        r"has a plan for tensorrt==11\.4\.0\.\*, but serving\.json says tensorrt==11\.5\.0",
    ),
    "another plan": (PLAN, lambda raw: b"another plan", "cannot be served: model.plan was altered or truncated"),
    "another signature": (
        "signature.json", lambda raw: raw.replace(b'"float32"', b'"float16"', 1), "the signature beside the settings",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CONTRADICTIONS)
def test_an_archive_that_contradicts_its_plan_is_refused(packed: Artifact, tmp_path: Path, case: str) -> None:
    """Before a server sees it, and without a GPU, although all checksums are right."""
    name, change, told = CONTRADICTIONS[case]
    with zipfile.ZipFile(packed.main) as archive:
        members: dict[str, bytes | Path] = {one: archive.read(one) for one in archive.namelist() if one != SUMS}
    before = members[name]
    assert isinstance(before, bytes)
    members[name] = change(before)
    assert members[name] != before
    write_mar(tmp_path / "other.mar", members)
    with pytest.raises(ArtifactError, match=told):
        open_mar(load_artifact(tmp_path / "other.mar"))


def test_another_tensorrt_on_the_host_is_told(
    packed: Artifact, driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The plan of the archive is refused where the installed TensorRT is of another line."""
    monkeypatch.setattr(trt, "load_flavor", lambda *_: Flavor("tensorrt", "10.3.0.26", TensorRT))
    with pytest.raises(RuntimeError, match=r"was built by tensorrt 11\.4\.0\.106; here is 10\.3\.0\.26"):
        Endpoint("1").handle(None, _context(packed.path / "bundle", 0))


def test_batches_are_padded_to_sizes_of_the_profiles(packed: Artifact, driver: Driver) -> None:
    """Few shapes run, each in the nearest profile, and no request has more rows than a profile (serve.md H18)."""
    engine = Engine.load(packed.path / "bundle")
    assert engine.settings.buckets == (1, 2, 4, 8)
    assert engine.settings.limits.rows == 16
    before = len(_contexts(engine))
    ones = [Incoming({"body": write_npz(feeds(1))}, {"body": NPZ}) for _ in range(3)]
    assert [answer.status for answer in engine.answer(ones)] == [200] * 3
    assert [context.shape for context in _contexts(engine)[before:]] == []  # warm since the worker started
    assert {context.profile for context in _contexts(engine) if context.shape == (4, 4)} == {1}
    sizes: list[int] = []
    engine.session.run = _spied(engine.session.run, sizes)  # type: ignore[method-assign]
    engine.answer(ones)
    assert sizes == [4]
    refused = engine.answer([Incoming({"body": write_npz(feeds(17))}, {"body": NPZ})])[0]
    assert refused.status == 413
    assert b"16" in refused.body
    engine.close()


def _contexts(engine: Engine) -> list[TensorRTContext]:
    found: list[TensorRTContext] = engine.session._engine.contexts  # type: ignore[attr-defined]
    return found


def _spied(run: Any, sizes: list[int]) -> Any:
    def spied(given: dict[str, Array]) -> dict[str, Array]:
        sizes.append(len(given["x"]))
        found: dict[str, Array] = run(given)
        return found

    return spied


def test_an_error_of_a_run_is_no_answer(packed: Artifact, driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that TensorRT's error recorder complains about gives 500, though outputs came back (serve.md H19)."""
    engine = Engine.load(packed.path / "bundle")
    recorder = engine.session._runtime.error_recorder  # type: ignore[attr-defined]
    monkeypatch.setattr(Driver, "_cuGraphLaunch", lambda *given: recorder.report_error(None, "a fault") and 0)
    assert engine.answer([Incoming({"body": write_npz(feeds(1))}, {"body": NPZ})])[0].status == 500
    monkeypatch.undo()
    engine.close()


def test_a_size_without_a_profile_is_not_tried_again(packed: Artifact, driver: Driver) -> None:
    """A batch that no profile takes for these shapes is no size of the worker, and does not stop its start."""
    engine = Engine.load(packed.path / "bundle")
    run = engine.session.run

    def narrow(given: dict[str, Array]) -> dict[str, Array]:
        if len(given["x"]) > 3:
            raise InputError("no profile of the engine contains it", "send fewer rows")
        return run(given)

    engine.session.run = narrow  # type: ignore[assignment,method-assign]
    inputs = {"x": engine.golden[0]["x"][:2]}
    assert engine.executor.measure(inputs).sizes == {1, 2, 3}
    answer = engine.answer([Incoming({"body": write_npz(feeds(5))}, {"body": NPZ})])[0]
    assert (answer.status, json.loads(answer.body)["message"]) == (400, "no profile of the engine contains it")
    engine.close()


def test_a_plan_is_packed_where_no_gpu_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its golden samples are the graph's or the user's; it is not tried, and the user is told so."""
    shutil.copy(_golden(tmp_path), tmp_path / "golden.npz")
    plan(tmp_path / "plan", types=["FP32", "INT8"])
    given = PackOptions(golden=str(tmp_path / "golden.npz"))
    made = pack(given, load_artifact(tmp_path / "plan"), Place(tmp_path / "made"), CONTEXT)
    assert "the plan was not tried, and its workers start only where it runs" in " ".join(
        capsys.readouterr().err.split()
    )
    assert (made.facts["golden_error"], made.facts["timing"]) == (None, {"load_s": None})
    assert open_mar(made).settings.golden_tolerance == 0.1
    assert b"startupTimeout: 240\n" in read_member(made.main, "model-config.yaml")
    shutil.copy(tmp_path / "golden.npz", tmp_path / "plan")
    again = pack(PackOptions(), load_artifact(tmp_path / "plan"), Place(tmp_path / "again"), CONTEXT)
    assert again.manifest.files["model.mar"] == made.manifest.files["model.mar"]
    with pytest.raises(RuntimeError, match="tensorrt"):
        Endpoint("1").handle(None, _context(again.path / "bundle", 0))


def _golden(folder: Path, arrays: dict[str, Array] | None = None, rows: int = 2) -> str:
    given = arrays or {"in.x": feeds(rows)["x"], "out.y": 2 * feeds(rows)["x"]}
    path = folder / f"given{len([*folder.glob('given*')])}.npz"
    path.write_bytes(write_npz(given))
    return str(path)


def test_what_cannot_be_served_is_refused_when_it_is_packed(tmp_path: Path) -> None:
    """No golden outputs, samples in no profile, no single sample, options of ONNX files, and other servers' files."""
    good = _golden(tmp_path)
    big = _golden(tmp_path, rows=40)
    cases: list[tuple[dict[str, Any], dict[str, Any], str]] = [
        ({}, {}, "model.plan has no golden outputs, and none can be computed here"),
        ({}, {"golden": big}, r"no profile of model\.plan contains its golden samples, x \[40, 4\]"),
        ({"profiles": [{"x": "2x4:2x4:4x4"}]}, {"golden": good}, "takes batches of 2 to 4, and no single sample"),
        ({}, {"golden": good, "axis": ("batch=1:2:4",)}, "--axis batch=1:2:4 is for ONNX files"),
        ({}, {"golden": good, "provider": "tensorrt", "provider_option": ("a=1",)}, "--provider-option a=1 is for"),
        ({}, {"golden": good, "provider": "openvino"}, "--provider openvino does not run a plan"),
        ({}, {"golden": good, "target": "docker"}, "a plan cannot be served by docker"),
    ]
    for number, (built, options, told) in enumerate(cases):
        plan(tmp_path / f"plan{number}", **built)
        with pytest.raises(UserError, match=told):
            pack(PackOptions(**options), load_artifact(tmp_path / f"plan{number}"), Place(tmp_path / "no"), CONTEXT)
    odd = _golden(tmp_path, {"x": feeds(2)["x"]})
    for golden, error, told in (
        (odd, UserError, "has an array 'x'"),
        (str(tmp_path / "none.npz"), MissingFileError, "no such file of golden samples"),
        (_golden(tmp_path, {"in.z": feeds(2)["x"], "out.y": feeds(2)["x"]}), ArtifactError, "does not contain the"),
    ):
        with pytest.raises(error, match=told):
            pack(PackOptions(golden=golden), load_artifact(tmp_path / "plan0"), Place(tmp_path / "no"), CONTEXT)


def test_golden_outputs_of_another_model_are_refused(driver: Driver, tmp_path: Path) -> None:
    """Where the plan can be run, its outputs are compared with the given ones."""
    plan(tmp_path / "plan")
    wrong = _golden(tmp_path, {"in.x": feeds(2)["x"], "out.y": -feeds(2)["x"]})
    with pytest.raises(ArtifactError, match="so they belong to another model"):
        pack(PackOptions(golden=wrong), load_artifact(tmp_path / "plan"), Place(tmp_path / "no"), CONTEXT)


def test_a_bundle_of_a_plan_is_whole_and_signed(driver: Driver, tmp_path: Path) -> None:
    """Its checksums list the plan and its manifest, a signature covers them, and archives are made from it."""
    plan(tmp_path / "plan")
    path, _, public = make_pair(tmp_path / "keys", "signing")
    options = BundleOptions(name="net", sign=str(path))
    made = bundle(options, load_artifact(tmp_path / "plan"), Place(tmp_path / "bundle"), CONTEXT)
    assert made.main == made.path / PLAN
    trust = Trust((public,), "require")
    assert check_bundle(made.path, trust)["needs"] == ["numpy>=1.26", "tensorrt==11.4.0.*"]
    open_bundle(made.path, trust, device=2).close()
    mar = open_mar(pack(PackOptions(), made, Place(tmp_path / "mar"), CONTEXT))
    assert (mar.name, mar.settings.engine) == ("net", "tensorrt==11.4.0.*")
    for name in PLAN_FILES:
        copy = shutil.copytree(made.path, tmp_path / name.replace("/", "-"))
        content = bytearray((copy / name).read_bytes())
        content[len(content) // 2] ^= 1
        (copy / name).write_bytes(bytes(content))
        with pytest.raises(ArtifactError, match=rf"{name} has SHA-256"):
            check_bundle(copy, Trust())


def test_triton_gets_the_plan(driver: Driver, tmp_path: Path) -> None:
    """One repository runs the bundle on the GPU of the instance, the other is TensorRT's own, with all profiles."""
    plan(tmp_path / "plan")
    options = PackOptions(name="net", target="triton", workers=2)
    made = pack(options, load_artifact(tmp_path / "plan"), Place(tmp_path / "made"), CONTEXT)
    config = (made.path / "tensorrt-backend/net/config.pbtxt").read_text()
    assert 'platform: "tensorrt_plan"' in config
    assert 'profile: ["0", "1"]' in config
    assert "max_batch_size: 16" in config
    assert (made.path / "tensorrt-backend/net/1/model.plan").read_bytes() == b"a plan"
    assert all("KIND_GPU" in path.read_text() for path in made.path.glob("*/net/config.pbtxt"))
    assert check_bundle(made.path / "python-backend/net/1/bundle")["name"] == "net"
    commands = json.loads((made.path / "deployment.json").read_text())["commands"]
    assert any("of a Triton that has tensorrt==11.4.0.*" in what for what in commands)


def test_predict_runs_the_plan_of_an_archive(
    packed: Artifact, driver: Driver, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`retort predict` opens the plan in the archive and in its bundle, without a server."""
    np.save(tmp_path / "x.npy", feeds(2)["x"])
    with pytest.raises(SystemExit) as ended:
        main(["predict", str(packed.path), "--input", str(tmp_path / "x.npy")])
    assert ended.value.code == 0
    assert "-10." in capsys.readouterr().out


def test_a_graph_takes_golden_samples_as_well(tmp_path: Path) -> None:
    """`--golden` replaces the stored ones, and outputs that it does not have are computed."""
    inputs = {"in.x": VECTOR["x"][:2] * 3}
    options = PackOptions(golden=_golden(tmp_path, inputs))
    mar = open_mar(pack(options, graph("vector", tmp_path), Place(tmp_path / "made"), CONTEXT))
    golden = read_npz(read_member(mar.path, "golden.npz"), TRUSTED)
    np.testing.assert_array_equal(golden["in.x"], inputs["in.x"])
    assert golden["out.total"] == pytest.approx(inputs["in.x"].sum(axis=1), rel=1e-6)


@pytest.mark.slow
@pytest.mark.trt
def test_a_plan_of_the_real_builder_is_packed(tmp_path: Path) -> None:
    """What TensorRT-RTX builds without a GPU has all that packing reads; Triton cannot run it by itself."""
    if find_spec("tensorrt_rtx") is None:
        pytest.skip("tensorrt-rtx is not installed")
    made = build_engine(
        EngineOptions(batch_sizes=(1, 2, 8), timing_cache="off"), graph("vector", tmp_path), Place(tmp_path / "engine")
    )
    mar = open_mar(pack(PackOptions(), made, Place(tmp_path / "made"), CONTEXT))
    assert mar.settings.engine.startswith("tensorrt-rtx==1.")
    assert (mar.settings.limits.rows, mar.settings.buckets) == (8, (1, 2, 4, 8))
    assert mar.settings.golden_tolerance == 0.01
    triton = pack(PackOptions(target="triton"), made, Place(tmp_path / "triton"), CONTEXT)
    assert {path.name for path in triton.path.iterdir() if path.is_dir()} == {"python-backend"}


@pytest.mark.gpu
@pytest.mark.trt
def test_a_real_plan_is_packed_and_served(tmp_path: Path) -> None:
    """On a GPU, a plan that is built here is packed, and its worker's answers agree with ONNX Runtime's."""
    if driver_fault() is not None:
        pytest.skip("no GPU")
    source = graph("vector", tmp_path)
    made = build_engine(EngineOptions(batch_sizes=(1, 4, 16)), source, Place(tmp_path / "engine"))
    engine = Engine.load(pack(PackOptions(), made, Place(tmp_path / "made"), CONTEXT).path / "bundle")
    for rows in (1, 3, 16):
        x = np.resize(VECTOR["x"], (rows, 2))
        answer = engine.answer([Incoming({"body": write_npz({"x": x})}, {"body": NPZ})])[0]
        found = read_npz(answer.body, TRUSTED)["total"]
        np.testing.assert_allclose(found, x.sum(axis=1), rtol=1e-3, atol=1e-3)
    engine.close()
    assert replace(engine.settings, engine="").needs_gpu is False
