"""`retort init` writes a recipe that is valid, shows today's defaults, and asks only on a terminal."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from retort.__main__ import main
from retort.cli.recipe_template import GOALS, Answers, Goal, recipe_text
from retort.core.options.recipe import Recipe, load_recipe, parse_recipe
from retort.core.options.stage_options import DataSpec, Gate, ModelSpec, Options
from retort.core.options.stage_table import STAGES
from retort.core.options.yaml_text import parse_yaml

OPTION = re.compile(r"^( *)# ([a-z0-9_]+): (.*?)(?:  # .*)?$")


def call(*arguments: str) -> int:
    """Exit code of a command that runs in this process."""
    with pytest.raises(SystemExit) as stopped:
        main(list(arguments))
    assert isinstance(stopped.value.code, int)
    return stopped.value.code


def text_for(goal: Goal, **more: Any) -> str:
    """The recipe for a goal."""
    return recipe_text(Answers("net", "net:build", "digits", goal=goal, **more))


def commented(text: str) -> list[tuple[type[Options], str, Any]]:
    """Every option in a comment: the class that it belongs to, its name and its value."""
    found: list[tuple[type[Options], str, Any]] = []
    section: type[Options] = Recipe
    for line in text.splitlines():
        if line in ("model:", "data:"):
            section = ModelSpec if line == "model:" else DataSpec
        elif stage := re.match(r"^  - ([a-z]+):", line):
            section = STAGES[stage[1]].options if stage[1] in STAGES else Gate
        elif option := OPTION.match(line):
            found.append((section, option[2], parse_yaml(option[3])))
    return found


@pytest.mark.parametrize("goal", list(GOALS))
def test_the_recipe_passes_the_check(goal: Goal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For every goal, `check --fast` finds no fault, also if the name of the file is not one of a run."""
    monkeypatch.chdir(tmp_path)
    assert call("init", "für uns.yaml", "--goal", goal, "--target", "tensorrt", "--task", "regression") == 0
    assert call("check", "für uns.yaml", "--fast") == 0
    made = load_recipe(tmp_path / "für uns.yaml")
    assert (made.target, made.task) == ("tensorrt", "regression")
    assert re.fullmatch(r"[A-Za-z0-9_.-]+", made.name)


@pytest.mark.parametrize("goal", list(GOALS))
def test_comments_have_the_defaults_of_today(goal: Goal) -> None:
    """Every option that is not given stands in a comment, with the default of its class and one sentence."""
    text = text_for(goal)
    found = commented(text)
    for section, name, value in found:
        item = section.model_fields[name]
        default = item.get_default(call_default_factory=True)
        if isinstance(default, Options):
            assert type(default).model_validate(value) == default, name
        else:
            assert value == (list(default) if isinstance(default, tuple) else default), (section, name)
    for stage in parse_recipe(parse_yaml(text)).stages:
        listed = {name for section, name, _ in found if section is STAGES[stage.name].options}
        assert listed | stage.options.model_fields_set == set(STAGES[stage.name].options.model_fields)


def test_an_uncommented_option_is_valid() -> None:
    """The recipe stays valid when all comments with options are taken away, except for those that exclude others."""
    lines = text_for("int8").splitlines()
    bare = [re.sub(r"^( *)# ([a-z_]+: )", r"\1\2", line) if OPTION.match(line) else line for line in lines]
    recipe = parse_recipe(parse_yaml("\n".join(line for line in bare if "weights: null" not in line)))
    assert recipe == parse_recipe(yaml.safe_load(text_for("int8")))


def test_lines_fit_a_screen() -> None:
    """No line is longer than 120 characters, and values that YAML reads otherwise are quoted."""
    assert max(len(line) for line in text_for("prune").splitlines()) <= 120
    odd = recipe_text(Answers("net", "my net.pt2", "on", options={"quantize": {"plan": "a: b"}}))
    made = parse_recipe(parse_yaml(odd))
    assert (made.model.source, made.data.source) == ("my net.pt2", "on")


@pytest.mark.parametrize("stem", ["2024", "true", "null", "1e3", "0x10", ".inf", ".hidden", "..", "-", "net"])
def test_any_file_name_gives_a_name(stem: str) -> None:
    """A name that YAML reads as a number or a boolean is quoted; one of dots only is replaced."""
    made = parse_recipe(parse_yaml(recipe_text(Answers(stem, "net:build", "digits"))))
    assert made.name == (stem.lstrip(".") or "model")


def test_without_a_terminal_nothing_is_asked(tmp_path: Path) -> None:
    """In a pipe, `init` takes placeholders; a file that is there is kept."""
    command = [sys.executable, "-m", "retort", "init", "r.yaml"]
    done = subprocess.run(command, cwd=tmp_path, input="", capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert load_recipe(tmp_path / "r.yaml").model.source == "my_package.my_module:build"
    again = subprocess.run(command, cwd=tmp_path, input="", capture_output=True, text=True, timeout=120, check=False)
    assert again.returncode == 2
    assert "--force" in again.stderr


def on_terminal(folder: Path, answers: str, *arguments: str) -> str:
    """What `init` writes to a terminal on which the answers are typed."""
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "retort", "init", *arguments],
        cwd=folder,
        stdin=follower,
        stdout=follower,
        stderr=follower,
    )
    os.close(follower)
    os.write(leader, answers.encode())
    shown = b""
    try:
        while part := os.read(leader, 1024):
            shown += part
    except OSError:  # the other end is closed
        pass
    assert process.wait(timeout=120) == 0
    os.close(leader)
    return shown.decode()


def test_a_terminal_is_asked_for_what_is_missing(tmp_path: Path) -> None:
    """Answers may be short, an unknown one is asked again, and what is given as an option is not asked."""
    shown = on_terminal(tmp_path, "net:build\nreg\nnone\n\ndist\n", "r.yaml", "--data", "rows.npz")
    assert "Answer with one of" in shown
    assert "Data (" not in shown
    made = load_recipe(tmp_path / "r.yaml")
    assert (made.model.source, made.data.source, made.task, made.target) == (
        "net:build",
        "rows.npz",
        "regression",
        "cpu",
    )
    assert made.stages[0].name == "distill"
    assert "What" not in on_terminal(tmp_path, "", "yes.yaml", "--yes")
