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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from served_models import archive, require_torchserve

from retort.__main__ import main
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


@dataclass(frozen=True)
class Running:
    """A server that `retort serve` started in a folder of its own: what it printed, and where its model answers."""

    made: Artifact
    folder: Path
    said: str
    url: str


def _address(said: str) -> str:
    found = re.search(r"ready: (\S+)", said)
    assert found is not None, said
    return found[1]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A model with one input of two numbers; a signal to end gives 0."""
    folder = tmp_path_factory.mktemp("running")
    made = archive("vector", folder, name="two-numbers")
    with served(made, folder) as (said, process):
        yield Running(made, folder, said, _address(said))
    assert process.returncode == 0


def test_what_is_printed_can_be_pasted(running: Running, tmp_path: Path) -> None:
    """The printed lines are answered in a shell and in Python, in another folder."""
    golden = read_npz((running.made.path / "bundle" / GOLDEN).read_bytes(), Limits(expanded_bytes=1 << 30))
    sample = {name[3:]: array[:1] for name, array in golden.items() if name.startswith("in.")}
    wanted = float(open_session(running.made.path / "bundle" / "model.onnx").run(sample)["total"][0])
    python = [sys.executable, "-i", "-q"]
    found = _lines(running.said)
    curl = _run(["bash", "-es"], found["curl"], tmp_path)
    predicted = _run(["bash", "-es"], f"{found['predict']} --json", tmp_path)
    others = [_run(python, found[name], tmp_path) for name in ("client", "python")]
    assert [float(np.float32(value)) for value in json.loads(curl)["total"]] == [wanted]
    assert json.loads(predicted)["values"]["total"] == [pytest.approx(wanted)]
    for shown in others:
        number = re.search(r"\[(-?[\d.]+)", shown)
        assert number is not None
        assert float(number[1]) == pytest.approx(wanted, rel=1e-6)


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
def test_curl_is_understood(running: Running, sent: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a content type, or with one that clients choose by themselves, JSON and npy get their answer."""
    url, folder = running.url, running.folder
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
    running: Running, sent: tuple[str, ...], status: int, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What cannot be read is refused with a sentence and a remedy; a form, which TorchServe takes apart, too."""
    url, folder = running.url, running.folder
    monkeypatch.chdir(folder)
    Path("x.npy").write_bytes(write_npy(np.array([[1.5, 2]], np.float32)))
    got, value = _curl(*sent, url)
    assert got == status
    assert said in value["message"]
    assert value["remedy"]


def _predict(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """The exit code of the command, its output and its messages."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main(["predict", *arguments])
    said = capsys.readouterr()
    return int(ended.value.code or 0), said.out, said.err


def test_predict_takes_the_address_that_is_printed(running: Running, capsys: pytest.CaptureFixture[str]) -> None:
    """The whole address, and that of the server alone, whose single model is asked; others are named."""
    url, folder = running.url, running.folder
    (folder / "in.json").write_text(BODY)
    server = url.partition("/predictions")[0]
    for address in (url, server, f"{server}/", f"{url}/1.0", server.replace("127.0.0.1", "localhost")):
        _, shown, error = _predict(capsys, address, "--input", str(folder / "in.json"), "--json")
        assert json.loads(shown)["values"] == {"total": [3.5]}, error
    code, _, error = _predict(capsys, f"{server}/predictions/two_number", "--input", str(folder / "in.json"))
    assert (code, error) == (
        2, f"retort: the server has no model 'two_number'; did you mean 'two-numbers'?\n  → use {url}\n",
    )  # fmt: skip
    elsewhere = _predict(capsys, f"{server}/foo/predictions/two-numbers", "--input", str(folder / "in.json"))
    assert "there is nothing at /foo/predictions/two-numbers" in elsewhere[2]


def test_a_second_server_in_a_folder_is_started_again_once_if_asked(running: Running) -> None:
    """Its logs are its own, and `--json` has the lines that the first printed, apart from port and folder.

    With `--restarts 1` a killed TorchServe answers again at the same address; the next end is an error, and neither
    processes nor scratch folders stay behind, also where the process that deletes them was killed.
    """
    own = running.folder / "logs" / "2"
    with served(running.made, running.folder, "--json", "--restarts", "1") as (said, process):
        value = json.loads(said)
        assert "(logs in logs;" in running.said
        assert value["logs"] == str(own)
        assert Path(value["request"]).parent == own
        assert Path(value["request"]).read_bytes().startswith(b'{"x"')
        for key, text in _lines(running.said).items():
            alike = [re.sub(r"127\.0\.0\.1:\d+", "", one.replace("logs/2/", "logs/")) for one in (value[key], text)]
            assert alike[0] == alike[1]
        for folder in (own.parent, own):
            assert (folder / "console.log").read_text().count("Model server started") == 1
        family, scratch = list[psutil.Process](), list[Path]()
        for victim in ("TorchServe", "watchdog"):
            assert _answers(f"{value['url']}/predictions/two-numbers")
            (watchdog,) = psutil.Process(process.pid).children()
            family += [watchdog, *watchdog.children(recursive=True)]
            scratch.append(Path(watchdog.cwd()))
            (watchdog.children()[0] if victim == "TorchServe" else watchdog).kill()
            watchdog.wait(timeout=30)
        ended = "".join(process.communicate(timeout=60))
    assert process.returncode == 9
    assert re.search("TorchServe ended (by itself|during its start)", ended)  # it answers before it is ready
    assert len(family) >= 6
    assert not psutil.wait_procs(family, timeout=20)[1]
    assert not [folder for folder in scratch if folder.exists()]


def _answers(url: str) -> bool:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with suppress(subprocess.CalledProcessError):  # nothing listens there yet
            status, _ = _curl("-H", "Content-Type:", "-d", BODY, url)
            if status == 200:
                return True
        time.sleep(0.2)
    return False
