"""Every option that a text mentions exists, and the help of its command shows it."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hostile import callbacks

from retort.cli.flags import keys_without_flag, stage_flags
from retort.core.options.recipe import Recipe
from retort.core.options.stage_table import STAGES

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
ROOMS = ("core", "compress", "export", "serve", "benchmarks", "pipeline", "cli")
OTHERS = {
    "--system-site-packages", "--without", "--nproc-per-node", "--nnodes", "--rdzv-backend", "--rdzv-endpoint",
    "--force-reinstall", "--no-deps", "--exportTimes", "--upgrade", "--target-dir", "--write", "--check",
    "--loadEngine", "--abbrev", "--always", "--dirty", "--format", "--query-gpu", "--data-binary", "--exportLayerInfo",
    "--no-", "--model-repository", "--disable-auto-complete-config", "--http-port", "--uid", "--no-create-home",
    "--shell", "--no-cache-dir", "--interval", "--start-period", "--read-only", "--cap-drop", "--security-opt", "--rm",
    "--no-access-log", "--no-server-header", "--timeout-graceful-shutdown", "--now", "--config", "--rest",
    "--platform", "--disable-pip-version-check", "--quiet", "--implementation", "--only-binary", "--dest", "--no-input",
    "--export-json", "--profile-export-file", "--body-file", "--create-if-none", "--edit-last", "--python-version",
}  # fmt: skip
"""Options of pip, gh, trtexec, docker, systemctl, other servers and the scripts of this repository."""
FLAG = re.compile(r"(?<![\w-])--[a-z][a-zA-Z0-9-]+")
COMMAND = re.compile(r"(?:^|[`$&| ])\s*retort ([a-z]+)((?: [^`\n;|&]*)?)")
OF_COMMAND = re.compile(r"(--[a-z][a-z-]+)`? of `([a-z]+)`")
BARE = re.compile(r"`([a-z]+) (?:[^`\n]*? )?(--[a-z][a-z-]+)[^`\n]*`")
INLINE = re.compile(r"`(\w+): \{(\w+): ")
DOTTED = re.compile(r"`(\w+)\.(\w+)[`: =]")


@cache
def flags_of(command: str) -> frozenset[str]:
    """All flags of a command, as its help shows them."""
    found = {"--help"}
    for parameter in inspect.signature(callbacks()[command], eval_str=True).parameters.values():
        info = parameter.annotation.__metadata__[0]
        named = [text for text in getattr(info, "param_decls", None) or () if text.startswith("--")]
        name = parameter.name.strip("_").replace("_", "-")
        found |= set(named) or {f"--{name}", f"--no-{name}"}
    return frozenset(found)


@cache
def all_flags() -> frozenset[str]:
    """The flags of all commands and of `retort` itself."""
    own = {"--version", "--install-completion", "--show-completion"}
    return frozenset(own.union(*(flags_of(command) for command in callbacks())))


def command_in(first: str, rest: str) -> str:
    """The command of a line: of a group its own one, and that which may be left out; empty if there is none."""
    words = rest.split()
    named = [f"{first} {words[0]}"] if words else []
    return next((name for name in (first, *named, f"{first} run") if name in callbacks()), "")


def texts() -> Iterator[tuple[str, str]]:
    """Where a text stands, and the text: pages, option descriptions, help, and messages in the code."""
    for page in PAGES:
        if "docs/benchmarks" not in page.as_posix() and "docs/specs" not in page.as_posix():
            yield page.relative_to(ROOT).as_posix(), page.read_text()
    for room in ROOMS:
        for path in sorted((ROOT / room).rglob("*.py")):
            where = path.relative_to(ROOT).as_posix()
            if "benchmarks/suites" in where or "trtexec" in where or "torchserve" in where:
                continue  # arguments of other programs
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    yield f"{where}:{node.lineno}", node.value
                if isinstance(node, ast.JoinedStr):
                    parts = (item.value if isinstance(item, ast.Constant) else "…" for item in node.values)
                    yield f"{where}:{node.lineno}", "".join(map(str, parts))


def shown(command: str) -> set[str]:
    """The keys of a stage that the help of its command shows: as flags, or in the list of `--set`."""
    return {
        key.partition(".")[0]
        for key in [*stage_flags(STAGES[command].options), *keys_without_flag(STAGES[command].options)]
    }


def test_every_flag_that_is_mentioned_exists() -> None:
    """In pages, help, option descriptions and messages."""
    known = all_flags() | OTHERS
    unknown = {
        f"{where}: {flag}"
        for where, text in texts()
        for flag in FLAG.findall(
            re.sub(r"(?<![\w-])(?:pip|git|docker|cmake|python|make|trtexec|helm|kubectl)[ -][^`\n]*", "", text)
        )
        if flag not in known
    }
    assert sorted(unknown) == []


def test_flags_belong_to_the_command_they_stand_behind() -> None:
    """`retort COMMAND … --flag` is written only where that command has the flag."""
    wrong = set()
    for where, text in texts():
        for first, rest in COMMAND.findall(text.replace("\\\n", " ")):
            if command := command_in(first, rest):
                wrong |= {f"{where}: {command} {flag}" for flag in FLAG.findall(rest) if flag not in flags_of(command)}
        for flag, command in OF_COMMAND.findall(text):
            if command in callbacks() and flag not in flags_of(command):
                wrong.add(f"{where}: {flag} of {command}")
        for command, flag in BARE.findall(text):
            if command in callbacks() and flag not in flags_of(command):
                wrong.add(f"{where}: {command} {flag}")
    assert sorted(wrong) == []


def test_keys_of_stages_that_are_mentioned_are_shown() -> None:
    """`stage: {key: …}` and `stage.key` name options that the help of the stage's command shows."""
    wrong = set()
    for where, text in texts():
        for stage, key in [*INLINE.findall(text), *DOTTED.findall(text)]:
            if stage in STAGES and key not in ("md", "py", "yaml", "onnx", "html", "json", "npz", "csv"):
                fields = STAGES[stage].options.model_fields
                if key not in fields or (stage in callbacks() and key not in shown(stage)):
                    wrong.add(f"{where}: {stage}.{key}")
            elif stage in ("model", "data") and key in ("source", "args", "weights", "dynamic"):
                inner: Any = Recipe.model_fields[stage].annotation
                if key not in inner.model_fields:
                    wrong.add(f"{where}: {stage}.{key}")
    assert sorted(wrong) == []


@pytest.mark.parametrize("command", [name for name in STAGES if name in callbacks() and name != "report"])
def test_the_help_lists_every_option(command: str) -> None:
    """Each option of a stage has a flag, or is listed under `--set` with its inner keys."""
    set_ = inspect.signature(callbacks()[command], eval_str=True).parameters.get("set_")
    assert set_ is not None
    listed = set_.annotation.__metadata__[0].help
    options = STAGES[command].options
    assert all(re.search(rf"\b{re.escape(key)}\b", listed) for key in keys_without_flag(options)), listed
    flags = {flag.removeprefix("--").replace("-", "_") for flag in flags_of(command)}
    if command != "capture":  # which takes keys with --set only
        assert set(stage_flags(options)) - flags == set()


def test_capture_shows_its_dynamic_axes() -> None:
    """What guides call `capture.dynamic` is in `retort capture --help`."""
    assert {"dynamic", "batch_axis", "fixed"} == set(keys_without_flag(STAGES["capture"].options))
