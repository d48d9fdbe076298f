"""Several archives in one TorchServe: every model and version answers at its address, and one worker covers another."""

from __future__ import annotations

import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import psutil
import pytest
from quantiles import Samples, minus, samples
from served_models import IMAGE, VECTOR, archive, require_torchserve

from retort.core.errors import InputError, ServingError
from retort.core.options.stage_options import ServeOptions
from retort.core.session import open_session
from retort.serve.client import Client
from retort.serve.connection import Connections
from retort.serve.torchserve.management import Management
from retort.serve.torchserve.server import Server, serve

pytestmark = pytest.mark.torchserve


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Two versions of one model, of which the newer was named first, and another model."""
    require_torchserve()
    folder = tmp_path_factory.mktemp("several")
    made = [
        archive("vector", folder / "2", version="2.0", batch_size=4),
        archive("vector", folder / "1", version="1.0"),
        archive("image", folder / "i"),
    ]
    with serve(ServeOptions(workers=1, p99_ms=1), *made, logs=folder / "logs") as running:
        yield running


def test_every_version_answers_at_its_address(server: Server, tmp_path: Path) -> None:
    """The first version that was named is the default; each other one is asked by its version."""
    wanted = open_session(archive("vector", tmp_path).path / "bundle" / "model.onnx").run(VECTOR)["total"]
    for version in ("", "1.0", "2.0"):
        with closing(Client(server.url, "vector", version)) as client:
            np.testing.assert_array_equal(client.predict(VECTOR)["total"], wanted)
    with closing(Client(server.url, "image")) as client:
        assert client.predict(IMAGE)["total"].shape == (3,)
    with closing(Client(server.url, "vector", "3.0")) as client, pytest.raises(InputError, match="404"):
        client.predict(VECTOR)
    management = Management(server.management_url)
    assert management.describe("vector")["modelVersion"] == "2.0"
    assert [(model.name, model.version, model.default) for model in server.models] == [
        ("vector", "2.0", True),
        ("vector", "1.0", False),
        ("image", "1.0", True),
    ]


def test_every_model_has_its_own_queue(server: Server) -> None:
    """The length of each queue is that of its own batches."""
    management = Management(server.management_url)
    for model in server.models:
        status = management.describe(model.name, model.version)["jobQueueStatus"]
        assert status["remainingCapacity"] == model.queue_length
    assert [model.queue_length for model in server.models] == [4, 8, 8]


def test_workers_share_the_cores_of_the_server(server: Server) -> None:
    """There is one worker per version, and each knows of all of them."""
    pids = server.worker_pids()
    assert len(pids) == len(set(pids)) == 3
    assert {psutil.Process(pid).environ()["RETORT_SERVER_WORKERS"] for pid in pids} == {"3"}


def test_a_second_worker_answers_while_a_killed_one_starts_again(tmp_path: Path) -> None:
    """After one of two workers is killed, only requests that it had are lost, and answers go on before it is back."""
    with serve(ServeOptions(workers=2), archive("vector", tmp_path), logs=tmp_path / "logs") as server:
        victim, other = (psutil.Process(pid) for pid in server.worker_pids())
        done, lost, stop = list[float](), list[ServingError](), threading.Event()

        def _ask() -> None:
            with closing(server.client()) as client:
                while not stop.is_set():
                    try:
                        client.predict(VECTOR)
                        done.append(time.monotonic())
                    except ServingError as error:
                        lost.append(error)

        threads = [threading.Thread(target=_ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        time.sleep(1)
        victim.kill()
        killed = time.monotonic()
        while len(ready := server.worker_pids()) < 2 or victim.pid in ready or not _all_ready(server):
            assert time.monotonic() - killed < 120
            time.sleep(0.1)
        back = time.monotonic()
        stop.set()
        for thread in threads:
            thread.join()
        assert other.is_running()
        answered, golden = _answered(server), 1
    assert len(lost) <= 8  # one batch
    assert len(done) + golden <= answered <= len(done) + golden + len(lost)
    assert sum(killed < moment < back for moment in done) > 10


def _answered(server: Server) -> float:
    """The number of predictions that Prometheus reads, of all workers, also the killed one."""
    with urllib.request.urlopen(server.metrics_url, timeout=20) as answer:
        found = samples(answer.read())
    return sum(value for (name, _), value in found.items() if name == "retort_handler_seconds_count")


def test_metrics_of_all_models_are_at_one_address(server: Server) -> None:
    """Each version counts for itself, a request and its refusal by status, with its age; TorchServe's own are there."""

    def read() -> Samples:
        with urllib.request.urlopen(server.metrics_url, timeout=20) as answer:
            return samples(answer.read())

    before = read()
    with closing(Connections(server.url, 20)) as connections:
        headers = {"Content-Type": "application/json", "X-Request-Start": f"t={time.time():.3f}"}
        for body, status in ((b"[[1, 2]]", 200), (b"[[1, 2]]", 200), (b"[[1]]", 400)):
            assert connections.request("POST", "/predictions/vector/1.0", body, headers)[0] == status
    gained = {key: value for key, value in minus(read(), before).items() if value}
    counts = {name: value for (name, labels), value in gained.items() if dict(labels).get("version") == "1.0"
              and name.endswith("_count") and "phase" not in dict(labels)}  # fmt: skip
    assert counts == {"retort_handler_seconds_count": 3, "retort_request_age_seconds_count": 3,
                      "retort_batch_rows_count": 2, "retort_batch_padded_ratio_count": 2}  # fmt: skip
    statuses = {dict(labels)["status"]: value for (name, labels), value in gained.items()
                if name == "retort_requests_total"}  # fmt: skip
    assert statuses == {"200": 2, "400": 1}
    assert not [labels for _, labels in gained if ("version", "2.0") in labels]
    assert any(name == "Requests4XX" for name, _ in gained)


def _all_ready(server: Server) -> bool:
    workers = Management(server.management_url).workers(server.name, "1.0")
    return all(worker["status"] == "READY" for worker in workers)
