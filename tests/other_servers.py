"""Real servers of other projects, in virtual environments of their own, which `make test-slow` installs."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import psutil
import pytest
import yaml
from onnx import TensorProto, helper, numpy_helper

from retort.core.artifact import Artifact, load_artifact

ROOT = Path(__file__).parents[1]
HOMES = Path(os.environ.get("RETORT_OTHER_SERVERS", ROOT / ".venv" / "other-servers"))
"""Folder with one virtual environment per server."""
READY_S = 120


def home(name: str) -> Path:
    """The virtual environment of a server; the test is skipped without it."""
    found = HOMES / name
    known = "RETORT_OTHER_SERVERS" in os.environ or (found / ".installed").exists()  # else an installation failed
    if not known or not (found / "bin" / "python").exists():
        pytest.skip(f"{name} is not installed in {found}: `make test-slow` or `make test-long` installs it")
    return found


def free_port() -> int:
    """A port on which nothing listens."""
    with closing(socket.socket()) as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@dataclass(frozen=True)
class Told:
    """An answer over HTTP."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def ask(url: str, body: bytes | None = None, **headers: str) -> Told:
    """POST with a body, GET without; refusals are answers too."""
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    request = urllib.request.Request(url, body, {"Content-Type": "application/json", **given})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return Told(answer.status, dict(answer.headers), answer.read())
    except urllib.error.HTTPError as error:
        return Told(error.code, dict(error.headers), error.read())


def outputs_of(told: Told) -> dict[str, Any]:
    """The arrays of a V2 answer in JSON; an answer without them fails, also if its status is 200."""
    assert told.status == 200, told.body
    tensors = json.loads(told.body)["outputs"]
    kinds = {"FP32": np.float32, "INT64": np.int64, "FP64": np.float64, "BOOL": np.bool_}
    made = {item["name"]: np.array(item["data"], kinds[item["datatype"]]).reshape(item["shape"]) for item in tensors}
    assert all(array.nbytes for array in made.values())
    return made


@contextmanager
def process(
    command: list[str], log: Path, environment: Mapping[str, str], url: str
) -> Iterator[subprocess.Popen[bytes]]:
    """A server in a process group of its own, from when ``url`` answers 200; all of it is ended afterwards."""
    with log.open("wb") as stream:
        running = subprocess.Popen(
            command, stdout=stream, stderr=subprocess.STDOUT, env=dict(environment), start_new_session=True
        )
    try:
        _wait(url, running, log)
        yield running
    finally:
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(running.pid, number)
            except ProcessLookupError:
                break
            try:
                running.wait(10)
            except subprocess.TimeoutExpired:
                continue


def _wait(url: str, running: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + READY_S
    while time.monotonic() < deadline:
        assert running.poll() is None, log.read_text(errors="replace")[-3000:]
        try:
            if ask(url).status == 200:
                return
        except OSError:
            pass
        time.sleep(0.2)
    raise AssertionError(log.read_text(errors="replace")[-3000:])


def triton_command(repository: Path, work: Path, port: int) -> tuple[list[str], dict[str, str]]:
    """How to start the Triton of nvidia-pytriton on a repository: its binary itself, with its Python backend.

    Its stub for this Python is copied beside the backend; it needs numpy 1.26, see docs/specs/serve.md 2.9.
    """
    venv = home("triton")
    packages = next(venv.glob("lib/python3*/site-packages"))
    binaries = packages / "pytriton" / "tritonserver"
    backend = work / "backends" / "python"
    if not backend.exists():
        shutil.copytree(binaries / "backends" / "python", backend)
        version = packages.parent.name.removeprefix("python")
        shutil.copy(binaries / "python_backend_stubs" / version / "triton_python_backend_stub", backend)
    path = f"{venv / 'bin'}:{os.environ['PATH']}"
    more = {"PYTHONPATH": str(packages), "LD_LIBRARY_PATH": str(packages / "nvidia_pytriton.libs"), "PATH": path}
    command = [
        *(str(binaries / "bin" / "tritonserver"), f"--model-repository={repository}"),
        *(f"--backend-directory={backend.parent}", "--disable-auto-complete-config", "--exit-timeout-secs=5"),
        *("--http-address=127.0.0.1", f"--http-port={port}", "--allow-grpc=false", "--allow-metrics=false"),
    ]
    return command, {**os.environ, **more}


@contextmanager
def triton(repository: Path, work: Path) -> Iterator[str]:
    """The address of a Triton that serves a repository."""
    port = free_port()
    command, environment = triton_command(repository, work, port)
    url = f"http://127.0.0.1:{port}"
    with process(command, work / "triton.log", environment, f"{url}/v2/health/ready"):
        yield url


@contextmanager
def ray(made: Artifact, work: Path) -> Iterator[tuple[str, psutil.Process]]:
    """The address of a Ray Serve that runs a deployment, and its first process."""
    port = free_port()
    config = yaml.safe_load((made.path / "serve_config.yaml").read_text())
    config["http_options"]["port"] = port
    config["applications"][0]["deployments"][0]["ray_actor_options"]["num_cpus"] = 0.1
    (work / "config.yaml").write_text(yaml.safe_dump(config))
    quiet = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled", "PYTHONPATH": str(made.path)}
    command = [str(home("ray") / "bin" / "serve"), "run", str(work / "config.yaml")]
    url = f"http://127.0.0.1:{port}"
    with process(command, work / "ray.log", {**os.environ, **quiet}, f"{url}/v2/health/ready") as running:
        first = psutil.Process(running.pid)
        inside = first.children(recursive=True)
        try:
            yield url, first
        finally:
            running.terminate()
            inside += first.children(recursive=True) if first.is_running() else []
            _, alive = psutil.wait_procs(inside, 30)
            for left in alive:
                left.kill()


def linear(folder: Path, features: int = 6, classes: int = 3) -> Artifact:
    """A plain ONNX file: one fully connected layer, ``x[batch, features]`` to ``y[batch, classes]``."""
    draw = np.random.default_rng(0)
    weights = [
        numpy_helper.from_array(draw.normal(size=(features, classes)).astype(np.float32), "w"),
        numpy_helper.from_array(draw.normal(size=classes).astype(np.float32), "b"),
    ]
    x, y = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", size])
        for name, size in (("x", features), ("y", classes))
    )
    graph = helper.make_graph([helper.make_node("Gemm", ["x", "w", "b"], ["y"])], "g", [x], [y], weights)
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), folder / "linear.onnx"
    )
    return load_artifact(folder / "linear.onnx")
