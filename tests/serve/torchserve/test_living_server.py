"""A server in the background: it is started, seen, read and stopped by commands, and a dead one is told as such."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from served_models import VECTOR, archive, require_torchserve

from retort.core.artifact import Artifact
from retort.serve.client import predict

pytestmark = pytest.mark.torchserve


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """A packed model."""
    require_torchserve()
    return archive("vector", tmp_path_factory.mktemp("made"))


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETORT_CACHE", str(tmp_path / "cache"))


def retort(cwd: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A finished command."""
    command = [sys.executable, "-m", "retort", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, check=False, timeout=180)


def value(done: subprocess.CompletedProcess[str]) -> Any:
    """What a command printed with --json."""
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_server_lives_in_the_background_until_it_is_stopped(made: Artifact, tmp_path: Path) -> None:
    """It outlives its command, is shown with its workers and logs, and leaves nothing when it is stopped."""
    started = value(retort(tmp_path, "serve", str(made.path), "--detach", "--json", "--workers", "1"))
    port = started["url"].rpartition(":")[2]
    assert predict(started["url"], "vector", VECTOR)["total"].shape == (3,)
    (server,) = value(retort(tmp_path, "status", "--json"))["servers"]
    assert (server["url"], server["state"], server["logs"]) == (started["url"], "runs", str(tmp_path / "logs"))
    (model,) = server["models"]
    assert model.pop("memory_bytes") > 10e6
    wanted = {"name": "vector", "version": "1.0", "default": True, "ready": 1, "wanted": 1, "waiting": 0, "signer": ""}
    assert model == wanted
    shown = retort(tmp_path, "status").stdout
    assert "vector 1.0" in shown
    assert "1 ready" in shown
    files = value(retort(tmp_path, "logs", port, "--json", "--lines", "1"))["files"]
    assert files["console.log"] == ["Model server started."]
    assert all(len(lines) <= 1 for lines in files.values())
    family = [psutil.Process(server["pid"]), *psutil.Process(server["pid"]).children(recursive=True)]
    assert os.getsid(server["pid"]) == server["pid"]  # Ctrl-C in the terminal does not reach it
    stopped = retort(tmp_path, "stop", "vector")
    assert f"{started['url']} is stopped (vector)" in stopped.stderr
    assert not psutil.wait_procs(family, timeout=10)[1]
    assert value(retort(tmp_path, "status", "--json")) == {"servers": []}


@pytest.mark.parametrize("victim", ["TorchServe", "retort serve"])
def test_a_dead_server_is_told_as_such(made: Artifact, tmp_path: Path, victim: str) -> None:
    """If TorchServe or the command is killed, `status` says so, the logs can be read, and `stop` forgets it."""
    started = value(retort(tmp_path, "serve", str(made.path), "--detach", "--json"))
    (server,) = value(retort(tmp_path, "status", "--json"))["servers"]
    command = psutil.Process(server["pid"])
    family = command.children(recursive=True)
    (family[1] if victim == "TorchServe" else command).send_signal(signal.SIGKILL)
    assert not psutil.wait_procs([command, *family], timeout=30)[1]
    assert f"{started['url']}  was killed or ended by itself" in retort(tmp_path, "status").stdout
    logs = value(retort(tmp_path, "logs", "--json"))["files"]
    assert ("TorchServe ended by itself" in " ".join(logs["serve.log"])) == (victim == "TorchServe")
    assert "had ended before" in retort(tmp_path, "stop").stderr
    assert retort(tmp_path, "stop").returncode == 9


def test_a_server_that_cannot_start_is_the_error_of_the_command(made: Artifact, tmp_path: Path) -> None:
    """With --detach, errors of the start have their sentence and exit code; nothing stays in the background."""
    done = retort(tmp_path, "serve", str(made.path), "--detach", "--java", "/bin/false")
    assert done.returncode == 7
    assert "TorchServe needs Java 17" in done.stderr
    assert value(retort(tmp_path, "status", "--json")) == {"servers": []}


def test_new_lines_of_the_logs_are_followed(made: Artifact, tmp_path: Path) -> None:
    """`logs --follow` shows what is written from now on, until the server ends."""
    value(retort(tmp_path, "serve", str(made.path), "--detach", "--json"))
    command = [sys.executable, "-m", "retort", "logs", "--follow", "--lines", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=tmp_path) as following:
        assert following.stdout is not None
        assert following.stdout.readline().startswith("==>")
        deadline = time.monotonic() + 30
        while "a new line" not in (line := following.stdout.readline()):
            assert time.monotonic() < deadline
            if line.startswith("==>") and "worker.log" in line:
                with (tmp_path / "logs" / "worker.log").open("a") as stream:
                    stream.write("a new line\n")
        assert line == "worker.log: a new line\n"
        assert retort(tmp_path, "stop").returncode == 0
        assert following.wait(30) == 0
