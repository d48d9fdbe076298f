"""Ray Serve: what is generated, and how a real Ray answers, under load and while a replica is killed."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import yaml
from other_servers import ask, home, linear, outputs_of, ray

from retort.core.artifact import Artifact
from retort.core.context import Context, Place
from retort.core.options.serving_options import PackOptions
from retort.core.session import open_session
from retort.serve.bundles.bundled import check_bundle
from retort.serve.client import Client
from retort.serve.requests.wire import NPY, write_npy
from retort.serve.targets.stage import bundle_of, commands_of, deploy

CONTEXT = Context(None)  # type: ignore[arg-type]  # it reads no data
ROWS = np.random.default_rng(2).normal(size=(64, 1, 6)).astype(np.float32)


def _deployed(folder: Path, **options: Any) -> Artifact:
    given = PackOptions(**{"target": "ray", "name": "linear", **options})
    return deploy(given, linear(folder), Place(folder / "made"), CONTEXT)


def test_the_configuration_says_what_the_options_say(tmp_path: Path) -> None:
    """Replicas, CPUs and the time for running requests come from the options; nothing listens outside this machine."""
    made = _deployed(tmp_path, workers=3, threads=2, response_timeout_s=7, p99_ms=90)
    config = yaml.safe_load((made.path / "serve_config.yaml").read_text())
    (application,) = config["applications"]
    (model,) = application["deployments"]
    assert config["http_options"]["host"] == "127.0.0.1"
    assert (model["num_replicas"], model["ray_actor_options"]["num_cpus"]) == (3, 2)
    assert model["graceful_shutdown_timeout_s"] == 7
    assert json.loads(made.main.read_bytes())["p99_ms"] == 90
    assert check_bundle(bundle_of(made))["name"] == "linear"
    assert [*commands_of(made).values()] == [f"cd {made.path} && serve run serve_config.yaml"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """A linear model for two replicas, which share this machine's cores."""
    return _deployed(tmp_path_factory.mktemp("ray"), workers=2)


@pytest.fixture(scope="module")
def server(made: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, psutil.Process]]:
    """A real Ray Serve with two replicas."""
    home("ray")
    with ray(made, tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture(scope="module")
def wanted(made: Artifact) -> list[Any]:
    """The answers of a local session."""
    session = open_session(bundle_of(made) / "model.onnx")
    return [session.run({"x": row})["y"] for row in ROWS]


@pytest.mark.slow
@pytest.mark.servers
def test_ray_answers_what_the_session_computes(server: tuple[str, psutil.Process], wanted: list[Any]) -> None:
    """npy, V2 JSON and Retort's own client get the outputs of a local session bit for bit."""
    url, _ = server
    for row, right in zip(ROWS[:8], wanted):
        told = ask(f"{url}/predictions/linear", write_npy(row), Content_Type=NPY)
        assert told.body == write_npy(right)
        tensor = {"name": "x", "datatype": "FP32", "shape": [1, 6], "data": row.reshape(-1).tolist()}
        given = json.dumps({"inputs": [tensor]}).encode()
        assert outputs_of(ask(f"{url}/v2/models/linear/infer", given))["y"].tobytes() == right.tobytes()
        assert Client(f"{url}/predictions/linear").predict({"x": row})["y"].tobytes() == right.tobytes()


@pytest.mark.slow
@pytest.mark.servers
def test_bad_requests_leave_their_neighbours_alone(server: tuple[str, psutil.Process], wanted: list[Any]) -> None:
    """In a crowd of which every third request is bad, those get 400, and all others their answer."""
    url, _ = server

    def _ask(index: int) -> Any:
        body = b'{"x": [[1]]}' if index % 3 == 0 else write_npy(ROWS[index])
        return ask(f"{url}/predictions/linear", body, Content_Type=NPY if index % 3 else "application/json")

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(_ask, range(len(ROWS))))
    for index, told in enumerate(answers):
        assert told.status == (400 if index % 3 == 0 else 200)
        assert index % 3 == 0 or told.body == write_npy(wanted[index])


@pytest.mark.slow
@pytest.mark.servers
def test_too_large_bodies_are_refused(server: tuple[str, psutil.Process]) -> None:
    """A body that no request of the model needs is 413."""
    assert ask(f"{server[0]}/predictions/linear", bytes(1 << 20)).status == 413


@pytest.mark.slow
@pytest.mark.servers
def test_a_killed_replica_loses_nothing_behind_a_retry(server: tuple[str, psutil.Process], wanted: list[Any]) -> None:
    """Under load one of two replicas is killed: with a retry in front every request is answered, and rightly."""
    url, first = server
    stop, right, wrong = time.monotonic() + 10, [0], [0]
    lock = threading.Lock()

    def _load(seed: int) -> None:
        draw = np.random.default_rng(seed)
        while time.monotonic() < stop:
            index = int(draw.integers(len(ROWS)))
            good = _retried(f"{url}/predictions/linear", write_npy(ROWS[index]), write_npy(wanted[index]))
            with lock:
                (right if good else wrong)[0] += 1

    with ThreadPoolExecutor(4) as pool:
        loads = [pool.submit(_load, seed) for seed in range(4)]
        time.sleep(3)
        killed = _replicas(first)[0]
        killed.kill()
        for load in loads:
            load.result()
    assert wrong[0] == 0
    assert right[0] > 100
    deadline = time.monotonic() + 60
    while len(_replicas(first)) < 2 and time.monotonic() < deadline:
        time.sleep(0.5)
    assert len(_replicas(first)) == 2


def _replicas(first: psutil.Process) -> list[psutil.Process]:
    """The running replicas, whose processes Ray names."""
    found = []
    for one in first.children(recursive=True):
        try:
            if "ServeReplica" in " ".join(one.cmdline()) and one.status() != psutil.STATUS_ZOMBIE:
                found.append(one)
        except psutil.NoSuchProcess:
            continue
    return found


def _retried(url: str, body: bytes, wanted: bytes) -> bool:
    """Whether the answer to a request is right, which is sent again as a proxy with a retry does."""
    for _ in range(6):
        try:
            told = ask(url, body, Content_Type=NPY)
        except OSError:
            continue
        if told.status < 500:
            return told.body == wanted
        time.sleep(0.2)
    return False
