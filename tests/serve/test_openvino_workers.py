"""Models that OpenVINO serves: packed for it, checked and measured with it, and never run by another runtime."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from openvino_here import require_openvino
from served_models import TEXT, VECTOR, archive, graph, require_torchserve, site

from retort.__main__ import main
from retort.benchmarks.suites.conformance import MODEL, run
from retort.benchmarks.suites.conformance_model import write_model
from retort.core.artifact import Artifact, load_artifact
from retort.core.backends.openvino import OpenvinoSession
from retort.core.context import Context, Place
from retort.core.errors import MachineError, UserError
from retort.core.options.serving_options import BundleOptions, PackOptions, ServeOptions
from retort.core.session import OPENVINO
from retort.pipeline.stages import pack
from retort.serve.bundles.bundled import check_bundle
from retort.serve.bundles.stage import bundle
from retort.serve.engine import Engine
from retort.serve.inference import Endpoint
from retort.serve.requests.request import Incoming
from retort.serve.requests.wire import NPY, NPZ, read_npy, write_npy, write_npz
from retort.serve.settings import TRUSTED
from retort.serve.torchserve.archives.archive import open_mar
from retort.serve.torchserve.archives.mar import read_member
from retort.serve.torchserve.archives.self_test import prove
from retort.serve.torchserve.server import serve

CONTEXT = Context(None)  # type: ignore[arg-type]  # it reads no data
Array = np.ndarray[Any, Any]


@pytest.fixture(scope="module")
def _openvino() -> None:
    """Skip the test where OpenVINO is not installed."""
    require_openvino()


@pytest.fixture(scope="module")
def packed(_openvino: None, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """A model for OpenVINO."""
    return archive("vector", tmp_path_factory.mktemp("openvino"), provider="openvino", threads=1)


def _context(folder: Path) -> Any:
    return SimpleNamespace(
        system_properties={"model_dir": str(folder), "gpu_id": None},
        get_all_request_header=lambda index: {"body": {"content-type": NPY}},
        get_request_id=str,
        set_response_status=lambda *given: None,
        set_response_content_type=lambda *given: None,
        set_response_header=lambda *given: None,
    )


def test_a_worker_computes_with_openvino(packed: Artifact) -> None:
    """The handler's session, its description and its answers are OpenVINO's, on a CPU and with the worker's threads."""
    endpoint = Endpoint("1")
    endpoint.handle(None, _context(packed.path / "bundle"))
    assert endpoint.engine is not None
    assert isinstance(endpoint.engine.session, OpenvinoSession)
    told = endpoint.engine.describe()
    assert told["backend"] == "openvino"
    assert told["providers"] == {"requested": [OPENVINO], "actual": [OPENVINO]}
    assert told["versions"]["openvino"].startswith("20")
    assert told["golden_error"] < 1e-5
    body = endpoint.handle([{"body": write_npy(VECTOR["x"])}], _context(packed.path / "bundle"))[0]
    assert read_npy(body, TRUSTED) == pytest.approx(VECTOR["x"].sum(axis=1), rel=1e-5)
    endpoint.engine.close()


def test_an_archive_brings_what_openvino_needs(packed: Artifact) -> None:
    """It carries the backend, asks for no GPU and no ONNX Runtime, and `verify` runs it with OpenVINO."""
    mar = open_mar(packed)
    assert "retort/core/backends/openvino.py" in mar.sums
    assert b'deviceType: "cpu"\n' in read_member(mar.path, "model-config.yaml")
    assert mar.settings.providers == (OPENVINO,)
    assert prove(mar).same_runtime


