"""Triton's repositories: what is in them, how Triton's own messages read them, and how a real Triton answers."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from explained_models import colour_model
from other_servers import Told, ask, free_port, home, linear, outputs_of, triton, triton_command
from served_models import KINDS, graph

import retort
from retort.__main__ import main
from retort.core.artifact import Artifact, load_artifact
from retort.core.console import Console
from retort.core.context import Context, Place
from retort.core.errors import ArtifactError, UserError
from retort.core.options.serving_options import BundleOptions, PackOptions
from retort.core.session import open_session
from retort.core.signature import Signature
from retort.core.tensors import TensorSpec
from retort.serve.bundles.bundled import check_bundle
from retort.serve.bundles.stage import bundle
from retort.serve.settings import Settings
from retort.serve.targets.stage import bundle_of, commands_of, deploy
from retort.serve.targets.triton_config import rows_of_batches
from retort.serve.torchserve.archives.archive import open_mar, write_archive

CONTEXT = Context(None, console=Console("text"))  # type: ignore[arg-type]  # it reads no data


def _deployed(parent: Artifact, folder: Path, **options: Any) -> Artifact:
    return deploy(PackOptions(**{"target": "triton", **options}), parent, Place(folder), CONTEXT)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """A linear model for Triton."""
    folder = tmp_path_factory.mktemp("triton")
    return _deployed(linear(folder), folder / "made", name="linear", workers=2, threads=3, p99_ms=250)


def test_both_repositories_are_written(made: Artifact) -> None:
    """One with the bundle for the Python backend, one with the bare model, and the commands that start Triton."""
    files = set(made.manifest.files)
    assert {"python-backend/linear/config.pbtxt", "python-backend/linear/1/model.py"} <= files
    assert {"onnx-backend/linear/config.pbtxt", "onnx-backend/linear/1/model.onnx"} <= files
    assert check_bundle(bundle_of(made))["name"] == "linear"
    assert (made.path / "onnx-backend/linear/1/model.onnx").read_bytes() == (
        bundle_of(made) / "model.onnx"
    ).read_bytes()
    assert len(commands_of(made)) == 2


def test_equal_input_gives_equal_bytes(made: Artifact, tmp_path: Path) -> None:
    """A deployment that is made again elsewhere has the same files."""
    options = {"name": "linear", "workers": 2, "threads": 3, "p99_ms": 250}
    assert _deployed(linear(tmp_path), tmp_path / "again", **options).manifest.files == made.manifest.files


def test_a_bundle_is_packed_with_its_own_options(tmp_path: Path) -> None:
    """Name, version and limits come from the bundle, for Triton and TorchServe alike; others are refused."""
    whole = bundle(BundleOptions(name="net", version="7"), linear(tmp_path), Place(tmp_path / "b"), CONTEXT)
    assert check_bundle(bundle_of(_deployed(whole, tmp_path / "t")))["version"] == "7"
    mar = open_mar(write_archive(PackOptions(), whole, Place(tmp_path / "m")))
    assert (mar.name, mar.version) == ("net", "7")
    with pytest.raises(UserError, match=r"name is 'other', but the bundle .* has 'net'") as caught:
        write_archive(PackOptions(name="other"), whole, Place(tmp_path / "no"))
    assert "retort bundle" in caught.value.remedy
    with pytest.raises(UserError, match="workers is 3, but the bundle"):
        _deployed(whole, tmp_path / "no", workers=3)
    (whole.path / "model.onnx").write_bytes(b"damaged")
    with pytest.raises(ArtifactError, match=r"model\.onnx has SHA-256"):
        _deployed(whole, tmp_path / "no")


@pytest.mark.parametrize(
    ("shapes", "rows"),
    [
        ((("batch", 3), ("batch", 2)), 256),
        ((("batch", 3), ("batch",)), 0),
        (((3, "batch"), ("batch", 2)), 0),
        ((("batch", 3), (4, 2)), 0),
    ],
)
def test_triton_combines_only_what_it_can_describe(shapes: Any, rows: int) -> None:
    """A batch size is given only if every tensor has its batch axis first and another axis behind it."""
    specs = [TensorSpec(name, "float32", shape) for name, shape in zip("xy", shapes)]
    signature = Signature((specs[0],), (specs[1],))
    assert rows_of_batches(signature, Settings()) == rows
    assert rows_of_batches(Signature((specs[0],), (specs[1],), batch_invariant=False), Settings()) == 0
    assert rows_of_batches(signature, Settings(batching="off")) == 0


def test_triton_takes_arrays_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Whoever packs a model that reads photos is told that Triton's clients must send arrays."""
    _deployed(load_artifact(colour_model(tmp_path / "net.onnx")), tmp_path / "made", name="net")
    told = " ".join(capsys.readouterr().err.split())
    assert "Triton takes only arrays, so clients must make them of images (x: float32[batch, 3, 32, 32])" in told


