"""Which server a command means: by port, address or model, and never by a guess."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from retort.__main__ import main
from retort.serve import known_servers
from retort.serve.known_servers import KnownServer, announced


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETORT_CACHE", str(tmp_path / "cache"))


def call(*arguments: str) -> int:
    """The exit code of a command."""
    with pytest.raises(SystemExit) as stopped:
        main([*arguments])
    assert isinstance(stopped.value.code, int)
    return stopped.value.code


@pytest.mark.parametrize("command", ["logs", "stop"])
def test_without_a_server_the_remedy_starts_one(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Commands for a server fail with exit code 9; status is no error."""
    assert call(command) == 9
    assert "start one with `retort serve ARCHIVE --detach`" in capsys.readouterr().err
    assert call("status") == 0
    assert "no server runs" in capsys.readouterr().out


def test_the_server_that_is_meant(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A port, an address of a model and a name that fits one are taken; otherwise the choice is shown."""
    (tmp_path / "console.log").write_text("first\nsecond\n")
    one, two = "http://127.0.0.1:4711", "http://127.0.0.1:4712"
    first = KnownServer(one, ("a", "b"), "unix:/x", str(tmp_path))
    with announced(first), announced(KnownServer(two, ("b",), "unix:/y", str(tmp_path))):
        for text in ("4711", one, f"{one}/predictions/a", "a"):
            assert call("logs", text, "--lines", "1") == 0
            assert capsys.readouterr().out == f"==> {tmp_path}/console.log\nsecond\n"
        for given, told in ((["b"], "2 servers could be meant"), ([], "2 servers"), ([""], "no server fits ''")):
            assert call("logs", *given) == 2
            assert told in (error := capsys.readouterr().err)
            assert "give the port of one of these: 4711 (a, b), 4712 (b)" in error
        assert call("stop", "4711", "--all") == 2
    capsys.readouterr()
    assert call("logs") == 9


def test_logs_that_were_deleted_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A server whose folder of logs is empty is one sentence."""
    with announced(KnownServer("http://127.0.0.1:4711", ("a",), "unix:/x", str(tmp_path / "gone"))):
        assert call("logs") == 2
        assert "contains no logs of http://127.0.0.1:4711" in capsys.readouterr().err
        (note,) = known_servers.known_servers()
        assert note.runs
        assert call("status") == 0
        shown = capsys.readouterr().out
        assert "runs, but does not answer" in shown


def test_status_says_where_the_metrics_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The address for Prometheus is shown of a server that counts, and of no other."""
    url, metrics = "http://127.0.0.1:4711", "http://127.0.0.1:8082/metrics"
    with announced(KnownServer(url, ("a",), "unix:/x", str(tmp_path), metrics_url=metrics)):
        assert call("status") == 0
        assert f"metrics at {metrics}; logs in" in capsys.readouterr().out
        assert call("status", "--json") == 0
        assert json.loads(capsys.readouterr().out)["servers"][0]["metrics_url"] == metrics
    with announced(KnownServer(url, ("a",), "unix:/x", str(tmp_path))):
        assert call("status") == 0
        assert "metrics" not in capsys.readouterr().out


def test_notes_that_are_damaged_or_old_are_no_servers(tmp_path: Path) -> None:
    """A note of an earlier version, a damaged one and a foreign file are passed over."""
    folder = tmp_path / "cache" / "servers"
    folder.mkdir(parents=True)
    for name, text in (("1.json", "{"), ("2.json", '{"model": "a", "pid": 1}'), ("x.json", "{}"), ("3.json", "[]")):
        (folder / name).write_text(text)
    assert known_servers.known_servers() == []
