"""The client and the watchdog with simulated servers: every failure is reported, and nothing blocks."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from served_models import CERTIFICATE, archive
from served_models import site as site_of

from retort.__main__ import main
from retort.core.data.splits import ArraySplit
from retort.core.errors import (
    ArtifactError,
    InputError,
    LimitError,
    MachineError,
    MissingFileError,
    RetortError,
    ServingError,
    UserError,
)
from retort.serve.client import Client, predict_split
from retort.serve.engine import Engine
from retort.serve.known_servers import KnownServer, announced, models_at
from retort.serve.requests.wire import NPY, NPZ, read_npy, write_npy, write_npz
from retort.serve.settings import Limits
from retort.serve.torchserve import process as process_module
from retort.serve.torchserve.management import Management
from retort.serve.torchserve.process import Process
from retort.serve.torchserve.startup import startup_failure

ROOT = Path(__file__).resolve().parents[2]
FEEDS = {"x": np.arange(6, dtype=np.float32).reshape(2, 3)}
Reply = Callable[[bytes, int], tuple[int, str, bytes]]


class _Site:
    """An HTTP server whose answers the test chooses."""

    def __init__(self) -> None:
        self.reply: Reply = lambda body, count: (200, NPY, write_npy(2 * read_npy(body, Limits())))
        self.count = 0
        self.connections = 0
        self.drop_after_answer = False
        site = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                site.connections += 1
                super().setup()

            def do_GET(self) -> None:
                self.do_POST()

            def do_POST(self) -> None:
                site.count += 1
                status, kind, content = site.reply(
                    self.rfile.read(int(self.headers.get("Content-Length", 0))), site.count
                )
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("X-Retort-Outputs", "y")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)
                # an unannounced close, as of a server whose idle time is over
                self.close_connection = site.drop_after_answer

            def log_message(self, *args: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()


@pytest.fixture
def site() -> Iterator[_Site]:
    """A running simulated server."""
    made = _Site()
    yield made
    made.http.shutdown()
    made.http.server_close()


def test_connections_are_kept_and_renewed(site: _Site) -> None:
    """A client reuses its connection, and repeats the request on a new one if the server has closed it."""
    client = Client(site.url)
    for drop in (False, True, True, False):
        site.drop_after_answer = drop
        np.testing.assert_array_equal(client.predict(FEEDS)["y"], 2 * FEEDS["x"])
        time.sleep(0.05)
    assert site.count == 4
    assert site.connections == 3  # the second request is the last on the first connection, the third on the second
    client.close()


def _plain(status: int, body: bytes, *_: object) -> tuple[int, str, bytes]:
    """A reply without the fields of our servers."""
    return status, "text/html", body


@pytest.mark.parametrize(
    ("status", "kind"),
    [(400, InputError), (404, InputError), (413, LimitError), (500, ServingError), (503, ServingError)],
)
def test_statuses_become_errors(site: _Site, status: int, kind: type[RetortError]) -> None:
    """Each status becomes the right error, with the server's message and fields, or a plain one without a body."""
    body = json.dumps({"message": "bad axis", "remedy": "turn it", "input": "x", "code": 7}).encode()
    site.reply = lambda sent, count: (status, "application/json", body)
    with pytest.raises(kind, match=f"{status}: bad axis") as caught:
        Client(site.url).predict(FEEDS)
    assert caught.value.remedy == "turn it"
    assert caught.value.facts["input"] == "x"
    for odd in (b"", b"<html>", b"[]", b"\xff"):
        site.reply = partial(_plain, status, odd)
        with pytest.raises(kind, match=str(status)):
            Client(site.url).predict(FEEDS)


@pytest.mark.parametrize(
    ("kind", "body"),
    [(NPY, b"x"), (NPZ, b"x"), ("application/json", b"{}"), ("text/html", b"<p>"), ("application/json", b"[1")],
)
def test_answers_that_make_no_sense_are_reported(site: _Site, kind: str, body: bytes) -> None:
    """An answer that cannot be read is reported as an error of the server."""
    site.reply = lambda sent, count: (200, kind, body)
    with pytest.raises(ServingError, match="cannot be read"):
        Client(site.url).predict(FEEDS)


def test_a_split_is_asked_in_order_and_stops_at_the_first_failure(site: _Site) -> None:
    """Answers are joined in the order of the samples; after a failure, few further requests are sent."""
    split = ArraySplit({"x": np.arange(50, dtype=np.float32).reshape(50, 1)})
    client = Client(site.url)
    got = predict_split(client, split, rows_per_request=3, concurrency=5)["y"]
    np.testing.assert_array_equal(got, 2 * split.inputs["x"])
    site.count = 0
    site.reply = lambda sent, count: (503, "text/plain", b"")
    with pytest.raises(ServingError):
        predict_split(client, split, concurrency=2)
    assert site.count < 10
    with pytest.raises(UserError, match="empty"):
        predict_split(client, ArraySplit({"x": np.zeros((0, 1), np.float32)}))


