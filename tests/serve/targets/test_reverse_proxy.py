"""A real nginx with our site: TLS, tokens, limits and refusals, and only whole, newly framed requests behind it."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import ssl
import subprocess
import threading
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import yaml
from served_models import CERTIFICATE, VECTOR, archive, require_torchserve

from retort.__main__ import main
from retort.core.errors import InputError, LimitError, ServingError, UserError
from retort.core.options.stage_options import ServeOptions
from retort.serve.client import Client
from retort.serve.monitoring.request_age import age_s
from retort.serve.targets.dashboard import DASHBOARD, SCRAPE
from retort.serve.targets.reverse_proxy import SITE, TOKENS, Site, token_line
from retort.serve.targets.system_service import UNIT, unit
from retort.serve.torchserve.ports import pick_ports
from retort.serve.torchserve.server import serve

NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
TOKEN = "t0ken-of-a-test"
needs_nginx = pytest.mark.skipif(NGINX is None, reason="nginx is not installed")
MAIN = """{user}
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/f;
    uwsgi_temp_path {folder}/u;
    scgi_temp_path {folder}/s;
    include {folder}/{site};
}}
"""


class Backend(BaseHTTPRequestHandler):
    """Stands for TorchServe, and keeps what it was sent."""

    protocol_version = "HTTP/1.1"
    status = 200
    seen: ClassVar[list[tuple[str, str, dict[str, str], bytes]]]

    def do_POST(self) -> None:
        """Keep the request and answer."""
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.seen.append((self.command, self.path, {k.lower(): v for k, v in self.headers.items()}, body))
        self.send_response(self.status)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, *args: Any) -> None:
        """Nothing."""


def site_of(folder: Path, port: int, upstream: int) -> Site:
    """A site for the model `vector`."""
    pem = str(CERTIFICATE)
    return Site("localhost", port, upstream, ["vector"], pem, pem, str(folder / TOKENS), 5000, 5, 1000)


def started(folder: Path, site: Site) -> subprocess.Popen[bytes]:
    """nginx with the site, when it listens."""
    assert NGINX is not None
    user = "user root;" if os.geteuid() == 0 else ""
    (folder / SITE).write_text(site.text())
    (folder / TOKENS).write_text(token_line(TOKEN, "test"))
    (folder / "nginx.conf").write_text(MAIN.format(user=user, folder=folder, site=SITE))
    command = [NGINX, "-p", str(folder), "-c", str(folder / "nginx.conf")]
    checked = subprocess.run([*command, "-t"], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr
    assert "[warn]" not in checked.stderr
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 20
    while True:
        try:
            socket.create_connection(("127.0.0.1", site.port), timeout=1).close()
            return process
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.05)


@pytest.fixture(scope="module")
def proxied(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, type[Backend]]]:
    """The port of nginx, and what stands behind it."""
    folder = tmp_path_factory.mktemp("nginx")

    class Own(Backend):
        seen: ClassVar[list[tuple[str, str, dict[str, str], bytes]]] = []

    backend = ThreadingHTTPServer(("127.0.0.1", 0), Own)
    threading.Thread(target=backend.serve_forever, daemon=True).start()
    port = pick_ports("127.0.0.1", 0).inference
    process = started(folder, site_of(folder, port, backend.server_address[1]))
    yield port, Own
    process.terminate()
    process.wait(20)
    backend.shutdown()
    backend.server_close()


def raw(port: int, request: bytes) -> tuple[int, str, bytes]:
    """Status, head and body of the answer to these bytes; status 0 if the connection was closed without one."""
    context = ssl.create_default_context(cafile=CERTIFICATE)
    context.check_hostname = False
    with socket.create_connection(("127.0.0.1", port), timeout=20) as plain, context.wrap_socket(plain) as secure:
        secure.sendall(request)
        answer = b""
        try:
            while chunk := secure.recv(65536):
                answer += chunk
        except (ConnectionResetError, ssl.SSLError):
            pass
    head, _, body = answer.partition(b"\r\n\r\n")
    found = re.match(rb"HTTP/1\.1 (\d+)", head)
    return (int(found[1]) if found else 0), head.decode("latin-1"), body


def request(path: str, *lines: str, body: bytes = b"[[1,2]]", method: str = "POST", token: str = TOKEN) -> bytes:
    """An HTTP request that closes its connection."""
    head = [
        f"{method} {path} HTTP/1.1",
        "Host: localhost",
        "Connection: close",
        f"Authorization: Bearer {token}",
        *lines,
    ]
    if not any(line.lower().startswith(("transfer-encoding", "content-length")) for line in lines):
        head.append(f"Content-Length: {len(body)}")
    return "\r\n".join(head).encode("latin-1") + b"\r\n\r\n" + body


@needs_nginx
def test_a_chunked_request_arrives_whole_and_without_foreign_headers(proxied: tuple[int, type[Backend]]) -> None:
    """TorchServe sees a length instead of chunks, the type, and none of the client's other headers."""
    port, backend = proxied
    backend.seen.clear()
    chunked = b"3\r\n[[1\r\n4\r\n,2]]\r\n0\r\n\r\n"
    lines = (
        "Transfer-Encoding: chunked",
        "Content-Type: application/json",
        "describe: True",
        "explain: True",
        "X-Odd: 1",
        "X-Request-Start: t=1",
    )
    status, _, body = raw(port, request("/predictions/vector?a=b", *lines, body=chunked))
    assert (status, body) == (200, b"ok")
    ((method, path, headers, sent),) = backend.seen
    assert (method, path, sent) == ("POST", "/predictions/vector", b"[[1,2]]")
    assert headers.pop("x-request-id")
    age = age_s(headers.pop("x-request-start"), time.time())
    assert age is not None
    assert age < 60  # nginx's own time, not the client's
    assert headers == {"host": "localhost", "content-length": "7", "content-type": "application/json"}


