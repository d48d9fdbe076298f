"""What a handler counts as it answers, and the address from which Prometheus reads it."""

from __future__ import annotations

import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from quantiles import minus, quantile, samples
from served_models import graph

from retort.core.errors import MachineError
from retort.core.signature import Signature
from retort.serve.bundles.bundle import Parts, write_bundle
from retort.serve.inference import Endpoint
from retort.serve.monitoring.exporter import Exporter
from retort.serve.monitoring.families import AGE, BATCH_ROWS, HANDLER, PADDED, PHASE, REQUESTS
from retort.serve.monitoring.recorder import FOLDER
from retort.serve.requests.wire import read_npz
from retort.serve.settings import TRUSTED, Settings

LABELS = {"model": "vector", "version": "1.0"}
CONTEXT: Any = SimpleNamespace(
    get_all_request_header=lambda index: {"X-Request-Start": f"t={time.time() - 0.25:.3f}", "secret": "s3cret"},
    get_request_id=lambda index: "s3cret",
    set_response_status=lambda *given: None,
    set_response_content_type=lambda *given: None,
    set_response_header=lambda *given: None,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of a small model that pads batches to 4."""
    made = tmp_path_factory.mktemp("counted")
    whole = graph("vector", made)
    signature = Signature.from_json((whole.path / "signature.json").read_bytes())
    golden = read_npz((whole.path / "golden.npz").read_bytes(), TRUSTED)
    parts = Parts(whole.path / "model.onnx", (), signature, golden)
    write_bundle(made / "bundle", parts, Settings(name="vector", batching="fast", buckets=(4,)))
    return made / "bundle"


@pytest.fixture
def endpoint(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Endpoint:
    """A handler that counts in a folder."""
    monkeypatch.setenv(FOLDER, str(tmp_path / "metrics"))
    made = Endpoint("1")
    made.initialize(SimpleNamespace(system_properties={"model_dir": str(folder)}))
    return made


@pytest.fixture
def url(endpoint: Endpoint, tmp_path: Path) -> Iterator[str]:
    """Where Prometheus reads the counts."""
    exporter = Exporter("127.0.0.1", 0, tmp_path / "metrics")
    yield exporter.url
    exporter.close()


def _read(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=10) as answer:
        assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
        return bytes(answer.read())


def test_a_batch_is_counted_by_phase_status_rows_and_padding(endpoint: Endpoint, url: str) -> None:
    """Two predictions run as one padded batch; a refused one has its own status, and all three took the same time."""
    body = {"body": b"[[1, 2]]"}
    endpoint.handle([body, {"body": b"s3cret"}, body], CONTEXT)
    text = _read(url)
    assert b"s3cret" not in text
    found = {key: value for key, value in samples(text).items() if value and key[0].endswith(("_count", "_total"))}
    phases = {dict(labels)["phase"]: value for (name, labels), value in found.items() if name == f"{PHASE}_count"}
    assert phases == {"decode": 3, "validate": 2, "assemble": 1, "infer": 1, "encode": 2}
    statuses = {dict(labels)["status"]: value for (name, labels), value in found.items() if name == REQUESTS}
    assert statuses == {"200": 2, "400": 1}
    plain = tuple(sorted(LABELS.items()))
    assert [found[f"{name}_count", plain] for name in (HANDLER, AGE, BATCH_ROWS, PADDED)] == [3, 3, 1, 1]
    assert samples(text)[f"{PADDED}_sum", plain] == 0.5
    assert 0.2 < quantile(samples(text), AGE, 0.5) < 10


def test_what_is_read_over_http_agrees_with_the_client(
    endpoint: Endpoint, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each quantile of the handler's time is in the bucket of the same calls' quantile, timed from outside (G17)."""
    rng, before, times = np.random.default_rng(1), samples(_read(url)), []
    assert endpoint.engine is not None
    run = endpoint.engine.executor.run

    def slow(feeds: Any) -> Any:
        time.sleep(rng.lognormal(np.log(0.0015), 0.5))
        return run(feeds)

    monkeypatch.setattr(endpoint.engine.executor, "run", slow)
    for _ in range(200):
        begin = time.perf_counter()
        endpoint.handle([{"body": b"[[1, 2]]"}], CONTEXT)
        times.append(time.perf_counter() - begin)
    gained = minus(samples(_read(url)), before)
    for share in (0.5, 0.9, 0.99):
        true = sorted(times)[round(share * len(times)) - 1]
        assert true / 1.26 < quantile(gained, HANDLER, share) < true * 1.26


def test_without_a_folder_nothing_is_counted(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Metrics can be turned off: the handler then keeps no numbers."""
    monkeypatch.setenv(FOLDER, "")
    made = Endpoint("1")
    made.initialize(SimpleNamespace(system_properties={"model_dir": str(folder)}))
    assert made.handle([{"body": b"[[1, 2]]"}], CONTEXT) == [b"[3.0]"]
    assert made.engine is not None
    assert made.engine.recorder.counts() == []


def test_the_address_has_nothing_but_metrics(url: str) -> None:
    """Other paths are 404, other methods refused, and the server does not tell its version."""
    with pytest.raises(urllib.error.HTTPError, match="404") as refused:
        _read(url.replace("/metrics", "/"))
    assert refused.value.headers["Server"] == "retort"
    with pytest.raises(urllib.error.HTTPError, match="501"):
        urllib.request.urlopen(url, data=b"x", timeout=10)
    port = int(url.rpartition(":")[2].partition("/")[0])
    with pytest.raises(MachineError, match=f"port {port} .* cannot be used for metrics"):
        Exporter("127.0.0.1", port, Path())


def test_the_numbers_of_torchserve_stand_behind_ours(endpoint: Endpoint, tmp_path: Path) -> None:
    """One address has both; while the front end does not answer, ours are still there."""

    class Front(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b'QueueTime{Level="Host",} 1.0\n')

        def log_message(self, *args: object) -> None:
            pass

    front = ThreadingHTTPServer(("127.0.0.1", 0), Front)
    Thread(target=front.serve_forever, daemon=True).start()
    exporter = Exporter("127.0.0.1", 0, tmp_path / "metrics", f"http://127.0.0.1:{front.server_address[1]}")
    found = samples(_read(exporter.url))
    assert found["QueueTime", (("Level", "Host"),)] == 1
    front.shutdown()
    front.server_close()
    alone = samples(_read(exporter.url))
    exporter.close()
    assert set(found) - set(alone) == {("QueueTime", (("Level", "Host"),))}
