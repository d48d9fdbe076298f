"""What an audit finds: every unsafe setting, also one left to TorchServe's default, and nothing in our own servers."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import psutil
import pytest
from served_models import archive, require_torchserve

from retort.__main__ import main
from retort.core.errors import VerificationError
from retort.core.options.stage_options import ServeOptions
from retort.serve.known_servers import KnownServer, announced
from retort.serve.settings import Settings
from retort.serve.torchserve import audit as audit_module
from retort.serve.torchserve.archives.archive import open_mar
from retort.serve.torchserve.archives.self_test import prove
from retort.serve.torchserve.audit import audit_properties, audit_server, parse_properties, raise_if_unsafe
from retort.serve.torchserve.config import FrontEnd, config_properties, hides_grpc, unix_sockets
from retort.serve.torchserve.ports import Ports
from retort.serve.torchserve.server import serve

PORTS = Ports(1, 2, 3, 4, 5, 6, 7)
UNSAFE = [
    ("inference_address=http://0.0.0.0:8080", "inference_address"),
    ("inference_address=https://192.168.0.7:8443", "inference_address"),
    ("metrics_address : http://[::]:8082", "metrics_address"),
    ("management_address=http://127.0.0.1:8081", "management_address"),
    ("grpc_inference_address=0.0.0.0", "grpc_inference_address"),
    ("grpc_management_address=127.0.0.1", "grpc_management_address"),
    ("allowed_urls=https://models.example.org/.*", "allowed_urls"),
    ("install_py_dep_per_model=True", "install_py_dep_per_model"),
    ("enable_envvars_config=true", "enable_envvars_config"),
    ("use_env_allowed_urls=true", "use_env_allowed_urls"),
    ("decode_input_request = true", "decode_input_request"),
    ("load_models=all", "load_models"),
    ("cors_allowed_origin=*", "cors_allowed_origin"),
    ("allowed_urls=\\u0068ttp://.*", "allowed_urls"),
    ("load_models=a\\\nll", "load_models"),
]
"""A line that is added to our own configuration, and the setting that is found."""
only_closed = pytest.mark.skipif(not (unix_sockets() and hides_grpc()), reason="this system cannot close everything")


@pytest.fixture
def safe(tmp_path: Path) -> str:
    """The configuration that `retort serve` writes, with folders of this user."""
    (tmp_path / "s").mkdir(mode=0o700)
    (tmp_path / "s" / "store").mkdir(mode=0o700)
    front = FrontEnd(2, f"unix:{tmp_path}/s/management", f"unix:{tmp_path}/s/metrics")
    models = {"m~1.mar": Settings(name="m")}
    return config_properties(models, PORTS, "127.0.0.1", tmp_path / "s" / "store", front).decode("ascii")


def call(*arguments: str) -> int:
    """The exit code of a command."""
    with pytest.raises(SystemExit) as stopped:
        main([*arguments])
    assert isinstance(stopped.value.code, int)
    return stopped.value.code


@only_closed
@pytest.mark.parametrize(("line", "setting"), UNSAFE)
def test_every_unsafe_setting_is_found(safe: str, line: str, setting: str) -> None:
    """Our own configuration has none; with one unsafe line it has exactly that one, and no server starts with it."""
    assert audit_properties(safe) == []
    (finding,) = audit_properties(f"{safe}{line}\n")
    assert finding.setting == setting
    assert finding.why
    assert finding.remedy
    with pytest.raises(VerificationError, match=f"1 unsafe setting: {setting} is"):
        raise_if_unsafe(f"{safe}{line}\n")


@only_closed
def test_what_is_not_said_is_unsafe_too() -> None:
    """An empty configuration has TorchServe's defaults, of which four are unsafe."""
    found = {finding.setting for finding in audit_properties("# nothing\n\n")}
    wanted = {"management_address", "grpc_management_address", "allowed_urls", "decode_input_request"}
    assert found == wanted


@only_closed
def test_open_folders_are_found(safe: str, tmp_path: Path) -> None:
    """A store that others can write, and a socket in a folder that others can enter."""
    (tmp_path / "s" / "store").chmod(0o777)
    assert [finding.setting for finding in audit_properties(safe)] == ["model_store"]
    (tmp_path / "s" / "store").chmod(0o700)
    (tmp_path / "s").chmod(0o711)
    (finding,) = audit_properties(safe)
    assert (finding.found, finding.remedy) == ("711", f"chmod 700 {tmp_path}/s")