@needs_nginx
@pytest.mark.parametrize(
    ("asked", "status"),
    [
        (request("/predictions/vector", token="other"), 401),
        (request("/predictions/vector", token=f"{TOKEN}x"), 401),
        (request("/predictions/other"), 404),
        (request("/models"), 404),
        (request("/predictions/vector/1.0/healthcheck/x"), 404),
        (request("/predictions/vector", method="PUT"), 405),
        (request("/predictions/vector", "Content-Type: application/x-www-form-urlencoded"), 415),
        (request("/predictions/vector", body=b"x" * 5001), 413),
    ],
)
def test_refusals_are_json_and_never_reach_the_server(
    proxied: tuple[int, type[Backend]], asked: bytes, status: int
) -> None:
    """A wrong token, path, method, type and size are refused by nginx in our form."""
    port, backend = proxied
    backend.seen.clear()
    answered, head, body = raw(port, asked)
    assert answered == status
    assert json.loads(body)["code"] == status
    assert json.loads(body)["remedy"]
    assert "application/json" in head
    assert backend.seen == []


@needs_nginx
@pytest.mark.parametrize(
    "asked",
    [
        b"\0\1\2" + request("/predictions/vector"),
        request("/predictions/vector", "Content-Length: 7", "Content-Length: 8"),
        request("/predictions/vector", "Content-Length: 7", "Transfer-Encoding: chunked"),
        request("/predictions/vector", "Transfer-Encoding: xchunked"),
        request("/predictions/vector", "Content-Length: +7"),
        request("/predictions/vector", "Transfer-Encoding: chunked", body=b"zz\r\n[[1\r\n0\r\n\r\n"),
    ],
    ids=["bytes before the method", "two lengths", "length and chunks", "odd coding", "odd length", "odd chunk"],
)
def test_requests_that_could_be_read_in_two_ways_stop_here(proxied: tuple[int, type[Backend]], asked: bytes) -> None:
    """What smuggles requests past a proxy is refused, and nothing of it reaches the server."""
    port, backend = proxied
    backend.seen.clear()
    status, _, _ = raw(port, asked)
    assert status in (0, 400, 501)
    assert backend.seen == []


