"""No path, no content of a file, no error of the system and no encoding makes a command fail with an internal error."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest
from hostile import FAILURES, KEPT, Case, arguments, callbacks, failing, hostile_paths, outcome, slots

SEED = 20261130
FEW = 200
SHARES = 7
"""Parts of the 12,500 cases, each of about 2.5 minutes of CPU time."""
NAMES = ("input", "data", "before", "source")
NEW = {kind + suffix for kind in ("newline", "surrogate") for suffix in ("", ".onnx", ".yaml")}
"""Names that are odd and valid, to which a stage would write after its work."""
CODES = {0, 2, 3, 4, 5, 6, 7, 8, 9}
"""What commands exit with; 1 is an internal error, and 130 an interruption."""
HEAVY = {"train", "distill", "prune", "sparsify", "quantize", "export", "bench run"}
"""Commands that work for seconds where a free text is valid: only their paths are in the small selection."""


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """A folder with valid files of every kind, and hostile paths by kind."""
    folder = tmp_path_factory.mktemp("hostile")
    return Path(shutil.copytree(KEPT, folder / "valid")), hostile_paths(folder / "paths")


@pytest.fixture(autouse=True)
def back(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Return to the current folder afterwards."""
    here = os.getcwd()
    yield
    os.chdir(here)


def cases(kinds: list[str], light: bool) -> list[Case]:
    """Every argument of every command with every kind of path and error, in a fixed random order."""
    errors = [f"!{name}" for name in FAILURES]
    found = [
        Case(slot, kind)
        for slot in slots()
        if not (light and slot.command in HEAVY and not slot.path)
        for kind in [*kinds, *(errors if slot.path else [])]
        if not (light and slot.flag == "--out" and kind in NEW)
    ]
    random.Random(SEED).shuffle(found)
    return found


def internal_errors(
    chosen: list[Case], places: tuple[Path, dict[str, str]], capfd: pytest.CaptureFixture[str]
) -> dict[str, str]:
    """What goes wrong, by case: an internal error, an unknown exit code, an exception, or a hanging command."""
    old, paths = places
    found = {}
    plain = old.parent / "plain.json"
    for case in chosen:
        os.chdir(old)
        plain.write_text("{}")
        refused = case.kind.startswith("!")
        path = str(plain) if refused else paths[case.kind]
        with failing(path, FAILURES[case.kind[1:]]) if refused else nullcontext():
            result = outcome(arguments(case, path, old))
        told = "".join(capfd.readouterr())
        if result not in CODES or "internal error" in told or "Traceback" in told:
            found[case.label] = f"{result}: {told[-300:]}"
    return found


def test_commands_and_their_paths_are_found() -> None:
    """The cases come from the command line itself: every command with an argument of text is among them."""
    covered = {slot.command for slot in slots()}
    assert set(callbacks()) - covered <= {"schema", "status"}
    assert {(slot.command, slot.flag) for slot in slots()} >= {
        ("check", ""),
        ("export", "--out"),
        ("bench run", "--out"),
    }
    assert len(slots()) > 100


def test_hostile_paths_are_no_internal_errors(
    places: tuple[Path, dict[str, str]], capfd: pytest.CaptureFixture[str]
) -> None:
    """A selection of all commands, paths, contents and errors of the system."""
    chosen = cases(list(places[1]), light=True)[:FEW]
    assert internal_errors(chosen, places, capfd) == {}