def test_properties_are_read_as_java_reads_them() -> None:
    """Comments, three separators, escapes and continued lines; the last of equal keys counts."""
    text = "! x\n#y=1\na=1\n  b : 2\nc 3\nd=\\\n   4,\\\n 5\ne\\=f=6\ng=\\u00fc\\n\na=7\nh\ni=x\\\\\nj=C:/k"
    assert parse_properties(text) == {
        "a": "7", "b": "2", "c": "3", "d": "4,5", "e=f": "6", "g": "ü\n", "h": "", "i": "x\\", "j": "C:/k",
    }  # fmt: skip


@only_closed
def test_the_command_fails_on_an_unsafe_file(safe: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 5 with every finding and its remedy; 0 for a safe file; 2 for one that is not there."""
    file = tmp_path / "config.properties"
    file.write_text(f"{safe}allowed_urls=.*\nload_models=all\n")
    assert call("audit", str(file)) == 5
    told = capsys.readouterr().err
    assert "2 unsafe settings" in told
    assert "→ allowed_urls=(?!)" in told
    assert call("audit", str(file), "--json") == 5
    error = json.loads(capsys.readouterr().out)["error"]
    assert [one["setting"] for one in error["findings"]] == ["allowed_urls", "load_models"]
    file.write_text(safe)
    assert call("audit", str(file)) == 0
    assert "no unsafe setting" in capsys.readouterr().out
    assert call("audit", str(tmp_path / "none.properties")) == 2


def test_an_archive_is_proven(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`verify` runs the golden inputs and names the digest; an altered file, and other outputs, are refused."""
    made = archive("vector", tmp_path)
    assert prove(open_mar(made)).same_runtime
    assert call("verify", str(made.path), "--json") == 0
    value = json.loads(capsys.readouterr().out)
    assert (value["model"], value["version"], value["golden_error"]) == ("vector", "1.0", 0.0)
    assert len(value["sha256"]) == 64
    assert call("verify", str(made.main)) == 0
    assert "gives its golden outputs here" in capsys.readouterr().out
    content = bytearray(made.main.read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "bad.mar").write_bytes(content)
    assert call("verify", str(tmp_path / "bad.mar")) == 3


def test_other_golden_outputs_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that computes something else on this machine is an error with both numbers."""
    mar = open_mar(archive("vector", tmp_path))
    monkeypatch.setattr("retort.serve.torchserve.archives.self_test.golden_error", lambda outputs, expected: 0.5)
    with pytest.raises(VerificationError, match=r"differ by 0\.5, but only 0\.001 is allowed"):
        prove(mar)


@pytest.fixture
def _java(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETORT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("RETORT_JAVA_ARCHIVE", "off")
    require_torchserve()


@only_closed
@pytest.mark.torchserve
@pytest.mark.usefixtures("_java")
def test_a_running_server_has_no_finding(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither its configuration nor what it listens on, also with swaps; a port that is open to others is found."""
    with serve(ServeOptions(swaps=True), archive("vector", tmp_path), logs=tmp_path / "logs") as server:
        own = KnownServer(server.url, ("vector",), server.management_url, str(server.logs))
        with announced(own) as note, socket.socket() as opened:
            assert note.server is not None
            assert audit_server(note.server) == []
            assert call("audit") == 0
            assert call("audit", str(server.ports.inference)) == 0
            capsys.readouterr()
            opened.bind(("0.0.0.0", 0))
            opened.listen()
            assert psutil.Process().pid == note.server.pid
            (finding,) = audit_server(note.server)
            assert (finding.setting, finding.found) == (f"port {opened.getsockname()[1]}", "open on 0.0.0.0")
        with monkeypatch.context() as patched, pytest.raises(VerificationError, match="unsafe setting"):
            patched.setitem(audit_module._MUST, "decode_input_request", ("no", "of a test"))
            with serve(ServeOptions(), archive("vector", tmp_path / "2"), logs=tmp_path / "2"):
                pass
    assert call("audit") == 9
