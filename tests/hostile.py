"""Hostile paths for every argument of every command, which are read from the command line itself."""

from __future__ import annotations

import errno
import inspect
import os
import signal
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, get_args, get_origin

import pytest

from retort.__main__ import _app, main
from retort.cli.app import app as APP

KEPT = Path(__file__).resolve().parent / "old_files" / "fabcb72"
SECONDS = 100
"""A command that takes longer hangs: on a FIFO, or on a question."""
SUFFIXES = (".yaml", ".pt2", ".onnx", ".npz", ".mar", ".json", ".html", ".npy", ".safetensors")
ENCODINGS = {"latin1": "latin-1", "utf16": "utf-16", "utf32": "utf-32", "bom": "utf-8-sig"}
WHOLE = {".pt2": "cnn/model.pt2", ".onnx": "int8-onnx/model.onnx", ".mar": "archive/model.mar"}
"""Valid files of the old version, of which half is kept."""
RECIPE = "model: nets:cnn\ndata: nets:images\nstages: [export]\n"
FAILURES = {
    "EACCES": errno.EACCES,
    "EPERM": errno.EPERM,
    "ENOSPC": errno.ENOSPC,
    "EROFS": errno.EROFS,
    "EIO": errno.EIO,
}


@dataclass(frozen=True)
class Slot:
    """A place of a command for text: an argument, or an option with its name."""

    command: str
    name: str
    flag: str
    path: bool


@dataclass(frozen=True)
class Case:
    """One command line."""

    slot: Slot
    kind: str

    @property
    def label(self) -> str:
        """For messages."""
        return f"{self.slot.command} {self.slot.flag or self.slot.name.upper()} = {self.kind}"


def callbacks() -> dict[str, Callable[..., Any]]:
    """Every command by name, with the function whose parameters are its arguments."""
    _app()
    found = {}
    for command in APP.registered_commands:
        assert command.callback is not None
        found[command.name or command.callback.__name__] = command.callback
    for group in APP.registered_groups:
        assert group.typer_instance is not None
        for command in group.typer_instance.registered_commands:
            assert command.callback is not None
            found[f"{group.name} {command.name}"] = command.callback
    return found


def slots() -> list[Slot]:
    """Every argument and option of every command that takes a path or free text."""
    found = []
    for command, callback in callbacks().items():
        for parameter in inspect.signature(callback, eval_str=True).parameters.values():
            kind, info = _parts(parameter.annotation)
            text = _leaf(kind)
            if text not in (Path, str) or info is None:
                continue
            argument = type(info).__name__ == "ArgumentInfo"
            flag = "" if argument else (info.param_decls or [f"--{parameter.name.strip('_').replace('_', '-')}"])[0]
            found.append(Slot(command, parameter.name, flag, text is Path))
    return found


def _parts(annotation: Any) -> tuple[Any, Any]:
    if get_origin(annotation) is Annotated:
        kind, info, *_ = get_args(annotation)
        return kind, info
    return annotation, None


def _leaf(kind: Any) -> Any:
    inner = [part for part in get_args(kind) if part is not type(None)]
    return _leaf(inner[0]) if len(inner) == 1 else kind


def hostile_paths(folder: Path) -> dict[str, str]:
    """Paths of every kind that commands do not expect, made in a folder."""
    folder.mkdir(parents=True)
    return _hostile_files(folder) | _hostile_places(folder)