def share_of_today() -> int:
    """Each day another share, so that a week goes through all cases; the environment can name one."""
    return int(os.environ.get("RETORT_FUZZ_SHARE", time.time() // 86_400)) % SHARES


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_many_hostile_paths_are_no_internal_errors(
    places: tuple[Path, dict[str, str]], capfd: pytest.CaptureFixture[str]
) -> None:
    """One of seven shares of all cases, with free texts of the commands that train and measure."""
    share = share_of_today()
    chosen = cases(list(places[1]), light=False)[share::SHARES]
    found = internal_errors(chosen, places, capfd)
    assert found == {}, f"{len(found)} of {len(chosen)} cases; RETORT_FUZZ_SHARE={share} repeats this share"


def test_a_file_whose_name_is_not_utf8_is_refused_before_the_work(
    places: tuple[Path, dict[str, str]], capfd: pytest.CaptureFixture[str]
) -> None:
    """ONNX cannot open such a path, so nothing is exported to it."""
    old, paths = places
    os.chdir(old)
    fresh = f"{paths['surrogate.onnx']}-fresh"  # a case before may have written to the path itself
    assert outcome(["export", str(old / "cnn"), "--data", "nets:images", f"--out={fresh}"]) == 8
    told = " ".join("".join(capfd.readouterr()).split())
    assert "not UTF-8, which ONNX Runtime cannot open" in told


@pytest.mark.parametrize("command", ["predict", "quantize", "compare", "report"])
def test_deep_json_is_one_sentence(
    command: str, places: tuple[Path, dict[str, str]], capfd: pytest.CaptureFixture[str]
) -> None:
    """A JSON file whose brackets are nested without an end is told as such, as an input, as data and as a result."""
    chosen = [Case(slot, "deep.json") for slot in slots() if slot.command == command and slot.name in NAMES]
    assert chosen
    assert internal_errors(chosen, places, capfd) == {}


def retort(folder: Path, *given: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """A command in a process of its own, with other variables of the environment."""
    variables = {**os.environ, **environment}
    variables = {name: value for name, value in variables.items() if value != "unset"}
    command = [sys.executable, "-m", "retort", *given]
    return subprocess.run(command, cwd=folder, env=variables, capture_output=True, timeout=120, check=False)


@pytest.mark.parametrize("setting", [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0"}])
def test_terminals_without_unicode_get_plain_characters(tmp_path: Path, setting: dict[str, str]) -> None:
    """Arrows, check marks and tables are written in ASCII, on both streams."""
    (tmp_path / "r.yaml").write_text("model: net:build\ndata: digits\nstages: [quantize, export]\n")
    done = retort(tmp_path, "check", "r.yaml", "--fast", **setting)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"quantize -> export" in done.stdout or "quantize → export".encode() in done.stdout
    if "PYTHONIOENCODING" in setting:
        done = retort(KEPT, "report", "result.json", "--out", str(tmp_path / "r.html"), **setting)
        assert done.returncode == 0, done.stderr
        done.stdout.decode("ascii")
    else:
        done = retort(tmp_path, "run", "none.yaml", **setting)
        assert done.returncode == 2
        assert b"no such recipe" in done.stderr


def test_a_reader_may_stop_reading(tmp_path: Path) -> None:
    """`retort schema | head` ends without a message."""
    line = f"set -o pipefail; {sys.executable} -m retort schema 2>err | head -c 10"
    done = subprocess.run(["bash", "-c", line], cwd=tmp_path, capture_output=True, timeout=120, check=False)
    assert len(done.stdout) == 10
    assert (tmp_path / "err").read_text() == ""
    assert done.returncode == 0


def test_without_a_home_or_a_current_folder(tmp_path: Path) -> None:
    """Commands work without HOME, and say so if the current folder was deleted."""
    assert retort(tmp_path, "schema", HOME="unset").returncode == 0
    assert retort(tmp_path, "clean", "--caches", HOME="unset", XDG_CACHE_HOME="unset").returncode == 0
    gone = tmp_path / "gone"
    gone.mkdir()
    line = f"cd {gone} && rmdir {gone} && {sys.executable} -m retort check {tmp_path / 'none.yaml'}"
    environment = {**os.environ, "PYTHONPATH": ""}
    done = subprocess.run(
        ["bash", "-c", line], env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert "internal error" not in done.stderr
    assert done.returncode != 1


def test_a_user_without_permissions_gets_one_sentence(tmp_path: Path) -> None:
    """Files that another user may not read, and folders that he may not write, are told with a remedy."""
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("becoming another user needs root and setpriv")
    locked = tmp_path / "locked"
    locked.mkdir()
    (tmp_path / "secret.yaml").write_text("model: a:b\n")
    (tmp_path / "secret.yaml").chmod(0o600)
    for folder in (tmp_path, *tmp_path.parents):
        if folder != Path("/") and folder.stat().st_uid == 0 and folder != Path("/tmp"):
            folder.chmod(0o755)
    locked.chmod(0o755)
    nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    probe = subprocess.run([*nobody, sys.executable, "-c", "import retort.cli.recipes"], check=False, timeout=120)
    if probe.returncode:
        pytest.skip("another user cannot run this Python")
    for given in (["check", str(tmp_path / "secret.yaml")], ["init", str(locked / "r.yaml")]):
        command = [*nobody, sys.executable, "-m", "retort", *given]
        done = subprocess.run(command, cwd="/", capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode in (2, 8), done.stderr
        assert "Permission denied" in done.stderr or "is not readable" in done.stderr
        assert "may read and write" in done.stderr
