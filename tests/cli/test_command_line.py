"""The command line: help with examples, one message per error, an exit code per kind, JSON on request."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import retort
from retort.__main__ import main
from retort.cli.command_table import MODULES, application

COMMANDS = [
    "init",
    "check",
    "schema",
    "run",
    "show",
    "capture",
    "train",
    "distill",
    "prune",
    "quantize",
    "export",
    "pack",
    "serve",
    "predict",
    "bench run",
    "report",
    "compare",
    "doctor",
]


def call(*arguments: str) -> int:
    """Exit code of a command that runs in this process."""
    with pytest.raises(SystemExit) as stopped:
        main(list(arguments))
    assert isinstance(stopped.value.code, int)
    return stopped.value.code


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Every command's help shows an example of itself and its --json."""
    assert call(*command.split(), "--help") == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert f"Example: retort {command.removesuffix(' run')}" in shown
    assert "--json" in shown


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    """`retort --help` lists every command."""
    assert call("--help") == 0
    shown = capsys.readouterr().out
    assert all(f"│ {command.split()[0]} " in shown for command in COMMANDS)


def test_the_version_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    """By the option and by the package, as it is installed."""
    assert call("--version") == 0
    assert capsys.readouterr().out == f"retort {retort.__version__}\n"
    assert call() == 2
    shown = capsys.readouterr()
    assert "Usage" in shown.out
    assert "retort: \n" not in shown.err


def test_paths_that_cannot_be_used_are_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A folder that does not exist, a file as a folder, and a name that is too long are no internal errors."""
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "none" / "r.yaml", tmp_path / "file" / "r.yaml", tmp_path / ("n" * 300)):
        assert call("init", str(path)) != 0
        told = capsys.readouterr().err
        assert "internal error" not in told
        assert "→" in told
    assert call("report", str(tmp_path), "--out", str(tmp_path / "none" / "r.html")) != 0
    assert "does not exist" in capsys.readouterr().err


def test_unknown_command_gives_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    """For a misspelled command, the message has the nearest one, and the exit code is 2."""
    assert call("quantise") == 2
    assert "Did you mean 'quantize'" in capsys.readouterr().err


def test_init_then_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The recipe that `init` writes passes `check`, and `init` does not overwrite files without a flag."""
    path = tmp_path / "net.yaml"
    assert call("init", str(path), "--model", "net:build", "--data", "digits", "--goal", "prune") == 0
    assert call("check", str(path), "--fast") == 0
    assert "prune → quantize → export" in capsys.readouterr().out
    assert call("init", str(path)) == 2
    assert "--force" in capsys.readouterr().err


def test_errors_carry_message_remedy_and_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A missing recipe is one message on stderr with a remedy and no traceback."""
    assert call("run", str(tmp_path / "none.yaml")) == 2
    told = capsys.readouterr().err
    assert told.startswith("retort: no such recipe")
    assert "→ write one with `retort init`" in told
    assert "Traceback" not in told


def test_json_errors_are_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With --json an error is one JSON object with its code, message and remedy."""
    assert call("check", str(tmp_path / "none.yaml"), "--json") == 2
    error = json.loads(capsys.readouterr().out)["error"]
    assert error["code"] == "MissingFileError"
    assert error["remedy"]


def test_debug_shows_the_traceback(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--debug adds the traceback to the message."""
    assert call("check", str(tmp_path / "none.yaml"), "--debug") == 2
    assert "Traceback" in capsys.readouterr().err


def test_bad_flag_values_are_all_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Invalid flags are listed together, an unknown --set key with the nearest one."""
    model = tmp_path / "net.pt2"
    model.write_bytes(b"")
    assert call("prune", str(model), "--data", "digits", "--macs", "1.5", "--set", "recover.epoch=3") == 2
    told = " ".join(capsys.readouterr().err.split())
    assert "--macs: must be at most 1, not 1.5" in told
    assert "--set recover.epoch: unknown key; did you mean 'epochs'?" in told


def test_stage_needs_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A stage without its data reports this and lists the forms that data can have."""
    model = tmp_path / "net.pt2"
    model.write_bytes(b"")
    assert call("quantize", str(model)) == 2
    assert "--data is required" in capsys.readouterr().err


def test_schema_is_json(capsys: pytest.CaptureFixture[str]) -> None:
    """`retort schema` prints a JSON Schema."""
    assert call("schema") == 0
    assert json.loads(capsys.readouterr().out)["title"] == "Recipe"


def test_module_runs_as_a_program() -> None:
    """`python -m retort` is the same command line."""
    done = subprocess.run([sys.executable, "-m", "retort", "status", "--help"], capture_output=True, text=True)
    assert done.returncode == 0
    assert "Usage: retort status" in done.stdout


def test_a_command_imports_no_other_command() -> None:
    """`retort status` imports its own module, and no stages, other commands or large packages."""
    code = "import sys, retort.__main__ as m; m._app('status'); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    imported = set(done.stdout.split())
    assert "retort.cli.serving.running_servers" in imported
    assert not imported & {"retort.pipeline", "retort.cli.commands", "onnx", "torch", "scipy", "sklearn", "pandas"}


def test_each_command_is_in_the_module_of_the_table() -> None:
    """The whole command line has the commands of the table, in its order; with one name it has this command alone."""
    names = [name for module in MODULES.values() for name in module]
    assert [command.name for command in application().registered_commands] == names
    assert len(set(names)) == len(names)
    for name in ("data", "quantize"):
        assert [command.name for command in application(name).registered_commands] == [name]


def test_models_need_no_command_of_the_group(capsys: pytest.CaptureFixture[str]) -> None:
    """`retort bench MODELS` is `retort bench run MODELS`, also if an option comes first; its help shows both."""
    for given in (
        ["a.onnx", "--data", "digits"],
        ["--data", "digits", "a.onnx"],
        ["run", "a.onnx", "--data", "digits"],
    ):
        assert call("bench", *given) == 2
        assert "no such artifact or model: a.onnx" in capsys.readouterr().err
    assert call("bench", "--help") == 0
    shown = capsys.readouterr().out
    assert "│ run " in shown
    assert "may be left out" in shown
    assert call("bench", "a.onnx", "--help") == 0
    assert "--batch-sizes" in capsys.readouterr().out
