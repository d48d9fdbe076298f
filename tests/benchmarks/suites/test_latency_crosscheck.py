"""Our open loop beside MLPerf's LoadGen: what is read from its results, sent for it, and judged."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from retort.benchmarks.scenarios.request_load import Load, Outcome
from retort.benchmarks.suites.serving.independent_load import percentiles_ms, senders
from retort.benchmarks.suites.serving.latency_crosscheck import (
    LOADGEN,
    OURS,
    asked_by_loadgen,
    judged,
    percentiles,
)
from retort.benchmarks.suites.serving.request_pool import RequestPool
from retort.core.errors import ServingError

SUMMARY = """
90th percentile latency (ns) : 9
Min latency (ns)                : 1
50.00 percentile latency (ns)   : 2500000
90.00 percentile latency (ns)   : 31000000
99.00 percentile latency (ns)   : 45500000
99.90 percentile latency (ns)   : 46000000
"""


@pytest.fixture
def url() -> Iterator[str]:
    """A server that answers 200 to an npy body with a small number, and 400 to others."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200 if body.startswith(b"\x93NUMPY") else 400)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        threading.Thread(target=http.serve_forever, args=(0.02,), daemon=True).start()
        yield f"http://127.0.0.1:{http.server_address[1]}/predictions/x"
        http.shutdown()


def test_percentiles_are_those_of_the_summary() -> None:
    """The lines of LoadGen's table are read in milliseconds, and its verdict above them is not."""
    assert percentiles_ms(SUMMARY) == {50: 2.5, 90: 31.0, 99: 45.5}
    with pytest.raises(KeyError):
        percentiles_ms("90.00 percentile latency (ns) : 1")


def test_every_request_is_sent_and_told(url: str) -> None:
    """Each id gets the status of its own body, also without a server, and the threads end."""
    told: dict[int, int] = {}
    todo: queue.SimpleQueue[Any] = queue.SimpleQueue()
    for number in range(6):
        todo.put(SimpleNamespace(id=number, index=number))
    for where, wanted in ((url, [200, 400] * 3), ("http://127.0.0.1:9/", [0] * 6)):
        for number in range(6 if where != url else 0):
            todo.put(SimpleNamespace(id=number, index=number))
        threads = senders(where, [b"\x93NUMPY", b"other"], 2, todo, told.__setitem__)
        for _ in threads:
            todo.put(None)
        for thread in threads:
            thread.join(10)
        assert [told[number] for number in range(6)] == wanted
        assert not any(thread.is_alive() for thread in threads)


def test_percentiles_that_are_apart_miss_the_goal() -> None:
    """A tenth is allowed for p50 and p90 in both directions, p99 has no limit, and a failure misses."""

    def missed(ours: tuple[float, float, float], failed: int = 0) -> list[str]:
        both = {OURS: dict(zip((50, 90, 99), ours, strict=True)), LOADGEN: {50: 10.0, 90: 20.0, 99: 30.0}}
        slow = {name: {percent: 9 * value for percent, value in one.items()} for name, one in both.items()}
        return [one.what for one in judged([both, slow, both], failed) if one.reached is False]

    assert missed((10.9, 18.1, 90.0)) == []
    assert missed((8.9, 22.1, 30.0)) == ["difference of p50", "difference of p90"]
    assert missed((10.0, 20.0, 30.0), 1) == ["requests of both that were not answered rightly"]
    outcomes = tuple(Outcome(at, 0.0, 0.0, at / 1000, 200, True) for at in range(1, 101))
    assert percentiles(Load(outcomes, 1.0, 0.0)) == pytest.approx({50: 51.0, 90: 91.0, 99: 100.0}, abs=1)


@pytest.mark.slow
def test_loadgen_measures_a_real_server(url: str, tmp_path: Path) -> None:
    """LoadGen asks it and gives percentiles in their order; requests without an answer are counted."""
    pytest.importorskip("mlperf_loadgen", reason="mlcommons-loadgen is not installed")
    image = np.zeros((1, 4), np.float32)
    pool = RequestPool("x", "image", (image,) * 4, (image,) * 4)
    begun: list[float] = []
    found, failed = asked_by_loadgen(url, pool, 100, 2, 0, tmp_path, lambda: begun.append(time.monotonic()))
    assert failed == 0
    assert 0 < found[50] <= found[90] <= found[99] < 1000
    assert time.monotonic() - begun[0] > 1
    assert asked_by_loadgen("http://127.0.0.1:9/", pool, 100, 1, 0, tmp_path, lambda: None)[1] == 100
    with pytest.raises(ServingError, match="LoadGen failed"):
        asked_by_loadgen(url, pool, float("nan"), 1, 0, tmp_path, lambda: None)
