"""`retort serve` as a user runs it: what it prints is pasted into a shell and into Python, and is answered."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from served_models import archive, require_torchserve

from retort.core.artifact import Artifact
from retort.core.session import open_session
from retort.serve.engine import GOLDEN
from retort.serve.requests.wire import read_npz, write_npy
from retort.serve.settings import Limits

pytestmark = pytest.mark.torchserve
BIN = Path(sys.executable).parent


@pytest.fixture(scope="module", autouse=True)
def _torchserve() -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    require_torchserve()


@contextmanager
def served(made: Artifact, cwd: Path, *flags: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """What `retort serve` prints until it waits, and its process, which is interrupted at the end."""
    command = [sys.executable, "-m", "retort", "serve", str(made.path), *flags]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=cwd)
    assert process.stdout is not None
    said = ""
    while "urlopen" not in said and (line := process.stdout.readline()):
        said += line
    try:
        yield said, process
    finally:
        if process.poll() is None:
            process.terminate()  # an interruption is ignored where the shell that runs the tests ignores it
        process.communicate(timeout=60)


def _lines(said: str) -> dict[str, str]:
    """The texts to paste: each stands between empty lines."""
    blocks = [block.strip() for block in said.split("\n\n")]
    starts = {"curl": "curl ", "predict": "retort predict ", "client": "", "python": "import json, urllib"}
    found = {key: block for key, start in starts.items() for block in blocks if start and block.startswith(start)}
    return {**found, "client": next(block for block in blocks if "import Client" in block)}


def _run(command: list[str], text: str, cwd: Path) -> str:
    environment = {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        command, input=f"{text}\n", capture_output=True, text=True, cwd=cwd, env=environment, check=True
    )
    assert "Error" not in done.stderr, done.stderr
    return done.stdout


def test_json_has_the_lines_that_are_printed(tmp_path: Path) -> None:
    """`--json` has the same lines as the text, apart from the port."""
    made = archive("vector", tmp_path)
    with served(made, tmp_path) as (said, _):
        printed = _lines(said)
    with served(made, tmp_path, "--json") as (said, _):
        value = json.loads(said)

    def _any_port(text: str) -> str:
        return re.sub(r"127\.0\.0\.1:\d+", "127.0.0.1:PORT", text)

    assert {key: _any_port(value[key]) for key in printed} == {key: _any_port(text) for key, text in printed.items()}
    assert Path(value["request"]).read_bytes().startswith(b'{"x"')


def test_two_servers_in_one_folder_have_their_own_logs(tmp_path: Path) -> None:
    """The second says where its logs are; both write their own, and the request of each lies with them."""
    made = archive("vector", tmp_path)
    with served(made, tmp_path) as (first, _), served(made, tmp_path, "--json") as (second, process):
        value = json.loads(second)
        own = tmp_path / "logs" / "2"
        assert "(logs in logs;" in first
        assert value["logs"] == str(own)
        assert Path(value["request"]).parent == own
        for folder in (own.parent, own):
            assert (folder / "console.log").read_text().count("Model server started") == 1
        assert process.poll() is None


@pytest.mark.parametrize("kind", ["text", pytest.param("image", marks=pytest.mark.slow), "large"])
def test_what_is_printed_can_be_pasted(kind: str, tmp_path: Path) -> None:
    """The printed lines are answered in a shell and in Python."""
    made = archive(kind, tmp_path)
    golden = read_npz((made.path / "bundle" / GOLDEN).read_bytes(), Limits(expanded_bytes=1 << 30))
    sample = {name[3:]: array[:1] for name, array in golden.items() if name.startswith("in.")}
    wanted = float(open_session(made.path / "bundle" / "model.onnx").run(sample)["total"][0])
    (tmp_path / "elsewhere").mkdir()
    python = [sys.executable, "-i", "-q"]
    with served(made, tmp_path, "--logs", "my logs") as (said, _):
        found = _lines(said)
        curl = _run(["bash", "-es"], found["curl"], tmp_path / "elsewhere")
        others = [
            _run(["bash", "-es"], f"{found['predict']} --json", tmp_path / "elsewhere"),
            _run(python, found["client"], tmp_path / "elsewhere"),
            _run(python, found["python"], tmp_path / "elsewhere"),
        ]
    assert [float(np.float32(value)) for value in json.loads(curl)["total"]] == [wanted]
    assert json.loads(others[0])["values"]["total"] == [pytest.approx(wanted)]
    for shown in others[1:]:
        number = re.search(r"\[(-?[\d.]+)", shown)
        assert number is not None
        assert float(number[1]) == pytest.approx(wanted, rel=1e-6)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """The address of a model with one input of two numbers, and a folder."""
    folder = tmp_path_factory.mktemp("running")
    with served(archive("vector", folder, name="two-numbers"), folder) as (said, _):
        address = re.search(r"ready: (\S+)", said)
        assert address is not None
        yield address[1], folder


def _curl(*arguments: str) -> tuple[int, Any]:
    done = subprocess.run(
        ["curl", "-s", "-w", "\n%{http_code}", *arguments], capture_output=True, text=True, check=True, timeout=60
    )
    body, _, status = done.stdout.rpartition("\n")
    return int(status), json.loads(body)


BODY = '{"x": [[1.5, 2]]}'


@pytest.mark.parametrize(
    "sent",
    [
        ("-H", "Content-Type:", "-d", BODY),
        ("-H", "Content-Type: text/plain", "-d", BODY),
        ("-H", "Content-Type: application/octet-stream", "-d", "[[1.5, 2]]"),
        ("-H", "Content-Type: application/json; charset=utf-8", "-d", BODY),
        ("-d", "x=[[1.5, 2]]"),
        ("-F", "x=[[1.5, 2]]"),
        ("-F", "x=@x.npy"),
        ("-F", "body=@x.json"),
        ("-T", "x.json", "-X", "POST"),
        ("-H", "Content-Type:", "--data-binary", "@x.npy", "-H", "Accept: application/json"),
        ("-H", "Content-Type: application/x-npy", "-H", "Accept: application/json", "--data-binary", "@x.npy"),
    ],
)
def test_curl_is_understood(running: tuple[str, Path], sent: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a content type, or with one that clients choose by themselves, JSON and npy get their answer."""
    url, folder = running
    monkeypatch.chdir(folder)
    Path("x.npy").write_bytes(write_npy(np.array([[1.5, 2]], np.float32)))
    Path("x.json").write_text(BODY)
    status, value = _curl(*sent, url)
    assert status == 200
    assert (value["total"] if isinstance(value, dict) else value) == [3.5]