def test_python_and_the_command_line_deploy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`retort.pack` gives an object with the commands, `retort pack` prints them, and `retort show` verifies."""
    source = linear(tmp_path)
    live = retort.pack(source.path, tmp_path / "live", target="triton", name="linear", folder=tmp_path / "work")
    assert isinstance(live, retort.Deployment)
    assert "tritonserver --model-repository=python-backend" in repr(live)
    again = retort.load(live.path)
    assert isinstance(again, retort.Deployment)
    out = tmp_path / "cli"
    arguments = ["pack", str(source.path), "--target", "triton", "--name", "linear", "--out", str(out)]
    assert _command(arguments) == 0
    assert f"cd {out} && tritonserver" in capsys.readouterr().out
    assert _command(["show", str(out)]) == 0
    assert "float32" in capsys.readouterr().out
    for target in ("torchserve", "triton"):
        assert _command([*arguments[:2], "--target", target, "--name", "x", "--out", str(out)]) == 2
        told = " ".join(capsys.readouterr().err.split())
        assert ("contains a deployment, and the result is an archive" in told) == (target == "torchserve")
    np.save(tmp_path / "x.npy", np.zeros((2, 6), np.float32))
    whole = retort.bundle(source.path, tmp_path / "whole", folder=tmp_path / "work")
    for model in (out, whole.path):
        assert _command(["predict", str(model), "--input", str(tmp_path / "x.npy")]) == 0
        assert "y: float32[2, 3]" in capsys.readouterr().out
    assert _command(["serve", str(out)]) == 3
    assert "this needs an archive" in capsys.readouterr().err


def _command(arguments: list[str]) -> int:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    return int(caught.value.code or 0)


def test_models_that_run_singly_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A warning says why Triton forms no batches of a model."""
    _deployed(graph("vector", tmp_path), tmp_path / "t")
    assert "total: float32[batch] has no axis besides the batch" in " ".join(capsys.readouterr().err.split())