def _hostile_files(folder: Path) -> dict[str, str]:
    """Files with contents that no command can use."""
    whole = {kind: (KEPT / path).read_bytes() for kind, path in WHOLE.items()}
    files = {f"{name}.yaml": ("# für uns\n" + RECIPE).encode(encoding) for name, encoding in ENCODINGS.items()}
    files |= {f"cut{kind}": content[: len(content) // 2] for kind, content in whole.items()}
    files |= {f"garbage{suffix}": bytes(range(256)) * 4 for suffix in SUFFIXES}
    files |= {f"empty{suffix}": b"" for suffix in SUFFIXES}
    files |= {
        "nul.yaml": RECIPE.replace("nets:cnn", "a\0b.pt2").encode(),
        "nul-quoted.yaml": RECIPE.replace("nets:cnn", '"a\\0b.pt2"').encode(),
        "list.yaml": b"- 1\n- 2\n",
        "deep.yaml": b"[" * 2000,
        "tag.yaml": b"model: !!python/object/apply:os.system [ls]\n",
        "alias.yaml": b"a: &a [*a]\nmodel: *a\n",
        "list.json": b"[1, [2, 3]]",
        "text.json": b'"text"',
        "deep.json": b"[" * 100_000,
        "latin1.json": '{"input": "ü"}'.encode("latin-1"),
        "présent\udcff.yaml": RECIPE.encode(),
        "file": b"a file",
    }
    for name, content in files.items():
        (folder / name).write_bytes(content)
    with zipfile.ZipFile(folder / "zip.pt2", "w") as archive:
        archive.writestr("a", "b")
    return {name: str(folder / name) for name in [*files, "zip.pt2"]}


def _hostile_places(folder: Path) -> dict[str, str]:
    """Folders, links, pipes, devices and names where a command expects a file."""
    made = {f"missing{suffix}": str(folder / f"missing{suffix}") for suffix in SUFFIXES}
    made |= {f"no-folder{suffix}": str(folder / "none" / f"x{suffix}") for suffix in SUFFIXES}
    for suffix in SUFFIXES:
        (folder / f"folder{suffix}").mkdir()
        made[f"folder{suffix}"] = str(folder / f"folder{suffix}")
    for suffix in ("", ".onnx", ".yaml"):
        made[f"too-long{suffix}"] = str(folder / ("n" * 300 + suffix))
        made[f"newline{suffix}"] = str(folder / f"a\nb{suffix}")
        made[f"surrogate{suffix}"] = str(folder / f"a\udcffb{suffix}")
        made[f"nul{suffix}"] = str(folder / f"a\0b{suffix}")
    for link, target in {"broken": "nowhere", "loop.onnx": "loop.onnx", "loop": "loop-b", "loop-b": "loop"}.items():
        (folder / link).symlink_to(folder / target)
    made |= {link: str(folder / link) for link in ("broken", "loop.onnx", "loop")}
    for suffix in ("", ".pt2", ".npz", ".yaml", ".json"):
        os.mkfifo(folder / f"fifo{suffix}")
        made[f"fifo{suffix}"] = str(folder / f"fifo{suffix}")
    made |= {"below-a-file": str(folder / "file" / "below.yaml"), "too-deep": str(folder / "/".join(["d"] * 2100))}
    made |= {"dev-null": "/dev/null", "dev-full": "/dev/full", "dev-zero": "/dev/zero", "proc": "/proc/nothing/here"}
    made |= {"dot": ".", "dots": "..", "empty": "", "home": "~", "nobody": "~nobody-here/x", "dash": "-"}
    made |= {"colon": ":", "module": "no_such_module:f", "own-module": "nets:none", "raises": "os:abort_"}
    return made | {"hash": "a#b"}


def base_arguments(command: str, old: Path) -> list[str]:
    """Arguments with which a command gets as far as its other arguments let it; ``clean`` finds nothing to delete."""
    (old / "no-runs").mkdir(exist_ok=True)
    program, graph = str(old / "cnn"), str(old / "int8-onnx")
    data = ["--data", "nets:images"]
    known = {
        "init": [str(old / "new.yaml")],
        "check": [str(old / "small.yaml")],
        "run": [str(old / "small.yaml"), "--until", "capture"],
        "show": [program],
        "capture": ["nets:cnn", *data],
        "engine": [graph, "--emit", "trtexec"],
        "lint": [graph],
        "pack": [graph],
        "trtexec": [str(old / "times.json"), "--plan", str(old / "x.plan")],
        "serve": [str(old / "archive" / "model.mar"), "--java", "/nowhere/java"],
        "clean": ["--runs", str(old / "no-runs")],
        "predict": [graph, *data, "--rows", "2"],
        "bench gate": [graph, "--baseline", str(old / "result.json"), *data, "--budget-s", "0.1"],
        "bench noise": [graph, "--comparisons", "8", "--budget-s", "0.5"],
        "bench run": [graph, *data, "--budget-s", "0.1"],
        "report": [str(old / "result.json")],
        "compare": [str(old / "result.json"), str(old / "result.json")],
        "export": [program, *data],
        "distill": [program, *data, "--student", "nets:cnn", "--epochs", "1"],
        "train": [program, *data, "--epochs", "1"],
        "prune": [program, *data, "--macs", "0.6", "--set", "recover=null"],
        "sparsify": [program, *data, "--set", "recover=null"],
        "quantize": [program, *data, "--no-timed", "--correction", "none"],
        "bench load": [graph, *data, "--seconds", "0.1"],
        "bench cold": [graph, "--starts", "2", "--page-cache", "warm"],
        "bench import": [str(Path(__file__).parent / "benchmarks/peers/data/pyperf.json")],
        "bench sweep": [graph, *data, "--seconds", "0.05", "--threads", "1", "--batch-sizes", "1"],
        "bench sustain": [graph, *data, "--minutes", "0.002"],
        "edge bundle": [graph, *data, "--rows", "4"],
        "edge run": ["local", graph, *data, "--rows", "4", "--python", "/nowhere/python"],
        "edge doctor": ["local", "--python", "/nowhere/python"],
        "edge table": ["--store", str(old / "edge.db")],
        "edge compare": ["a", "b", "--store", str(old / "edge.db")],
    }
    return known.get(command, [])


def arguments(case: Case, path: str, old: Path) -> list[str]:
    """The command line of a case: the base arguments with one of them replaced."""
    given = base_arguments(case.slot.command, old)
    if case.slot.flag:
        if case.slot.flag in given:
            at = given.index(case.slot.flag)
            given[at : at + 2] = []
        given += [f"{case.slot.flag}={path}"] if case.slot.flag.startswith("--") else [case.slot.flag, path]
    elif path.startswith("-"):
        given = [path, *given[1:]]
    else:
        given = [path, *given[1:]] if given and not given[0].startswith("-") else [path, *given]
    return [*case.slot.command.split(), *given]


@contextmanager
def limited(seconds: int = SECONDS) -> Iterator[None]:
    """Fail if the block takes longer."""

    def _expired(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"the command took more than {seconds} s")

    before = signal.signal(signal.SIGALRM, _expired)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def failing(path: str, code: int) -> Iterator[None]:
    """Let every access to a path and to what is below it fail with an error of the system."""
    wanted = os.path.abspath(path)

    def _is_there(name: Any) -> bool:
        if not isinstance(name, str | os.PathLike):
            return False
        full = os.path.abspath(os.fspath(name))
        return full == wanted or str(full).startswith(wanted + os.sep)

    def _refusing(function: Callable[..., Any]) -> Callable[..., Any]:
        def _call(*values: Any, **named: Any) -> Any:
            if values and _is_there(values[0]):
                raise OSError(code, os.strerror(code), str(values[0]))
            return function(*values, **named)

        return _call

    places: list[tuple[Any, str]] = [(__import__("io"), "open"), (__import__("builtins"), "open")]
    places += [(os, name) for name in ("open", "mkdir", "listdir", "scandir", "rename", "replace", "unlink", "rmdir")]
    with pytest.MonkeyPatch.context() as patch:
        for owner, name in places:
            patch.setattr(owner, name, _refusing(getattr(owner, name)))
        yield


def outcome(given: list[str]) -> int | str:
    """The exit code of a command in this process, or what it raised."""
    try:
        with limited():
            main(given)
    except SystemExit as stopped:
        return stopped.code if isinstance(stopped.code, int) else str(stopped.code)
    except BaseException as error:  # whatever comes out of `main` is a fault of the command line
        return f"{type(error).__name__}: {error}"
    return "no exit code"
