"""A real TorchServe on loopback: its answers equal those of a local session, and nothing is left afterwards."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import venv
from collections.abc import Iterator
from contextlib import closing
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import psutil
import pytest
from onnx import TensorProto, helper, numpy_helper
from served_models import require_torchserve

from retort.core.artifact import Artifact, load_artifact, new_artifact
from retort.core.console import Console
from retort.core.context import Place
from retort.core.data.splits import ArraySplit
from retort.core.errors import InputError, LimitError, MachineError, RetortError, ServingError
from retort.core.options.serving_options import PackOptions
from retort.core.options.stage_options import ServeOptions
from retort.core.session import open_session
from retort.serve.client import Client, predict, predict_split
from retort.serve.connection import Connections
from retort.serve.requests.wire import JSON, NPY, write_npy, write_npz
from retort.serve.torchserve import config as config_module
from retort.serve.torchserve import server as server_module
from retort.serve.torchserve.archives.archive import write_archive
from retort.serve.torchserve.ports import pick_ports
from retort.serve.torchserve.server import Server, serve

pytestmark = pytest.mark.torchserve
RANDOM = np.random.default_rng(0)
SITE = Path(np.__file__).parent.parent
# what a serving host needs: numpy, the runtime, and what TorchServe's worker imports; no torch, no retort, no onnx
NEEDS = "numpy numpy.libs onnxruntime flatbuffers google psutil packaging PIL pillow.libs yaml _yaml"


@pytest.fixture(scope="module", autouse=True)
def _torchserve() -> None:
    require_torchserve()


def _initializer(name: str, *shape: int) -> onnx.TensorProto:
    return numpy_helper.from_array(RANDOM.normal(size=shape).astype(np.float32) / 4, name)


def _model(path: Path) -> None:
    nodes = [
        helper.make_node("Conv", ["image", "k"], ["c"], pads=[1] * 4),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("Flatten", ["r"], ["f"]),
        helper.make_node("Gemm", ["f", "w", "b"], ["logits"]),
    ]
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 1, 8, 8])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 10])
    weights = [_initializer("k", 8, 1, 3, 3), _initializer("w", 512, 10), _initializer("b", 10)]
    model = helper.make_model(
        helper.make_graph(nodes, "g", [image], [logits], weights), opset_imports=[helper.make_opsetid("", 17)]
    )
    model.ir_version = 9
    onnx.save(model, path)


def _images(rows: int) -> dict[str, Any]:
    return {"image": RANDOM.normal(size=(rows, 1, 8, 8)).astype(np.float32)}


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """A small CNN, packed so that concurrent requests meet in one batch."""
    folder = tmp_path_factory.mktemp("archive")
    with new_artifact(Place(folder / "graph"), "graph", "export") as draft:
        scratch = draft.folder
        _model(scratch / "model.onnx")
        session, feeds = open_session(scratch / "model.onnx"), _images(4)
        (scratch / "signature.json").write_text(session.signature.to_json())
        golden = {"in.image": feeds["image"], "out.logits": session.run(feeds)["logits"]}
        (scratch / "golden.npz").write_bytes(write_npz(golden))
    options = PackOptions(name="-net", version="2.1-rc", max_batch_delay_ms=30)
    return write_archive(options, load_artifact(folder / "graph"), Place(folder / "archive"))


def _environment(folder: Path, needs: list[str]) -> Path:
    venv.create(folder, with_pip=False, symlinks=True)
    (site,) = folder.glob("lib/python*/site-packages")
    for name in needs:
        if (SITE / name).exists():
            (site / name).symlink_to(SITE / name)
    shutil.copytree(SITE / "ts", site / "ts", ignore=shutil.ignore_patterns("*.jar", "__pycache__"))
    (site / "ts" / "frontend" / "model-server.jar").symlink_to(SITE / "ts" / "frontend" / "model-server.jar")
    return folder / "bin" / "python"


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python with numpy, onnxruntime and TorchServe, without PyTorch and Retort."""
    return _environment(tmp_path_factory.mktemp("bare") / "env", NEEDS.split())