@needs_nginx
@pytest.mark.parametrize(
    ("asked", "path", "operation"),
    [
        ("/v2/models/vector/infer", "/predictions/vector", None),
        ("/v2/models/vector/versions/1.0/infer", "/predictions/vector/1.0", None),
        ("/v1/models/vector:predict", "/predictions/vector", None),
        ("/v2/models/vector", "/predictions/vector", "metadata"),
        ("/v2/models/vector/versions/1.0", "/predictions/vector/1.0", "metadata"),
        ("/v2/models/vector/ready", "/predictions/vector", "healthcheck"),
        ("/v2/health/ready?x=1", "/predictions/vector", "healthcheck"),
        ("/explanations/vector", "/explanations/vector", None),
    ],
)
def test_addresses_of_kserve_reach_the_model(
    proxied: tuple[int, type[Backend]], asked: str, path: str, operation: str | None
) -> None:
    """KServe's addresses are the model's own; a client cannot name an operation otherwise."""
    port, backend = proxied
    backend.seen.clear()
    lines = ("X-Retort-Operation: describe", "X-Retort-Top-K: 3", "Inference-Header-Content-Length: 7")
    assert raw(port, request(asked, *lines))[0] == 200
    ((_, seen, headers, _),) = backend.seen
    assert (seen, headers.get("x-retort-operation")) == (path, operation)
    assert (headers["x-retort-top-k"], headers["inference-header-content-length"]) == ("3", "7")
    assert raw(port, request(asked, token="wrong"))[0] == 401
    backend.seen.clear()
    assert raw(port, request("/v2", method="GET"))[0] == 200
    assert raw(port, request("/v2/models/other"))[0] == 404
    assert backend.seen == []


@needs_nginx
def test_a_full_queue_says_when_to_come_again(proxied: tuple[int, type[Backend]]) -> None:
    """The 503 of TorchServe gets the header Retry-After, and a 200 does not."""
    port, backend = proxied
    backend.status = 503
    try:
        status, head, _ = raw(port, request("/predictions/vector"))
    finally:
        backend.status = 200
    assert (status, "Retry-After: 1" in head) == (503, True)
    assert "Retry-After" not in raw(port, request("/predictions/vector"))[1]


@needs_nginx
def test_too_many_requests_get_429(tmp_path: Path) -> None:
    """Beyond the rate and the burst there is 429 with Retry-After; without a server behind, 502."""
    port = pick_ports("127.0.0.1", 0).inference
    process = started(tmp_path, replace(site_of(tmp_path, port, 1), rate=1))
    try:
        answers = [raw(port, request("/predictions/vector")) for _ in range(4)]
    finally:
        process.terminate()
        process.wait(20)
    assert answers[0][0] == 502
    refused = [head for status, head, body in answers if status == 429 and json.loads(body)["code"] == 429]
    assert refused
    assert all("Retry-After: 1" in head for head in refused)