def test_named_outputs_come_from_npz_and_v2(site: _Site) -> None:
    """npz and KServe V2 answers give arrays by name, with their dtypes."""
    made = {"a": np.array([1.5], np.float32), "b": np.array([[3]])}
    site.reply = lambda sent, count: (200, NPZ, write_npz(made))
    got = Client(site.url).predict(FEEDS)
    assert {name: (array.dtype, array.tolist()) for name, array in got.items()} == {
        name: (array.dtype, array.tolist()) for name, array in made.items()
    }
    tensors = [{"name": "a", "datatype": "FP32", "shape": [2], "data": [0.5, None]}]
    site.reply = lambda sent, count: (200, "application/json", json.dumps({"outputs": tensors}).encode())
    scores = Client(site.url).predict(FEEDS, "json")["a"]
    assert scores.dtype == np.float32
    np.testing.assert_array_equal(scores, np.array([0.5, np.nan], np.float32))


def _close_all(listening: socket.socket) -> None:
    """Close each connection before it is answered."""
    with suppress(OSError):  # the test has ended
        while True:
            listening.accept()[0].close()


def test_nobody_there_is_said(site: _Site) -> None:
    """No listener, a closed connection, a server without answers and a wrong address have their own errors."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
        with pytest.raises(ServingError, match=r"no answer.*nothing listens there"):
            Client(address).predict(FEEDS)
        free.listen()
        with pytest.raises(ServingError, match=r"no answer.*within 0.2 s"):
            Client(address, timeout_s=0.2).predict(FEEDS)
    with socket.create_server(("127.0.0.1", 0)) as rude:
        threading.Thread(target=_close_all, args=(rude,), daemon=True).start()
        with pytest.raises(ServingError, match=r"no answer.*(closed|reset)") as closed:
            Client(f"http://127.0.0.1:{rude.getsockname()[1]}").predict(FEEDS)
        assert "look at its logs" in closed.value.remedy
    with pytest.raises(ServingError, match="the host is not known"):
        Client("http://nowhere.invalid").predict(FEEDS)
    with pytest.raises(UserError, match="http address"):
        Client("127.0.0.1:80")
    with pytest.raises(InputError, match="one array"):
        Client(site.url).predict({**FEEDS, "z": FEEDS["x"]}, "npy")


def test_a_full_queue_is_said(site: _Site) -> None:
    """TorchServe's 503, which speaks of missing workers, becomes what it means; our own 503 keeps its words."""
    body = {"code": 503, "type": "ServiceUnavailableException", "message": 'Model "m" has no worker to serve'}
    site.reply = lambda sent, count: (503, "application/json", json.dumps(body).encode())
    with pytest.raises(ServingError, match=r"503: its queue is full") as caught:
        Client(site.url).predict(FEEDS)
    assert "later" in caught.value.remedy
    site.reply = lambda sent, count: (503, "application/json", b'{"message": "the model is not loaded"}')
    with pytest.raises(ServingError, match="503: the model is not loaded"):
        Client(site.url).predict(FEEDS)


def test_a_client_takes_the_whole_address(site: _Site) -> None:
    """The address of a model is that of its server with its name; two names must be the same; lists are arrays."""
    whole = Client(f"{site.url}/vision/predictions/net/2.0")
    assert (whole.address.name, whole.address.version, whole.address.prefix) == ("net", "2.0", "/vision")
    assert whole.predict({"x": [[1.5, 2]]})["y"].tolist() == [[3, 4]]
    assert Client(site.url).address.name == "model"
    assert Client(f"{site.url}/predictions/net", "net").address.name == "net"
    with pytest.raises(UserError, match="'net', not 'other'"):
        Client(f"{site.url}/predictions/net", "other")