@pytest.fixture(scope="module")
def server(archive: Artifact, bare: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The archive in a real TorchServe, whose workers have neither PyTorch nor Retort."""
    with serve(ServeOptions(workers=1), archive, logs=tmp_path_factory.mktemp("logs"), python=bare) as running:
        yield running


@pytest.fixture(scope="module")
def local(archive: Artifact) -> Any:
    """The same model in a local session."""
    return open_session(archive.path / "bundle" / "model.onnx")


@pytest.mark.parametrize("rows", [1, 3, 8, 100])
@pytest.mark.parametrize("form", ["npy", "npz", "json"])
def test_each_form_carries_the_exact_answer(server: Server, local: Any, form: Any, rows: int) -> None:
    """npy, npz and JSON requests of one and of many rows get the local session's outputs bit for bit."""
    feeds = _images(rows)
    got = predict(server.url, server.name, feeds, form)["logits"]
    assert got.dtype == np.float32
    assert got.tobytes() == local.run(feeds)["logits"].tobytes()


@pytest.mark.parametrize("rows", [1, 7])
def test_a_whole_split_is_served_bit_for_bit_in_order(server: Server, local: Any, rows: int) -> None:
    """With concurrent requests for a whole set, the server gives the same as local runs of them."""
    split = ArraySplit(_images(300))
    client = server.client()
    got = predict_split(client, split, rows_per_request=rows, concurrency=8)["logits"]
    parts = [{"image": split.inputs["image"][start : start + rows]} for start in range(0, 300, rows)]
    wanted = np.concatenate([local.run(part)["logits"] for part in parts])
    assert got.tobytes() == wanted.tobytes()
    assert len(predict_split(client, split, limit=5)["logits"]) == 5
    client.close()


def test_plain_json_over_http(server: Server, local: Any) -> None:
    """Requests as from curl are answered in the same form: a list, named lists, instances."""
    feeds = _images(2)
    client, values = server.client(), feeds["image"].tolist()
    wanted = [[float(str(value)) for value in row] for row in local.run(feeds)["logits"]]  # the fewest digits
    for body, answer in ((values, wanted), ({"image": values}, {"logits": wanted}), ({"instances": values}, None)):
        status, headers, content = client.request("POST", "", json.dumps(body).encode(), {"Content-Type": JSON})
        assert status == 200
        assert headers["content-type"] == JSON
        assert json.loads(content) == (answer or {"predictions": wanted})
    status, headers, _ = client.request("POST", "", write_npy(feeds["image"]), {"Content-Type": NPY, "Accept": JSON})
    assert (status, headers["content-type"]) == (200, JSON)


def test_refusals_come_back_as_our_own_errors(server: Server) -> None:
    """Wrong shapes, sizes, types and names are 4xx with the reason, and the connection still works."""
    client = server.client()
    with pytest.raises(InputError, match="size 7 on axis 3") as caught:
        client.predict({"image": np.zeros((1, 1, 8, 7), np.float32)})
    assert caught.value.facts["expected"] == "image: float32[batch, 1, 8, 8]"
    with pytest.raises(InputError, match="missing image; unknown x"):
        client.predict({"x": np.zeros((1, 1, 8, 8), np.float32)}, "npz")
    with pytest.raises(LimitError, match="300 rows"):
        client.predict(_images(300))
    with pytest.raises((LimitError, ServingError), match=r"413|no answer"):
        client.predict({"image": np.zeros((30_000, 1, 8, 8), np.float32)})
    with pytest.raises(InputError, match="NaN"):
        client.predict({"image": np.full((1, 1, 8, 8), np.nan, np.float32)})
    with pytest.raises(InputError, match="404"):
        Client(server.url, "absent").predict(_images(1))
    assert client.request("POST", "", b"x", {"Content-Type": "image/png"})[0] == 415
    assert client.predict(_images(1))["logits"].shape == (1, 10)


def test_good_and_bad_requests_of_one_batch_get_their_own_answers(server: Server, local: Any) -> None:
    """Eight requests at the same time, half of them wrong: four exact answers and four errors."""
    feeds = [_images(1) if index % 2 else {"image": np.zeros((1, 1, 8, index + 1), np.float32)} for index in range(8)]
    results: dict[int, Any] = {}
    barrier = threading.Barrier(8)

    def _ask(index: int) -> None:
        client = server.client()
        barrier.wait()
        try:
            results[index] = client.predict(feeds[index])["logits"].tobytes()
        except RetortError as error:
            results[index] = error
        client.close()

    threads = [threading.Thread(target=_ask, args=(index,)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for index in range(8):
        if index % 2:
            assert results[index] == local.run(feeds[index])["logits"].tobytes()
        else:
            assert isinstance(results[index], InputError)
            assert results[index].facts["got"] == f"image: float32[1, 1, 8, {index + 1}]"


@pytest.mark.parametrize("path", ["/explanations/-net", "/v1/models/-net:explain", "/v2/models/-net/explain"])
def test_explanations_are_given_at_their_addresses(server: Server, path: str) -> None:
    """All three addresses of explanations give heatmaps as their header asks, and no plain prediction.

    A client's own header `explain` changes no prediction.
    """
    images = _images(2)["image"]
    body, headers = json.dumps(images.tolist()).encode(), {"Content-Type": JSON}
    with closing(Connections(server.url, 30)) as connections:
        asked = {**headers, "X-Retort-Explain": "class=2&budget=40"}
        status, _, content = connections.request("POST", path, body, asked)
        found = json.loads(content)["explanations"]
        assert (status, len(found)) == (200, 2)
        assert all(one["used"] <= one["budget"] == 40 and one["index"] == 2 for one in found)
        assert np.shape(found[0]["heatmaps"]["image"]["values"]) == images.shape[2:]
        asked = {**headers, "X-Retort-Explain": "class=many"}
        status, _, content = connections.request("POST", path, body, asked)
        assert (status, "no class 'many'" in json.loads(content)["message"]) == (400, True)
        status, _, content = connections.request("POST", "/predictions/-net", body, {**headers, "explain": "True"})
        assert (status, b"heatmaps" in content) == (200, False)


def test_the_server_describes_and_checks_itself(server: Server, archive: Artifact) -> None:
    """Describe has the archive's runtime and hash; healthcheck runs the golden inputs; workers are listed."""
    described = server.describe()
    own = described["customizedMetadata"]
    own = json.loads(own) if isinstance(own, str) else own
    assert own["model_sha256"] == archive.manifest.files["bundle/model.onnx"].sha256
    assert own["handler_version"]
    assert Path(own["runtime_path"]).name == "retort"
    assert not Path(own["runtime_path"]).is_relative_to(Path(server_module.__file__).parents[2])
    status, _, body = server.client().request("GET", "/2.1-rc/healthcheck")
    assert (status, json.loads(body)["healthy"]) == (200, True)
    assert [psutil.pid_exists(pid) for pid in server.worker_pids()] == [True]


def _listening(server: Server) -> set[tuple[str, int]]:
    family = psutil.Process(server.process.pid).children(recursive=True)
    found = [c.laddr for p in family for c in p.net_connections("tcp") if c.status == psutil.CONN_LISTEN]
    return {(address.ip.removeprefix("::ffff:"), address.port) for address in found}


def test_only_predictions_and_metrics_can_be_reached(server: Server) -> None:
    """On 127.0.0.1 listen only these two; the two gRPC servers have an address to which nothing can connect."""
    ports = server.ports
    reachable = {("127.0.0.1", ports.inference)}
    own = psutil.Process().net_connections("tcp")
    assert [c.laddr.ip for c in own if c.laddr.port == ports.metrics and not c.raddr] == ["127.0.0.1"]
    grpc = {("224.0.0.0", ports.grpc_inference), ("224.0.0.0", ports.grpc_management)}
    assert _listening(server) == reachable | grpc
    assert server.grpc == ""
    for _, port in grpc:
        for host in ("127.0.0.1", "224.0.0.0", "0.0.0.0", "::1", "::ffff:224.0.0.0"):
            with pytest.raises(OSError, match=r"refused|unreachable|assign"):
                socket.create_connection((host, port), timeout=5)


def test_nobody_else_can_manage_the_server(server: Server) -> None:
    """No TCP port scales or registers models; the socket that does is in a folder of this user alone."""
    scale, register = "/models/-net?min_worker=0&max_worker=0", "/models?url=http://127.0.0.1/x.mar"
    for host, port in {address for address in _listening(server) if address[0] == "127.0.0.1"}:
        with closing(Connections(f"http://{host}:{port}", 10)) as connections:
            for method, path in (("PUT", scale), ("POST", register), ("GET", "/models"), ("DELETE", "/models/-net")):
                assert connections.request(method, path)[0] in (404, 405)
    management = Path(server.management_url.removeprefix("unix:"))
    assert management.parent.stat().st_mode & 0o777 == 0o700
    code = "import os, socket, sys; os.setuid(65534); socket.socket(socket.AF_UNIX).connect(sys.argv[1])"
    if os.geteuid() == 0:
        stranger = [sys.executable, "-I", "-S", "-c", code, str(management)]
        done = subprocess.run(stranger, capture_output=True, text=True, check=False)
        assert "PermissionError" in done.stderr
    with closing(Connections(server.management_url, 10)) as connections:
        assert connections.request("GET", "/models")[0] == 200
        assert connections.request("POST", register)[0] == 405
    assert len(server.worker_pids()) == 1


@pytest.mark.slow
def test_grpc_that_cannot_be_closed_is_told(
    archive: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where no address is out of reach, as off Linux, the server names the address of gRPC, and a warning says so."""
    for module in (config_module, server_module):
        monkeypatch.setattr(module, "hides_grpc", lambda: False)
    with serve(ServeOptions(workers=1), archive, logs=tmp_path, console=Console("text")) as running:
        assert running.grpc == f"127.0.0.1:{running.ports.grpc_inference}"
        grpc = {("127.0.0.1", running.ports.grpc_inference), ("127.0.0.1", running.ports.grpc_management)}
        assert grpc <= _listening(running)
    told = " ".join("".join(capsys.readouterr()).split())
    assert "every user of this machine can stop the model" in told
    assert "gRPC interfaces cannot be turned off" in told


def _assert_speaks_http2(running: Server) -> None:
    host, _, port = running.grpc.partition(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]))
        assert connection.recv(9)[3] == 4  # SETTINGS, the first frame of every HTTP/2 server
    assert ("224.0.0.0", running.ports.grpc_management) in _listening(running)


def test_a_full_queue_refuses_at_once_and_answers_what_it_took(archive: Artifact, local: Any, tmp_path: Path) -> None:
    """While the worker stands still, the queue takes its length and refuses the others; those it took are answered.

    This server has gRPC, which was asked for; the management interface of gRPC still cannot be reached.
    """
    with serve(ServeOptions(p99_ms=1, workers=1, grpc=True), archive, logs=tmp_path) as running:
        _assert_speaks_http2(running)
        assert running.models[0].queue_length == 8
        status = running.describe()["jobQueueStatus"]
        assert (status["remainingCapacity"], status["pendingRequests"]) == (8, 0)
        worker = psutil.Process(running.worker_pids()[0])
        feeds, found, arrived = _images(1), list[str](), threading.Semaphore(0)

        def _ask() -> None:
            try:
                with closing(running.client()) as client:
                    exact = client.predict(feeds)["logits"].tobytes() == local.run(feeds)["logits"].tobytes()
                found.append("exact" if exact else "wrong")
            except ServingError:
                found.append("refused")
                arrived.release()

        worker.suspend()
        threads = [threading.Thread(target=_ask) for _ in range(60)]
        try:
            for thread in threads:
                thread.start()
            # what can be taken: the queue, the batch that the worker has, and the one that the front end collects
            for _ in range(60 - 3 * 8):
                assert arrived.acquire(timeout=30)
        finally:
            worker.resume()
        for thread in threads:
            thread.join(60)
        assert set(found) == {"exact", "refused"}
        assert found.count("exact") >= 8


def test_requests_leave_no_lines_in_the_logs(server: Server) -> None:
    """A hundred predictions add nothing to the logs."""
    before = {path.name: path.stat().st_size for path in server.logs.iterdir()}
    predict_split(server.client(), ArraySplit(_images(100)))
    assert {path.name: path.stat().st_size for path in server.logs.iterdir()} == before


def test_a_taken_port_is_refused_at_once(server: Server, archive: Artifact, tmp_path: Path) -> None:
    """A second server on the same port is rejected before anything starts, with a remedy."""
    begin = time.monotonic()
    options = ServeOptions(port=server.ports.inference)
    with pytest.raises(MachineError, match="port") as caught, serve(options, archive, logs=tmp_path):
        pass
    assert "--port" in caught.value.remedy
    assert time.monotonic() - begin < 5


def test_a_damaged_archive_never_reaches_the_server(archive: Artifact, tmp_path: Path) -> None:
    """A truncated .mar is rejected before Java starts."""
    damaged = tmp_path / "model.mar"
    damaged.write_bytes(archive.main.read_bytes()[:-100])
    with (
        pytest.raises(RetortError, match=r"model\.mar"),
        serve(ServeOptions(), load_artifact(damaged), logs=tmp_path / "logs"),
    ):
        pass
    assert not (tmp_path / "logs").exists()


def test_the_archive_serves_where_retort_is_not_installed(server: Server, bare: Path, tmp_path: Path) -> None:
    """The worker that gives all the exact answers of these tests runs without PyTorch and Retort."""
    for package in ("retort", "torch"):
        probe = subprocess.run([bare, "-c", f"import {package}"], capture_output=True, text=True, cwd=tmp_path)
        assert f"No module named '{package}'" in probe.stderr
    (worker,) = server.worker_pids()
    assert psutil.Process(worker).cmdline()[0] == str(bare)


@pytest.mark.parametrize(
    ("missing", "kind", "said"),
    [
        ("onnxruntime", MachineError, "onnxruntime cannot be imported"),
        pytest.param("yaml", ServingError, "No module named 'yaml'", marks=pytest.mark.slow),
    ],
)
def test_a_failing_start_says_why(
    archive: Artifact, tmp_path: Path, missing: str, kind: type[RetortError], said: str
) -> None:
    """If a worker cannot start, the error has the cause at once, and everything is stopped."""
    python = _environment(tmp_path / "env", [name for name in NEEDS.split() if name != missing])
    before = {process.pid for process in psutil.Process().children(recursive=True)}
    begin = time.monotonic()
    with (
        pytest.raises(kind, match=said),
        serve(ServeOptions(workers=1), archive, logs=tmp_path / "logs", python=python),
    ):
        pass
    assert time.monotonic() - begin < 60
    assert {process.pid for process in psutil.Process().children(recursive=True)} <= before


SCRIPT = """
import sys, time
from pathlib import Path
from retort.core.artifact import load_artifact
from retort.core.options.stage_options import ServeOptions
from retort.serve.torchserve.server import serve
with serve(ServeOptions(workers=1), load_artifact(Path(sys.argv[1])), logs=Path(sys.argv[2])) as server:
    print(server.process.pid, *server.worker_pids(), flush=True)
    time.sleep(600)
"""


def test_nothing_outlives_us(archive: Artifact, tmp_path: Path) -> None:
    """If our process is killed, server and workers end with it and the scratch folder is deleted."""
    command = [sys.executable, "-c", SCRIPT, str(archive.path), str(tmp_path / "logs")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=tmp_path)
    assert process.stdout is not None
    watchdog, worker = map(int, process.stdout.readline().split())
    family = [psutil.Process(watchdog), *psutil.Process(watchdog).children(recursive=True)]
    scratch = Path(family[0].cwd())
    assert worker in {member.pid for member in family}
    os.kill(process.pid, signal.SIGKILL)
    process.wait(30)
    process.stdout.close()
    _, alive = psutil.wait_procs(family, timeout=20)
    assert not alive
    assert not scratch.exists()


@pytest.mark.slow
def test_a_port_lost_to_another_is_replaced(
    archive: Artifact, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If Java cannot bind a chosen port, other ports are tried; a requested port is reported."""
    real = pick_ports
    answers = iter([server.ports])
    monkeypatch.setattr(server_module, "pick_ports", lambda *asked: next(answers, None) or real(*asked))
    with serve(ServeOptions(workers=1), archive, logs=tmp_path) as second:
        assert second.ports.inference != server.ports.inference
        assert second.client().predict(_images(1))["logits"].shape == (1, 10)
    monkeypatch.setattr(server_module, "pick_ports", lambda *asked: server.ports)
    asked = ServeOptions(port=server.ports.inference)
    with pytest.raises(ServingError, match="could not bind its port"), serve(asked, archive, logs=tmp_path):
        pass


def test_torchserve_is_the_version_we_know() -> None:
    """The handler's contract was checked with TorchServe 0.12.0."""
    assert version("torchserve") == "0.12.0"