@needs_nginx
@pytest.mark.torchserve
def test_a_client_asks_torchserve_through_the_site(tmp_path: Path) -> None:
    """The client with the token and the certificate gets the model's answer and refusals; without them, an error."""
    require_torchserve()
    with serve(ServeOptions(workers=1), archive("vector", tmp_path), logs=tmp_path / "logs") as server:
        port = pick_ports("127.0.0.1", 0).inference
        process = started(tmp_path, site_of(tmp_path, port, server.ports.inference))
        url, headers = f"https://localhost:{port}/predictions/vector", {"Authorization": f"Bearer {TOKEN}"}
        try:
            got = Client(url, headers=headers, ca=CERTIFICATE).predict(VECTOR)["total"]
            np.testing.assert_array_equal(got, server.client().predict(VECTOR)["total"])
            with pytest.raises(InputError, match="size 3 on axis 1"):
                Client(url, headers=headers, ca=CERTIFICATE).predict({"x": np.zeros((1, 3), np.float32)})
            with pytest.raises((LimitError, ServingError), match=r"413|no answer"):
                Client(url, headers=headers, ca=CERTIFICATE).predict({"x": np.zeros((9000, 2), np.float32)})
            with pytest.raises(InputError, match="401: no valid token"):
                Client(url, ca=CERTIFICATE).predict(VECTOR)
            metrics = urllib.request.urlopen(server.metrics_url, timeout=20).read().decode()
            (aged,) = re.findall(r"retort_request_age_seconds_count\{.*\} (\d+)", metrics)
            assert int(aged) > 0
            status, _, told = raw(port, request("/v2/models/vector", method="GET", body=b""))
            assert (status, json.loads(told)["inputs"][0]["shape"]) == (200, [-1, 2])
            for path in ("/v2/health/live", "/v2/health/ready", "/v2/models/vector/versions/1.0/ready"):
                assert raw(port, request(path, method="GET", body=b""))[0] == 200
            v2 = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}]}
            kind = "Content-Type: application/json"
            status, _, told = raw(port, request("/v2/models/vector/infer", kind, body=json.dumps(v2).encode()))
            assert (status, json.loads(told)["outputs"][0]["data"]) == (200, [3.0])
        finally:
            process.terminate()
            process.wait(20)


def test_names_that_could_change_the_file_are_refused(tmp_path: Path) -> None:
    """A host or a path with characters of nginx's language is one sentence."""
    site = site_of(tmp_path, 1, 2)
    for changed in (replace(site, host="a;b"), replace(site, key="/a b"), replace(site, tokens="/x$y")):
        with pytest.raises(UserError):
            changed.text()


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_the_unit_is_valid(tmp_path: Path) -> None:
    """systemd finds no fault in it, and reads a path with special characters as it is."""
    python = shutil.which("true")
    assert python is not None
    path = tmp_path / UNIT
    path.write_text(unit(python, ['/a b/100%/"x"$HOME.mar'], (8080, 8082), "https://localhost"))
    done = subprocess.run(["systemd-analyze", "verify", path], capture_output=True, text=True, check=False)
    own = [line for line in done.stderr.splitlines() if UNIT in line]
    assert own == []
    assert '"/a b/100%%/\\"x\\"$$HOME.mar"' in path.read_text()


def test_one_command_writes_the_files_and_keeps_tokens(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The site has the archive's name and limits; a second call needs --force, and the tokens stay."""
    made, out = archive("vector", tmp_path, max_request_bytes=1000), tmp_path / "out"
    given = ["deploy", str(made.main), "--host", "m.example.org", "--certificate", "/c.pem", "--key", "/k.pem"]
    given += ["--out", str(out), "--json"]

    def call(*more: str) -> int:
        with pytest.raises(SystemExit) as stopped:
            main([*given, *more])
        assert isinstance(stopped.value.code, int)
        return stopped.value.code

    assert call() == 0
    value = json.loads(capsys.readouterr().out)
    assert value["url"] == "https://m.example.org"
    text = (out / SITE).read_text()
    assert "client_max_body_size 1000;" in text
    assert "proxy_read_timeout 65s;" in text
    assert f'"Bearer {value["token"]}" "first";\n' == (out / TOKENS).read_text()
    assert (out / TOKENS).stat().st_mode & 0o777 == 0o600
    assert "m.example.org" in (out / UNIT).read_text()
    assert '"--metrics-port" "8082"' in (out / UNIT).read_text()
    (job,) = yaml.safe_load((out / SCRAPE).read_text())["scrape_configs"]
    assert job["static_configs"] == [{"targets": ["127.0.0.1:8082"]}]
    assert json.loads((out / DASHBOARD).read_text())["panels"]
    assert call() == 2
    assert call("--force") == 0
    assert value["token"] in (out / TOKENS).read_text()