def test_tls_and_tokens(tmp_path: Path) -> None:
    """Over https the certificate is verified; without the token, or to the wrong kind of port, the remedy is named."""
    engine = Engine.load(archive("vector", tmp_path).path / "bundle")
    feeds = {"x": [[1.5, 2.0]]}
    with site_of(engine, tls=True, token="t") as url:
        token = {"Authorization": "Bearer t"}
        assert Client(url, headers=token, ca=CERTIFICATE).predict(feeds)["total"].tolist() == [3.5]
        with pytest.raises(ServingError, match="certificate is not trusted") as caught:
            Client(url, headers=token).predict(feeds)
        assert "--ca" in caught.value.remedy
        with pytest.raises(InputError, match="401") as refused:
            Client(url, ca=CERTIFICATE).predict(feeds)
        assert "--header" in refused.value.remedy
        with pytest.raises(ServingError, match="no answer") as encrypted:
            Client(url.replace("https", "http")).predict(feeds)
        assert f"use {url}" in encrypted.value.remedy
    with site_of(engine) as url, pytest.raises(ServingError, match="does not speak TLS") as plain:
        Client(url.replace("http", "https")).predict(feeds)
    assert plain.value.remedy == f"use {url}"
    with pytest.raises(MissingFileError, match="no such file"):
        Client("https://localhost", ca=tmp_path / "none.pem")
    (tmp_path / "odd.pem").write_text("x")
    with pytest.raises(UserError, match="no certificate"):
        Client("https://localhost", ca=tmp_path / "odd.pem")
    engine.close()


def test_what_is_no_http_is_said() -> None:
    """A port on which something else than HTTP answers is named as such."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        thread = threading.Thread(target=lambda: other.accept()[0].sendall(b"220 mail\r\n\r\n"), daemon=True)
        thread.start()
        with pytest.raises(ServingError, match="does not speak HTTP"):
            Client(f"http://127.0.0.1:{other.getsockname()[1]}").predict(FEEDS)


def _models(*names: str) -> Reply:
    listed = json.dumps({"models": [{"modelName": name, "modelUrl": "m.mar"} for name in names]}).encode()
    return lambda sent, count: (200, "application/json", listed)


def test_servers_of_this_machine_are_known(
    site: _Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A server is known while it runs, with the models of its management interface; a killed one is forgotten, also if
    another process has its id."""
    monkeypatch.setenv("RETORT_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", FEEDS["x"])
    served = "http://localhost:4711"
    with announced(KnownServer(served, ("noted",), site.url)):
        site.reply = _models("b", "a")
        assert models_at(served) == ["a", "b"]
        site.reply = lambda sent, count: (500, "text/html", b"<p>")
        assert models_at(served) == ["noted"]
        note = tmp_path / "cache" / "servers" / "4711.json"
        written = json.loads(note.read_text())
        for killed in ({"pid": 2**22 + 1}, {"started": written["started"] - 60}, {"started": None}):
            note.write_text(json.dumps({**written, **killed}))
            with pytest.raises(ServingError, match="nothing listens"):
                models_at(served)
        note.write_text("{")
        with pytest.raises(ServingError, match="nothing listens"):
            models_at(served)
    assert not note.exists()
    site.reply = _models("a", "b")
    assert models_at(site.url) == ["a", "b"]
    assert call("predict", site.url, "--input", "x.npy") == 2
    assert "has several models: a, b\n  → give one of them" in capsys.readouterr().err
    site.reply = lambda sent, count: (404, "application/json", b"{}")
    assert models_at(site.url) == []
    assert call("predict", site.url, "--input", "x.npy") == 2
    assert "does not tell which models it has\n  → give the whole address" in capsys.readouterr().err
    (tmp_path / "cache").joinpath("servers").rmdir()
    (tmp_path / "cache" / "servers").write_text("a file")
    with announced(KnownServer(served, ("noted",), site.url)), pytest.raises(ServingError, match="nothing listens"):
        models_at(served)