def test_batches_are_proven_by_the_runtime_that_serves(packed: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    """If OpenVINO gives other bits at a size, that size is not used, though ONNX Runtime would be exact there."""
    compute = OpenvinoSession.run

    def other_bits(self: OpenvinoSession, feeds: Mapping[str, Array]) -> dict[str, Array]:
        outputs = compute(self, feeds)
        return {n: np.nextafter(a, np.float32(9)) if len(a) in (3, 5) else a for n, a in outputs.items()}

    engines = [Engine.load(packed.path / "bundle", providers=providers) for providers in ((OPENVINO,), ())]
    assert [engine.session.backend for engine in engines] == ["openvino", "onnxruntime"]
    assert all({3, 5} <= engine.executor.plan.sizes for engine in engines)
    monkeypatch.setattr(OpenvinoSession, "run", other_bits)
    found = Engine.load(packed.path / "bundle").executor.plan.sizes
    assert found == engines[0].executor.plan.sizes - {3, 5}


def test_a_wrong_answer_of_openvino_stops_the_worker(packed: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    """The golden outputs are those of the graph; a runtime that computes others does not start."""
    compute = OpenvinoSession.run
    monkeypatch.setattr(OpenvinoSession, "run", lambda *given: {n: 1.01 * a for n, a in compute(*given).items()})
    with pytest.raises(RuntimeError, match=r"the golden outputs differ by 0\.0"):
        Endpoint("1").handle(None, _context(packed.path / "bundle"))


@pytest.mark.usefixtures("_openvino")
def test_a_host_needs_no_onnx_runtime(tmp_path: Path) -> None:
    """A Python that has numpy and openvino alone opens a bundle of the model, and answers."""
    whole = bundle(BundleOptions(provider="openvino"), graph("vector", tmp_path), Place(tmp_path / "bundle"), CONTEXT)
    for name in ("numpy", "openvino"):
        found = find_spec(name)
        assert found is not None
        home = Path(found.origin or "").parent
        for folder in (home, home.with_name(f"{name}.libs")):
            if folder.exists():
                (tmp_path / "site").mkdir(exist_ok=True)
                (tmp_path / "site" / folder.name).symlink_to(folder)
    code = f"""
import sys
sys.path[:0] = [{str(whole.path)!r}, {str(tmp_path / "site")!r}]
from retort_runtime import Incoming, open_bundle
engine = open_bundle({str(whole.path)!r})
answer = engine.answer([Incoming({{"body": b'{{"x": [[1, 2], [3, 4]]}}'}})])[0]
print(answer.status, answer.body.decode(), engine.session.backend, "onnxruntime" in sys.modules)
"""
    command = [sys.executable, "-I", "-S", "-B", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == '200 {"total":[3.0,7.0]} openvino False', done.stderr


def test_a_worker_without_openvino_does_not_start(packed: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    """It names the package in one sentence, with its Python, and does not take ONNX Runtime instead."""
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(RuntimeError, match=r"^openvino cannot be imported: .* \(python: .*\)$"):
        Endpoint("1").handle(None, _context(packed.path / "bundle"))


def test_packing_needs_openvino(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unlike a GPU it can be installed anywhere, so nothing is packed that was not tried with it."""
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(MachineError, match="openvino cannot be imported"):
        pack(PackOptions(provider="openvino"), graph("vector", tmp_path), Place(tmp_path / "made"), CONTEXT)
    with pytest.raises(UserError, match="only for the provider tensorrt"):
        options = PackOptions(provider="openvino", axis=("batch=1:2:4",))
        pack(options, graph("vector", tmp_path / "more"), Place(tmp_path / "made"), CONTEXT)


@pytest.mark.usefixtures("_openvino")
def test_a_bad_request_leaves_the_others_alone(tmp_path: Path) -> None:
    """What OpenVINO cannot compute is the 400 of one request; its neighbours in the batch get their answers."""
    engine = Engine.load(archive("text", tmp_path, provider="openvino").path / "bundle")
    feeds = [{name: array[[index]] for name, array in TEXT.items()} for index in range(3)]
    feeds[1] = {**feeds[1], "input_ids": feeds[1]["input_ids"] + 2**40}
    answers = engine.answer([Incoming({"body": write_npz(one)}, {"body": NPZ}) for one in feeds])
    assert [answer.status for answer in answers] == [200, 400, 200]
    engine.close()


@pytest.mark.usefixtures("_openvino")
@pytest.mark.parametrize("target", ["docker", "ray", "bentoml", "triton", "kserve", "ovms"])
def test_other_servers_get_openvino(target: str, tmp_path: Path) -> None:
    """Their requirements name it; Triton gets only the form that runs the bundle, as ONNX Runtime's is another one."""
    options = PackOptions.model_validate({"provider": "openvino", "target": target})
    made = pack(options, graph("vector", tmp_path), Place(tmp_path / "made"), CONTEXT)
    files = {path.relative_to(made.path).as_posix() for path in made.path.rglob("*") if path.is_file()}
    (bundle,) = (made.path / name for name in files if name.endswith("bundle.json"))
    assert check_bundle(bundle.parent)["needs"] == ["numpy>=1.26", "openvino>=2026.0"]
    assert not [name for name in files if "onnx-backend" in name or "kserve-triton" in name]
    if target in ("docker", "ray", "bentoml", "kserve"):
        needed = (made.path / "requirements.txt").read_text().splitlines()
        assert "openvino>=2026.0" in needed
        assert not [line for line in needed if line.startswith("onnxruntime")]


def test_predict_runs_an_archive_as_it_is_served(
    packed: Artifact, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Without `--provider`, `retort predict` takes the runtime of the archive; a given one is taken instead."""
    seen: list[int] = []
    np.save(tmp_path / "x.npy", VECTOR["x"])
    compute = OpenvinoSession.run

    def counted(self: OpenvinoSession, feeds: Mapping[str, Array]) -> dict[str, Array]:
        seen.append(len(feeds["x"]))
        return compute(self, feeds)

    monkeypatch.setattr(OpenvinoSession, "run", counted)
    for more in ([], ["--provider", "cuda"]):
        with pytest.raises(SystemExit) as ended:
            main(["predict", str(packed.path), "--input", str(tmp_path / "x.npy"), *more])
        assert (ended.value.code == 0) is not bool(more)
    assert seen == [3]
    assert "has no CUDAExecutionProvider" in capsys.readouterr().err


def test_options_reach_openvino(packed: Artifact, tmp_path: Path) -> None:
    """`--provider-option` is stored in the archive and given to OpenVINO; one that it does not know is told at once."""
    made = archive("vector", tmp_path, provider="openvino", provider_option=("INFERENCE_PRECISION_HINT=bf16",))
    engine = Engine.load(made.path / "bundle")
    told = engine.session._request.get_compiled_model().get_property("INFERENCE_PRECISION_HINT")  # type: ignore[attr-defined]
    assert "float16" in str(told) or "float32" in str(told)  # a processor without BF16 stays with float32
    assert engine.settings.provider_options == {"INFERENCE_PRECISION_HINT": "bf16"}
    assert replace(engine.settings, provider_options={}).providers == open_mar(packed).settings.providers
    with pytest.raises(UserError, match=r"does not take this option of the provider: .*NO_SUCH"):
        archive("vector", tmp_path / "bad", provider="openvino", provider_option=("NO_SUCH=1",))


@pytest.mark.slow
@pytest.mark.torchserve
def test_torchserve_serves_with_openvino(packed: Artifact, tmp_path: Path) -> None:
    """A real worker describes itself as OpenVINO, and its answers have the bits of a local session of OpenVINO."""
    require_torchserve()
    with serve(ServeOptions(workers=1), packed, logs=tmp_path / "logs") as server, closing(server.client()) as client:
        told = server.describe()["customizedMetadata"]
        found = client.predict(VECTOR)
    assert told["backend"] == "openvino"
    engine = Engine.load(packed.path / "bundle")
    assert found["total"].tobytes() == engine.session.run(VECTOR)["total"].tobytes()
    engine.close()


@pytest.mark.slow
@pytest.mark.usefixtures("_openvino")
def test_openvino_answers_as_onnx_runtime_does(tmp_path: Path) -> None:
    """All requests of the conformance suite: right bits or the right refusal, but 400 for numbers beyond 32 bits."""
    write_model(tmp_path / "model.onnx")
    options = BundleOptions(name=MODEL, provider="openvino")
    made = bundle(options, load_artifact(tmp_path / "model.onnx"), Place(tmp_path / "bundle"), CONTEXT)
    engine = Engine.load(made.path)
    with site(engine) as url:
        # the state of a server is not the engine's
        found = {key: one for key, one in run(url).items() if key[0] != "state"}
    engine.close()
    wide = {("values", f"{name}: largest") for name in ("i64", "u32", "u64")} | {("values", "i64: smallest")}
    assert len(found) >= 290
    assert {key: one.text for key, one in found.items() if not one.right} == dict.fromkeys(wide, "400")
