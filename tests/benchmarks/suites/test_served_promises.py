"""Logs, faults of providers and what can be reached: what the suites judge, and that each sees a broken promise."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit
from urllib.request import urlopen

import psutil
import pytest
from served_models import archive, require_torchserve

from retort.benchmarks.suites.serving import log_lines, provider_faults, reachable_interfaces
from retort.benchmarks.suites.serving.fault_cases import GPU_BUILD, PLAN, REAL, Case, Told, told
from retort.benchmarks.suites.serving.log_lines import DEFAULT, QUIET, STOCK, Logged
from retort.benchmarks.suites.serving.plan_faults import of_plans
from retort.benchmarks.suites.serving.reachable_interfaces import Attempt, Bait, Reached
from retort.benchmarks.suites.serving.running_server import RunningServer
from retort.benchmarks.suites.serving.runtime_doubles import CPU, CUDA, GpuBuild, instead_of
from retort.benchmarks.suites.serving.runtime_faults import Bundles, on_a_gpu_build, on_this_machine
from retort.core.session import PROVIDERS
from retort.serve.engine import Engine


@contextmanager
def answering(status: int, log: Path | None = None, fetches: bool = False) -> Iterator[str]:
    """The address of a server that gives everybody the same status.

    Args:
        log: file to which it adds a line for each request.
        fetches: whether it opens the address in a request, as a server does that registers remote models.
    """

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            for url in parse_qs(urlsplit(self.path).query).get("url", []) if fetches else []:
                if url.startswith("http:"):
                    with urlopen(url) as found:
                        found.read()
            if log is not None:
                with log.open("a") as file:
                    file.write("a line\n")
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def do_GET(self) -> None:
            self.do_POST()

        def do_PUT(self) -> None:
            self.do_POST()

        def do_DELETE(self) -> None:
            self.do_POST()

        def log_message(self, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        http.request_queue_size = 64
        threading.Thread(target=http.serve_forever, args=(0.02,), daemon=True).start()
        yield f"http://127.0.0.1:{http.server_address[1]}"
        http.shutdown()


def test_lines_of_logs_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every line that is added to any log while requests are answered counts, and nothing else."""
    monkeypatch.setattr(log_lines, "_WRITTEN_S", 0.0)
    monkeypatch.setattr(log_lines, "CLIENTS", 1)
    (tmp_path / "logs").mkdir()
    log = tmp_path / "logs" / "server.log"
    log.write_text("begun\n")
    with answering(415, log) as url:
        server = RunningServer(url, psutil.Process().pid, tmp_path)
        ask = log_lines.asking_badly(url, "/x")
        found = log_lines.logged(server, ask, 6, (400, 415))
        assert (found.lines, found.size_bytes, found.right) == (6, 42, 6)
        assert log_lines.logged(server, ask, 3, (400,)).right == 0
    assert found.per_request == 1


def test_lines_per_request_are_judged() -> None:
    """A line per request is allowed in the default profile, none in the quiet one."""
    quiet, loud = Logged(10, 10, 0, 0, 1.0, 100.0), Logged(10, 10, 11, 99, 2.0, 50.0)
    line = Logged(10, 10, 10, 99, 1.0, 100.0)

    def missed(default: Logged, silent: Logged, bad: Logged) -> list[str]:
        profiles = {DEFAULT: default, QUIET: silent, STOCK: loud}
        return [one.what for one in log_lines.judged(profiles, bad) if one.reached is False]

    assert missed(line, quiet, line) == []
    assert missed(loud, line, loud) == [
        "lines per good request, `retort serve`",
        "lines per good request, `retort serve --no-metrics`",
        "lines per bad request, `retort serve`",
    ]
    assert missed(quiet, quiet, Logged(10, 9, 0, 0, 1.0, 1.0)) == ["right answers and refusals"]
    told_of = {one.what: one.got for one in log_lines.judged({DEFAULT: line, QUIET: quiet, STOCK: loud}, quiet)}
    assert told_of["CPU of a request, `torchserve` ÷ `retort serve`"] == "2×"


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Bundles:
    """A model for each provider, opened by the code of this repository."""
    folder = tmp_path_factory.mktemp("providers")
    for provider in PROVIDERS:
        made = archive("vector", folder / f"made-{provider}", provider=provider)
        (folder / provider).symlink_to(made.path / "bundle")
    return Bundles(folder, Engine.load)