@pytest.mark.parametrize("line", ["token", ": x", "a: b\nc: d", "Größe: 1"])
def test_headers_that_cannot_be_sent_are_refused(
    site: _Site, line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A header without a colon, without a name, or with characters that HTTP does not have is one sentence."""
    np.save(tmp_path / "x.npy", FEEDS["x"])
    assert call("predict", f"{site.url}/predictions/n", "--input", str(tmp_path / "x.npy"), "--header", line) == 2
    assert "write --header 'Name: value'" in capsys.readouterr().err
    assert site.count == 0


def call(*arguments: str) -> int:
    """Exit code of a command that runs in this process."""
    with pytest.raises(SystemExit) as stopped:
        main(list(arguments))
    assert isinstance(stopped.value.code, int)
    return stopped.value.code


def _family(process: Process, size: int) -> list[psutil.Process]:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        members = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        if len(members) >= size:
            return members
        time.sleep(0.02)
    raise AssertionError("the process did not start")


STUBBORN = """
import signal, subprocess, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
subprocess.Popen(["sleep", "99"])
time.sleep(99)
"""


@pytest.mark.parametrize("stubborn", [True, False])
def test_stop_ends_the_whole_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stubborn: bool) -> None:
    """A process that handles SIGTERM ends at once; others are killed after the grace time, with children."""
    grace_s = 2.0
    monkeypatch.setattr(process_module, "GRACE_S", grace_s)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    command = [sys.executable, "-c", STUBBORN] if stubborn else ["sh", "-c", "sleep 99 & sleep 99"]
    process = Process(command, scratch, tmp_path / "log")
    family = _family(process, 3 if stubborn else 4)
    assert process.alive()
    begin = time.monotonic()
    process.stop()
    process.stop()
    took_s = time.monotonic() - begin
    assert grace_s <= took_s < 3 * grace_s if stubborn else took_s < grace_s
    assert not psutil.wait_procs(family, timeout=5)[1]
    assert not scratch.exists()
    assert not process.alive()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child that its parent was killed")
def test_killing_the_watchdog_ends_the_server(tmp_path: Path) -> None:
    """If the watchdog is killed with SIGKILL, the server ends as well, and its scratch folder is deleted."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    process = Process(["sleep", "99"], scratch, tmp_path / "log")
    family = _family(process, 2)
    os.kill(process.pid, signal.SIGKILL)
    assert not psutil.wait_procs(family, timeout=5)[1]
    process.stop()
    assert not scratch.exists()


def test_a_command_that_ends_by_itself_is_noticed(tmp_path: Path) -> None:
    """When the server dies, the process is no longer alive and its output is in the log."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    process = Process(["sh", "-c", "echo gone; exit 3"], scratch, tmp_path / "log")
    deadline = time.monotonic() + 10
    while process.alive() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not process.alive()
    assert (tmp_path / "log").read_text() == "gone\n"
    process.stop()


FAILED = 'x - RETORT_LOAD_FAILED {"code": "%s", "message": "m", "remedy": "r", "python": "p"}'


@pytest.mark.parametrize(
    ("name", "text", "alive", "kind", "said"),
    [
        ("worker.log", FAILED % "ArtifactError", True, ArtifactError, "cannot serve this archive: m"),
        ("worker.log", FAILED % "MachineError", True, MachineError, "its python: p"),
        ("worker.log", FAILED % "Odd", True, ServingError, "m"),
        ("worker.log", "x RETORT_LOAD_FAILED {", True, ServingError, "cannot serve"),
        (
            "server.log",
            "Backend worker error\nE: java.io.IOException: no such file",
            True,
            ServingError,
            "no such file",
        ),
        ("console.log", "Invalid configuration: bad key", False, ServingError, "Invalid configuration: bad key"),
        ("console.log", "java.io.IOException: Failed to bind to address", False, ServingError, "bind its port"),
        ("console.log", "last words", False, ServingError, "last words"),
        ("other.log", "", False, ServingError, "wrote no log"),
    ],
)
def test_the_logs_have_the_reason_of_a_failed_start(
    tmp_path: Path, name: str, text: str, alive: bool, kind: type[RetortError], said: str
) -> None:
    """The reason is found in any log, and a healthy start has none."""
    assert startup_failure(tmp_path, alive=True) is None
    (tmp_path / name).write_text(text + "\n")
    failure = startup_failure(tmp_path, alive)
    assert type(failure) is kind
    assert said in str(failure)


def test_the_watchdog_needs_no_packages() -> None:
    """The watchdog starts in isolated mode without site packages, so it works in a broken environment."""
    watchdog = Path(process_module.__file__).with_name("watchdog.py")
    done = subprocess.run(
        [sys.executable, "-I", "-S", watchdog, "/nonexistent-scratch", "0.1", "sh", "-c", "exit 5"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    assert done.returncode in (5, 128 + signal.SIGTERM)
    assert done.stderr == b""


@pytest.mark.parametrize("body", [b'{"code": 404, "message": "Model not found"}', b"[]", b"<html>"])
def test_errors_of_the_management_interface_are_reported(site: _Site, body: bytes) -> None:
    """An answer that describes no model, and no answer, are errors of the server, in words."""
    site.reply = lambda sent, count: (404, "application/json", body)
    with pytest.raises(ServingError, match="does not describe 'net'"):
        Management(site.url).describe("net")
    site.http.shutdown()
    site.http.server_close()
    with pytest.raises(ServingError, match="no answer from"):
        Management(site.url).describe("net")


def test_one_module_speaks_http() -> None:
    """Only `serve/connection.py` opens HTTP connections."""
    rooms = [path.parent for path in ROOT.glob("*/__init__.py")]
    paths = [*ROOT.glob("*.py"), *(path for room in rooms for path in room.rglob("*.py"))]
    speaks = re.compile(
        r"^\s*(?:import|from) (?:http\.client$|urllib\.request|urllib\.error|requests|httpx)", re.MULTILINE
    )
    found = [path.relative_to(ROOT).as_posix() for path in paths if speaks.search(path.read_text())]
    assert found == ["serve/connection.py"]