def _parsed(folder: Path) -> Any:
    """A configuration as Triton's own protobuf message reads it."""
    code = (
        "import sys; from google.protobuf import json_format, text_format\n"
        "from tritonclient.grpc.model_config_pb2 import ModelConfig\n"
        "text = open(sys.argv[1]).read()\n"
        "print(json_format.MessageToJson(text_format.Parse(text, ModelConfig())))"
    )
    command = [str(home("triton") / "bin" / "python"), "-c", code, str(folder / "config.pbtxt")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
def test_tritons_own_message_reads_the_configuration(made: Artifact) -> None:
    """Instances, version, queue, batcher, threads and warm-up are what the options say."""
    python = _parsed(made.path / "python-backend" / "linear")
    onnx = _parsed(made.path / "onnx-backend" / "linear")
    for found in (python, onnx):
        assert (found["name"], found["maxBatchSize"]) == ("linear", 256)
        assert found["input"] == [{"name": "x", "dataType": "TYPE_FP32", "dims": ["6"]}]
        assert found["output"] == [{"name": "y", "dataType": "TYPE_FP32", "dims": ["3"]}]
        assert found["instanceGroup"] == [{"count": 2, "kind": "KIND_CPU"}]
        assert found["versionPolicy"] == {"specific": {"versions": ["1"]}}
        queue = found["dynamicBatching"]["defaultQueuePolicy"]
        assert int(queue["defaultTimeoutMicroseconds"]) == 250_000
        assert queue.get("timeoutAction", "REJECT") == "REJECT"
    assert (python["backend"], onnx["backend"]) == ("python", "onnxruntime")
    assert onnx["parameters"]["intra_op_thread_count"] == {"stringValue": "3"}
    (warmup,) = onnx["modelWarmup"]
    file = made.path / "onnx-backend/linear/warmup" / warmup["inputs"]["x"]["inputDataFile"]
    golden = np.load(bundle_of(made) / "golden.npz")["in.x"]
    assert file.read_bytes() == golden[:1].tobytes()


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_configurations_of_all_kinds_can_be_read(kind: str, tmp_path: Path) -> None:
    """Scalars, free axes, several inputs, flags and names with quotes give configurations that Triton reads."""
    whole = _deployed(graph(kind, tmp_path), tmp_path / "t")
    forms = ["python-backend", *([] if kind == "number" else ["onnx-backend"])]  # it has a tensor without axes
    assert len(commands_of(whole)) == len(forms)
    for form in forms:
        found = _parsed(whole.path / form / "model")
        assert [item["name"] for item in found["input"]] == list(KINDS[kind])
        assert {"total"} == {item["name"] for item in found["output"]}


@pytest.fixture(scope="module")
def url(made: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real Triton that serves the repository of the Python backend."""
    home("triton")
    with triton(made.path / "python-backend", tmp_path_factory.mktemp("server")) as running:
        yield running


def _v2(x: np.ndarray[Any, Any]) -> bytes:
    tensor = {"name": "x", "datatype": "FP32", "shape": list(x.shape), "data": x.reshape(-1).tolist()}
    return json.dumps({"inputs": [tensor]}).encode()


def _binary(url: str, x: np.ndarray[Any, Any]) -> Told:
    """A request and an answer in V2's binary form."""
    given = {"name": "x", "datatype": "FP32", "shape": list(x.shape), "parameters": {"binary_data_size": x.nbytes}}
    wanted = {"name": "y", "parameters": {"binary_data": True}}
    head = json.dumps({"inputs": [given], "outputs": [wanted]}).encode()
    return ask(f"{url}/v2/models/linear/infer", head + x.tobytes(), Inference_Header_Content_Length=str(len(head)))


@pytest.mark.slow
@pytest.mark.servers
@pytest.mark.parametrize("rows", [1, 3, 8, 100, 256])
def test_triton_answers_what_the_session_computes(url: str, made: Artifact, rows: int) -> None:
    """JSON and binary answers are those of a local session bit for bit, and not empty."""
    x = np.random.default_rng(rows).normal(size=(rows, 6)).astype(np.float32)
    wanted = open_session(bundle_of(made) / "model.onnx").run({"x": x})["y"]
    assert outputs_of(ask(f"{url}/v2/models/linear/infer", _v2(x)))["y"].tobytes() == wanted.tobytes()
    told = _binary(url, x)
    assert told.status == 200, told.body
    raw = told.body[int(told.headers["Inference-Header-Content-Length"]) :]
    assert raw == wanted.tobytes() != b""


@pytest.mark.slow
@pytest.mark.servers
def test_bad_requests_leave_their_neighbours_alone(url: str, made: Artifact) -> None:
    """In a crowd of which every third request has NaN, those get 400 with a remedy, and all others their answer."""
    rows = np.random.default_rng(5).normal(size=(90, 1, 6)).astype(np.float32)
    wanted = [open_session(bundle_of(made) / "model.onnx").run({"x": row})["y"] for row in rows]
    rows[::3, 0, 0] = np.nan
    with ThreadPoolExecutor(30) as pool:
        answers = list(pool.map(lambda row: _binary(url, row), rows))
    for index, told in enumerate(answers):
        if index % 3 == 0:
            assert told.status == 400
            assert b"has NaN values; replace them" in told.body
        else:
            assert told.body[int(told.headers["Inference-Header-Content-Length"]) :] == wanted[index].tobytes()


@pytest.mark.slow
@pytest.mark.servers
@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1,5],"data":[1,2,3,4,5]}]}', 400),
        (b'{"inputs":[{"name":"z","datatype":"FP32","shape":[1,6],"data":[1,2,3,4,5,6]}]}', 400),
        (b'{"inputs":[{"name":"x","datatype":"INT64","shape":[1,6],"data":[1,2,3,4,5,6]}]}', 400),
        (_v2(np.zeros((257, 6), np.float32)), 400),
        (b"{", 500),  # Triton's own status for JSON that it cannot read
    ],
)
def test_requests_that_do_not_fit_are_refused(url: str, body: bytes, status: int) -> None:
    """Triton or the engine refuses them, and the model goes on."""
    assert ask(f"{url}/v2/models/linear/infer", body).status == status
    assert ask(f"{url}/v2/models/linear/ready").status == 200


