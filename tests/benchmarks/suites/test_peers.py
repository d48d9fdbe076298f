"""Other servers beside Retort: how each is started and asked, and what is judged."""

from __future__ import annotations

import ast
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
import yaml

from retort.benchmarks.suites.serving import peer_servers
from retort.benchmarks.suites.serving.peer_apps import PEERS, Peer
from retort.benchmarks.suites.serving.peer_processes import is_alive
from retort.benchmarks.suites.serving.request_pool import RequestPool
from retort.core.tensors import Array

ROOT = Path(__file__).parents[3]
PORTS = (5001, 5002, 5003, 5004, 5005)


@pytest.fixture
def pool() -> RequestPool:
    """Twenty images with made-up scores."""
    draw = np.random.default_rng(0)
    images = [draw.normal(size=(1, 3, 4, 4)).astype(np.float32) for _ in range(20)]
    return RequestPool("light", "image", tuple(images), tuple(image[:, 0, 0] for image in images))


def test_good_neighbours_of_a_bad_request_are_counted(pool: RequestPool) -> None:
    """A server that answers them all keeps 56, one whose batch fails keeps none, and other outputs are wrong."""

    def answering(status: int, error: float) -> peer_servers.Call:
        known = {array.tobytes(): output for array, output in zip(pool.inputs, pool.outputs, strict=True)}

        def call(image: Array) -> tuple[int, Array | None]:
            wanted = known.get(image.tobytes())
            return (400, None) if wanted is None else (status, wanted + error)

        return call

    assert peer_servers.good_neighbours(answering(200, 0), pool) == 56
    assert peer_servers.good_neighbours(answering(500, 0), pool) == 0
    assert peer_servers.asking(answering(200, 0.1), pool)(0) == (200, False)


def test_a_server_that_is_not_installed_is_told() -> None:
    """A missing server has its line, a measured one its figures, and lost neighbours of Retort miss the goal."""
    one = peer_servers.Served(100.0, 1.0, 2.0, 0.5, 70.0, 3.0, 2.0, 0, 55)
    lines = {line.what: line for line in peer_servers.findings({"retort": one, "mosec": "not installed"})}
    assert lines["mosec"].got == "not installed"
    assert "55 of 56" in lines["retort (npy)"].got
    assert lines["retort (npy)"].reached is False


@pytest.mark.parametrize("name", PEERS)
def test_applications_of_other_servers_are_python(name: str) -> None:
    """Each opens the model with one thread, but the stock handler, whose one class leaves that to TorchServe."""
    tree = ast.parse(PEERS[name].app())
    if name == "torchserve":
        assert [node.name for node in tree.body if isinstance(node, ast.ClassDef)] == ["Handler"]
        assert "BaseHandler" in ast.unparse(tree)
    else:
        assert "intra_op_num_threads = options.inter_op_num_threads = 1" in ast.unparse(tree)


@pytest.mark.parametrize("name", PEERS)
def test_every_port_and_folder_is_filled_in(name: str) -> None:
    """No two ports are the same, one is where the server is asked, and JSON and YAML can be read."""
    peer = PEERS[name]
    files = {file: peer.filled(text, PORTS, "/somewhere") for file, text in peer.files.items()}
    told = [*files.values(), *(peer.filled(part, PORTS, "/somewhere") for part in peer.command)]
    assert "PORT" not in "".join(told)
    assert sum(str(PORTS[0]) in text for text in told) == 1
    for file, text in files.items():
        if file.endswith((".json", ".yaml")):
            assert isinstance(yaml.safe_load(text), dict)
    assert "FOLDER" not in "".join(peer.filled(value, PORTS, "/somewhere") for value in peer.variables.values())


def test_all_are_installed_with_the_same_runtime() -> None:
    """The Makefile installs each, and each has the ONNX Runtime and numpy of Retort."""
    wanted = {"onnxruntime", "numpy"}
    ours = {line for line in (ROOT / "constraints.txt").read_text().split() if line.partition("==")[0] in wanted}
    made = next(line for line in (ROOT / "Makefile").read_text().splitlines() if line.startswith("PEERS := "))
    assert set(made.split()[2:]) == set(PEERS)
    for name in PEERS:
        needs = (ROOT / f"tests/serve/targets/{name}-requirements.txt").read_text().splitlines()
        assert ours <= set(needs)


APP = """
import http.server, json, os, subprocess, sys

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        (item,) = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["inputs"]
        row = {"name": "scores", "shape": [1, 4], "datatype": item["datatype"], "data": item["data"][:4]}
        body = json.dumps({"outputs": [row]}).encode()
        self.send_response(200 if self.path == "/infer" else 404)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

if sys.argv[1] == "0":
    sys.exit("cannot start")
child = subprocess.Popen(["sleep", "60"], start_new_session=True)
with open("child", "w") as file:
    file.write(str(child.pid))
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """An environment with this Python."""
    program = tmp_path / "home" / "bin" / "python"
    program.parent.mkdir(parents=True)
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -I "$@"\n')
    program.chmod(0o700)
    return program.parents[1]


def test_a_server_is_started_measured_and_ended(pool: RequestPool, home: Path, tmp_path: Path) -> None:
    """Its right answers count from its start, and nothing of it is left, in other process groups neither."""
    (tmp_path / "model").write_bytes(b"")
    peer = Peer(APP, ("python", "app.py", "PORT"), "/infer", "v2", before=("python", "-c", "print('made')"))
    found = peer_servers.of_peer(peer, home, tmp_path / "model", pool, tmp_path / "made", 10)
    assert isinstance(found, peer_servers.Served), found
    assert (found.wrong, found.good) == (0, 56)
    assert min(found.rate, found.cold_s, found.cold_cpu_s, found.memory_mb) > 0
    assert "made" in (tmp_path / "made" / "log").read_text()
    child = int((tmp_path / "made" / "child").read_text())
    assert not psutil.pid_exists(child) or not is_alive(psutil.Process(child))


def test_a_server_without_figures_is_told_with_its_reason(pool: RequestPool, home: Path, tmp_path: Path) -> None:
    """One that ends at once, one that cannot be prepared, and one that is not there."""
    (tmp_path / "model").write_bytes(b"")

    def told(peer: Peer, where: Path | None) -> object:
        return peer_servers.of_peer(peer, where, tmp_path / "model", pool, tmp_path / "made", 10)

    peer = Peer(APP, ("python", "app.py", "0"), "/infer", "v2")
    assert told(peer, home) == "gave no right answer: cannot start"
    assert "exit status 3" in str(told(Peer(APP, ("python",), "", "v2", before=("python", "-c", "exit(3)")), home))
    assert told(peer, None) == told(replace(peer, command=("ruby",)), home) == "not installed"