@pytest.mark.parametrize(
    ("sent", "status", "said"),
    [
        (("-d", BODY), 415, "read as a form"),
        (("--data-binary", "@x.npy"), 415, "read as a form"),
        (("-H", "Content-Type: application/xml", "-d", BODY), 415, "application/xml"),
        (("-H", "Content-Type:", "-d", "{'x': [[1, 2]]}"), 400, "not JSON: Expecting property name"),
        (("-X", "POST"), 400, "is empty"),
        (("-H", "Content-Type: application/json", "-d", '{"y": [[1, 2]]}'), 400, "missing x"),
    ],
)
def test_curl_is_told(
    running: tuple[str, Path], sent: tuple[str, ...], status: int, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What cannot be read is refused with a sentence and a remedy; a form, which TorchServe takes apart, too."""
    url, folder = running
    monkeypatch.chdir(folder)
    Path("x.npy").write_bytes(write_npy(np.array([[1.5, 2]], np.float32)))
    got, value = _curl(*sent, url)
    assert got == status
    assert said in value["message"]
    assert value["remedy"]


def _predict(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "retort", "predict", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def test_predict_takes_the_address_that_is_printed(running: tuple[str, Path]) -> None:
    """The whole address, and that of the server alone, whose single model is asked; others are named."""
    url, folder = running
    (folder / "in.json").write_text(BODY)
    server = url.partition("/predictions")[0]
    for address in (url, server, f"{server}/", f"{url}/1.0", server.replace("127.0.0.1", "localhost")):
        done = _predict(address, "--input", str(folder / "in.json"), "--json")
        assert json.loads(done.stdout)["values"] == {"total": [3.5]}, done.stderr
    wrong = _predict(f"{server}/predictions/two_number", "--input", str(folder / "in.json"))
    assert wrong.returncode == 2
    assert wrong.stderr == (
        f"retort: the server has no model 'two_number'; did you mean 'two-numbers'?\n  → use {url}\n"
    )
    elsewhere = _predict(f"{server}/foo/predictions/two-numbers", "--input", str(folder / "in.json"))
    assert "there is nothing at /foo/predictions/two-numbers" in elsewhere.stderr


def test_a_server_that_ends_by_itself_is_an_error(tmp_path: Path) -> None:
    """A signal to end gives 0; if TorchServe is killed, the exit code says so, and nothing stays behind."""
    made = archive("vector", tmp_path)
    with served(made, tmp_path) as (said, process):
        assert "ready" in said
        (watchdog,) = psutil.Process(process.pid).children()
        java = watchdog.children()[0]
        family, scratch = [watchdog, *watchdog.children(recursive=True)], Path(watchdog.cwd())
        java.kill()
        _, error = process.communicate(timeout=60)
    assert len(family) >= 3
    assert not psutil.wait_procs(family, timeout=20)[1]
    assert not scratch.exists()
    assert process.returncode == 9
    assert "ended by itself" in error
    with served(made, tmp_path) as (_, process):
        pass
    assert process.returncode == 0


@pytest.mark.parametrize("victim", ["TorchServe", "its watchdog"])
def test_a_server_that_ends_by_itself_is_started_again_if_asked(tmp_path: Path, victim: str) -> None:
    """With `--restarts 1` a killed server answers again at the same address; killed twice, it is an error.

    The folders in which it worked are deleted, also where the process that does so was killed.
    """
    folders = []
    with served(archive("vector", tmp_path), tmp_path, "--restarts", "1") as (said, process):
        address = re.search(r"ready: (\S+)", said)
        assert address is not None
        for _ in range(2):
            assert _answers(address[1])
            (watchdog,) = psutil.Process(process.pid).children()
            folders.append(Path(watchdog.cwd()))
            (watchdog.children()[0] if victim == "TorchServe" else watchdog).kill()
            watchdog.wait(timeout=30)
        _, error = process.communicate(timeout=60)
    assert process.returncode == 9
    assert "it is started again (1 of 1)" in error
    assert not [folder for folder in folders if folder.exists()]


def _answers(url: str) -> bool:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with suppress(subprocess.CalledProcessError):  # nothing listens there yet
            status, _ = _curl("-H", "Content-Type:", "-d", BODY, url)
            if status == 200:
                return True
        time.sleep(0.2)
    return False