@pytest.mark.slow
@pytest.mark.servers
@pytest.mark.parametrize("kind", ["text", "flags", "number", "masked"])
def test_other_kinds_of_models_answer(kind: str, tmp_path: Path) -> None:
    """Several inputs, integers, flags, scalars and infinite values arrive as they are."""
    whole = _deployed(graph(kind, tmp_path), tmp_path / "t", name=kind)
    inputs = KINDS[kind]
    names = {"float32": "FP32", "int64": "INT64", "bool": "BOOL", "uint8": "UINT8"}
    head, raw = [], b""
    for name, array in inputs.items():
        kept = array if array.ndim else array.reshape(1)  # Triton has no tensor without axes
        size = {"parameters": {"binary_data_size": kept.nbytes}}
        head.append({"name": name, "datatype": names[array.dtype.name], "shape": list(kept.shape), **size})
        raw += kept.tobytes()
    text = json.dumps({"inputs": head}).encode()
    with triton(whole.path / "python-backend", tmp_path) as address:
        told = ask(f"{address}/v2/models/{kind}/infer", text + raw, Inference_Header_Content_Length=str(len(text)))
    wanted = open_session(bundle_of(whole) / "model.onnx").run(inputs)["total"]
    assert outputs_of(told)["total"].tobytes() == wanted.tobytes()


@pytest.mark.slow
@pytest.mark.servers
def test_a_damaged_bundle_is_not_served(made: Artifact, tmp_path: Path) -> None:
    """A flipped bit in the model keeps Triton from loading it, with the reason in its log."""
    copy = shutil.copytree(made.path / "python-backend", tmp_path / "copy")
    model = copy / "linear" / "1" / "bundle" / "model.onnx"
    content = bytearray(model.read_bytes())
    content[-1] ^= 1
    model.write_bytes(bytes(content))
    command, environment = triton_command(copy, tmp_path, free_port())
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode != 0
    assert "model.onnx has SHA-256" in done.stdout + done.stderr


def test_model_py_is_python_for_any_host() -> None:
    """The file for the Python backend imports only the standard library, Triton's module and the bundle's runtime."""
    path = Path(sys.modules["retort.serve.targets.triton_config"].__file__ or "").with_name("triton_model.py")
    lines = [line.strip() for line in path.read_text().splitlines() if line.strip().startswith(("import ", "from "))]
    names = {line.split()[1].split(".")[0] for line in lines}
    assert names - sys.stdlib_module_names - {"__future__"} == {"triton_python_backend_utils", "retort_runtime"}