def test_every_fault_of_a_provider_stops_the_load_with_its_cause(
    bundles: Bundles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On this machine, on a GPU build and for plans: nothing opens, on the CPU neither (serve.md G14)."""
    monkeypatch.setenv("RETORT_CACHE", str(tmp_path / "cache"))
    cases = [*on_this_machine(bundles), *on_a_gpu_build(bundles), *of_plans(tmp_path)]
    found = [told(one) for one in cases if one.what != "a program for TensorRT's provider"]  # it would load torch
    assert [(one.what, one.error) for one in found if not one.right] == []
    assert {where: number >= 10 for where, number in Counter(one.where for one in found).items()} == {
        REAL: True, GPU_BUILD: True, PLAN: True,
    }  # fmt: skip


def test_a_whole_gpu_build_opens(bundles: Bundles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The doubles themselves refuse nothing: without a fault the model of each provider opens."""
    monkeypatch.setenv("RETORT_CACHE", str(tmp_path / "cache"))
    bundles.opening("cuda", instead_of("onnxruntime", GpuBuild()))()
    placed = {PROVIDERS["tensorrt"][0]: ["Conv"]}
    bundles.opening("tensorrt", instead_of("onnxruntime", GpuBuild(placed)))()
    lax = GpuBuild(error=RuntimeError("CUDA failure 100"))
    assert lax.InferenceSession(str(bundles.folder / "cpu" / "model.onnx"), None, [CUDA]).get_providers() == [CPU]


def test_a_silent_run_and_a_wrong_cause_are_seen() -> None:
    """A case that opens misses both goals, and one with another error misses the second."""
    silent, other = Case("silent", REAL, "x", lambda: 1), Case("other", REAL, "a GPU", lambda: [][0])
    assert told(silent) == Told("silent", REAL, "", False)
    assert told(other).error == "IndexError: list index out of range"
    good = told(Case("good", REAL, "out of range", lambda: [][0]))
    missed = [one.what for one in provider_faults.judged([good, told(other)]) if one.reached is False]
    assert missed == ["faults whose error has the cause", "other"]
    missed = [one.what for one in provider_faults.judged([good, told(silent)]) if one.reached is False]
    assert missed == ["faults with which the model was opened", "faults whose error has the cause", "silent"]


def test_a_server_that_registers_remote_models_is_seen() -> None:
    """What it answers counts as success, and what it fetches is counted by the listener."""
    bait = Bait()
    with bait.laid() as model, answering(200) as lax, answering(404, fetches=False) as strict:
        requests = reachable_interfaces.requests_of("light", model)
        assert {(method, path.split("?")[0]) for method, path in requests} >= {
            ("POST", "/models"), ("POST", "/workflows"), ("DELETE", "/models/light"), ("PUT", "/models/light"),
        }  # fmt: skip
        assert all(one.succeeded for one in reachable_interfaces.attempted("x", lax, requests))
        assert not any(one.succeeded for one in reachable_interfaces.attempted("x", strict, requests))
        assert bait.fetched == 0
        with answering(400, fetches=True) as fetching:
            reachable_interfaces.attempted("x", fetching, [("POST", f"/models?url={model}")])
        assert bait.fetched == 1
    assert [one.status for one in reachable_interfaces.attempted("x", lax, requests[:1])] == [0]


def test_disguised_paths_keep_their_query() -> None:
    """Doubled slashes, dots, encoded letters, capitals and whole addresses stand before the same query."""
    forms = reachable_interfaces.disguises("/models?url=a")
    assert len(set(forms)) == len(forms) == 9
    assert all(form.endswith("?url=a") for form in forms)
    assert {"/%6dodels?url=a", "//models?url=a", "/predictions/..//models?url=a".replace("//", "/")} <= set(forms)


def test_what_can_be_reached_is_judged() -> None:
    """Every broken promise of a server misses one goal of its own."""
    plain = Attempt("inference port", "GET", "/models", 404)
    good = Reached((("127.0.0.1", 1),), (), (plain,) * 100, (), 0, False, 0, True)

    def missed(**changed: Any) -> list[str]:
        found = reachable_interfaces.judged([good, replace(good, **changed)])
        return [one.what for one in found if one.reached is False]

    assert missed() == []
    assert missed(listeners=(("0.0.0.0", 1),)) == ["of them on other addresses than loopback"]
    assert missed(accepted=("10.0.0.1:1",)) == ["connections from other addresses"]
    assert missed(owned=(Attempt("management socket", "POST", "/models", 200),)) == ["attempts that succeeded"]
    assert len(missed(fetched=1)) == len(missed(changed=True)) == len(missed(strangers=1)) == 1
    assert missed(safe=False) == ["servers that `retort audit` refuses"]
    assert reachable_interfaces.is_outside("192.168.0.1")
    assert not any(map(reachable_interfaces.is_outside, ("127.0.0.1", "::1", "224.0.0.0")))


@pytest.mark.slow
@pytest.mark.torchserve
def test_a_real_server_keeps_its_promises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of it can be reached or registered with swaps turned on, and it writes no line for a good request."""
    require_torchserve()
    monkeypatch.setattr(reachable_interfaces, "OPTIONS", (("--swaps",),))
    found = reachable_interfaces.measure(tmp_path)
    assert [one.what for one in found.findings if one.reached is False] == []
    assert found.requests > 300
