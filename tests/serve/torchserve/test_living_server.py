"""A server in the background: it is started, seen, read and stopped by commands, and a dead one is told as such."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from served_models import VECTOR, archive, require_torchserve

from retort.__main__ import main
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
    monkeypatch.setenv("RETORT_JAVA_ARCHIVE", "off")


@dataclass(frozen=True)
class Ended:
    """What a command in this process said."""

    returncode: int
    stdout: str
    stderr: str


class Commands:
    """Commands in this process, in a folder of their own."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *arguments: str) -> Ended:
        self._capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(list(arguments))
        said = self._capsys.readouterr()
        return Ended(int(ended.value.code or 0), said.out, said.err)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Commands:
    """Commands whose current folder is the test's."""
    monkeypatch.chdir(tmp_path)
    return Commands(capsys)


def retort(cwd: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A finished command in a process of its own: a server that it starts is no child of the tests."""
    command = [sys.executable, "-m", "retort", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, check=False, timeout=180)


def value(done: subprocess.CompletedProcess[str] | Ended) -> Any:
    """What a command printed with --json."""
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_server_lives_in_the_background_until_it_is_stopped(made: Artifact, tmp_path: Path, here: Commands) -> None:
    """It outlives its command, is shown with its workers and logs, and leaves nothing when it is stopped.

    Meanwhile `logs --follow` shows what is written from then on, until the server ends.
    """
    started = value(retort(tmp_path, "serve", str(made.path), "--detach", "--json", "--workers", "1"))
    port = started["url"].rpartition(":")[2]
    assert predict(started["url"], "vector", VECTOR)["total"].shape == (3,)
    (server,) = value(here("status", "--json"))["servers"]
    assert (server["url"], server["state"], server["logs"]) == (started["url"], "runs", str(tmp_path / "logs"))
    (model,) = server["models"]
    assert model.pop("memory_bytes") > 10e6
    wanted = {"name": "vector", "version": "1.0", "default": True, "ready": 1, "wanted": 1, "waiting": 0, "signer": ""}
    assert model == wanted
    shown = here("status").stdout
    assert "vector 1.0" in shown
    assert "1 ready" in shown
    files = value(here("logs", port, "--json", "--lines", "1"))["files"]
    assert files["console.log"] == ["Model server started."]
    assert all(len(lines) <= 1 for lines in files.values())
    family = [psutil.Process(server["pid"]), *psutil.Process(server["pid"]).children(recursive=True)]
    assert os.getsid(server["pid"]) == server["pid"]  # Ctrl-C in the terminal does not reach it
    with following(tmp_path):
        stopped = here("stop", "vector")
    assert f"{started['url']} is stopped (vector)" in stopped.stderr
    assert not psutil.wait_procs(family, timeout=10)[1]
    assert value(here("status", "--json")) == {"servers": []}


@contextmanager
def following(folder: Path) -> Iterator[None]:
    """A command that follows the logs has shown a new line before this context, and has ended by itself after it."""
    command = [sys.executable, "-m", "retort", "logs", "--follow", "--lines", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=folder) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("==>")
        deadline = time.monotonic() + 30
        while "a new line" not in (line := process.stdout.readline()):
            assert time.monotonic() < deadline
            if line.startswith("==>") and "worker.log" in line:
                with (folder / "logs" / "worker.log").open("a") as stream:
                    stream.write("a new line\n")
        assert line == "worker.log: a new line\n"
        yield
        assert process.wait(30) == 0


@pytest.mark.parametrize("victim", [pytest.param("TorchServe", marks=pytest.mark.slow), "retort serve"])
def test_a_dead_server_is_told_as_such(made: Artifact, tmp_path: Path, victim: str, here: Commands) -> None:
    """If TorchServe or the command is killed, `status` says so, the logs can be read, and `stop` forgets it."""
    started = value(retort(tmp_path, "serve", str(made.path), "--detach", "--json", "--workers", "1"))
    (server,) = value(here("status", "--json"))["servers"]
    command = psutil.Process(server["pid"])
    family = command.children(recursive=True)
    (family[1] if victim == "TorchServe" else command).send_signal(signal.SIGKILL)
    assert not psutil.wait_procs([command, *family], timeout=30)[1]
    assert f"{started['url']}  was killed or ended by itself" in here("status").stdout
    logs = value(here("logs", "--json"))["files"]
    assert ("TorchServe ended by itself" in " ".join(logs["serve.log"])) == (victim == "TorchServe")
    assert "had ended before" in here("stop").stderr
    assert here("stop").returncode == 9


def test_a_server_that_cannot_start_is_the_error_of_the_command(made: Artifact, tmp_path: Path, here: Commands) -> None:
    """With --detach, errors of the start have their sentence and exit code; nothing stays in the background."""
    done = retort(tmp_path, "serve", str(made.path), "--detach", "--java", "/bin/false")
    assert done.returncode == 7
    assert "TorchServe needs Java 17" in done.stderr
    assert value(here("status", "--json")) == {"servers": []}
