"""The lines that `retort serve` prints: pasted as they are, in any folder, they return the model's answer."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from served_models import CERTIFICATE, KINDS, archive, site

from retort.__main__ import main
from retort.serve.address import Address
from retort.serve.engine import Engine, smallest_golden
from retort.serve.requests.wire import JSON, NPZ, read_npz
from retort.serve.settings import Limits
from retort.serve.usage import Example, Lines, example_request, lines

TOKEN = "it's $HOME"
BIN = Path(sys.executable).parent


@pytest.fixture(scope="module", params=list(KINDS))
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """The loaded bundle of a model of each kind."""
    made = Engine.load(archive(request.param, tmp_path_factory.mktemp("mar")).path / "bundle")
    yield made
    made.close()


def _example(engine: Engine) -> tuple[Example, float]:
    inputs, _ = smallest_golden(engine.signature, engine.golden)
    return example_request(inputs, engine.settings.limits), float(engine.session.run(inputs)["total"][0])


def pasted(found: Lines, folder: Path) -> list[str]:
    """What each of the four texts prints when it is pasted, in another folder, with the test's certificate trusted."""
    trust = {"CURL_CA_BUNDLE": str(CERTIFICATE), "SSL_CERT_FILE": str(CERTIFICATE)}
    environment = {**os.environ, **trust, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
    shell = ["bash", "-e", "-s"]
    python = [sys.executable, "-i", "-q"]  # the interactive interpreter, which wants no indentation and no open block
    said = []
    for command, text in ((shell, found.curl), (shell, found.predict), (python, found.client), (python, found.python)):
        done = subprocess.run(
            command, input=f"{text}\n", capture_output=True, text=True, cwd=folder, env=environment, check=True
        )
        assert "Error" not in done.stderr, (text, done.stderr)
        said.append(done.stdout)
    return said


def assert_answers(said: list[str], wanted: float) -> None:
    """All four have the model's first value, as JSON, as a printed array, or as Python."""
    curl, predict, client, python = said
    assert np.float32(json.loads(curl)["total"][0]) == np.float32(wanted)
    for shown in (predict, client, python):
        number = re.search(r"\[\s*(-?[\d.]+(?:e[+-]\d+)?)", re.sub(r"float32\[\d+\]", "", shown))
        assert number is not None, shown
        assert float(number[1]) == pytest.approx(wanted, rel=1e-4, abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("way", ["plain", "proxy", "ipv6"])
def test_pasted_lines_return_the_answer(engine: Engine, way: str, tmp_path: Path) -> None:
    """For every kind of model, over plain HTTP, over TLS with a token that a shell would read, and over IPv6."""
    example, wanted = _example(engine)
    folder = tmp_path / 'it\'s a "path"'
    folder.mkdir()
    file = example.store(folder, "net")
    secure, host = way == "proxy", "::1" if way == "ipv6" else "127.0.0.1"
    headers = {"Authorization": f"Bearer {TOKEN}"} if secure else {}
    with site(engine, tls=secure, token=TOKEN if secure else "", host=host) as url:
        found = lines(f"{url}/predictions/net", example, file, headers)
        assert_answers(pasted(found, tmp_path), wanted)


def test_no_file_of_another_is_overwritten(tmp_path: Path) -> None:
    """A file of the user, a link, or the request of another server keeps its content; an equal file is used again."""
    first, other = Example(JSON, b'{"x": 1}'), Example(JSON, b'{"x": 2}')
    assert first.store(tmp_path, "net") == first.store(tmp_path, "net") == (tmp_path / "net-request.json").resolve()
    (tmp_path / "net-request-2.json").symlink_to(tmp_path / "nowhere")
    assert other.store(tmp_path, "net").name == other.store(tmp_path, "net").name == "net-request-3.json"
    assert (tmp_path / "net-request.json").read_bytes() == first.body
    assert not (tmp_path / "nowhere").exists()


def test_the_body_is_the_exact_sample(engine: Engine) -> None:
    """JSON where it is short enough and can hold the values; each gives the model the golden sample bit for bit."""
    example, _ = _example(engine)
    inputs, _ = smallest_golden(engine.signature, engine.golden)
    if example.kind == JSON:
        read = {name: np.array(value) for name, value in json.loads(example.body).items()}
    else:
        read = read_npz(example.body, Limits())
    for name, array in engine.signature.validate(read).items():
        assert array.tobytes() == inputs[name].tobytes()
    assert example.kind == (NPZ if engine.settings.name in ("large", "masked") else JSON)
    assert example.shown == (engine.settings.name in ("vector", "text", "number", "flags"))


def test_numbers_have_no_more_digits_than_their_type() -> None:
    """A float32 of 0.1 is sent as 0.1, and an empty array, which JSON cannot hold, as npz."""
    assert example_request({"x": np.array([[0.1, 1e20]], np.float32)}, Limits()).body == b'{"x": [[0.1, 1e+20]]}'
    assert example_request({"x": np.zeros((1, 0, 3), np.float32)}, Limits()).kind == NPZ
    assert example_request({"x": np.ones((1, 50), np.float32)}, Limits(request_bytes=100)).kind == NPZ


@pytest.mark.parametrize(
    ("url", "name", "version", "server", "prefix"),
    [
        ("http://127.0.0.1:8080/predictions/net", "net", "", "http://127.0.0.1:8080", ""),
        ("http://localhost:80/predictions/net/2.0/", "net", "2.0", "http://localhost", ""),
        ("https://[::1]:8443/predictions/a%20b", "a b", "", "https://[::1]:8443", ""),
        ("https://host/vision/predictions/net", "net", "", "https://host/vision", "/vision"),
        ("https://host/a/b/predictions/net/1%2F2", "net", "1/2", "https://host/a/b", "/a/b"),
        ("http://host:1/", "", "", "http://host:1", ""),
        ("https://[::1]:80/predictions/n", "n", "", "https://[::1]:80", ""),
    ],
)
def test_addresses_are_read_and_written(url: str, name: str, version: str, server: str, prefix: str) -> None:
    """Server, prefix, name and version of an address; what is written is read as the same."""
    found = Address.parse(url)
    assert (found.name, found.version, found.server, found.prefix) == (name, version, server, prefix)
    assert Address.parse(found.url if name else found.server) == found


@pytest.mark.parametrize(
    "url",
    ["ftp://h", "http://", "h:80", "http://h:99999", "http://h:x", "http://[::1", "http://u:p@h", "http://h/predictions/",
     "http://h/predictions/a/b/c", "http://h/predictions/a?b=c"],
)  # fmt: skip
def test_other_addresses_are_refused(
    url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is no address of a model is refused in one sentence, with an example of one; without `//` it is a path."""
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", np.zeros(1))
    with pytest.raises(SystemExit) as ended:
        main(["predict", url, "--input", "x.npy"])
    assert ended.value.code == 2
    shown = capsys.readouterr().err
    assert shown.count("\n") == 2
    assert "/predictions/NAME" in shown or (url == "h:80" and "no such artifact or model: h:80" in shown)
    assert "internal" not in shown
