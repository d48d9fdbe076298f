"""What the README shows is what happens."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from retort.core.recipe import load_recipe, parse_recipe

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


def block(name: str) -> str:
    """The text between the markers of a generated or tested block."""
    return README.split(f"<!-- {name}:begin -->")[1].split(f"<!-- {name}:end -->")[0].strip()


def test_python_example_runs(tmp_path: Path) -> None:
    """The Python example runs as it stands, in an empty folder, and gives logits."""
    code = block("example").removeprefix("```python").removesuffix("```")
    assert len([line for line in code.splitlines() if line.strip()]) <= 14
    code += "\nlogits, = logits.values()\nassert logits.shape == (4, 10), logits.shape\n"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out/export/manifest.json").is_file()


def test_help_in_the_readme_is_current() -> None:
    """The list of commands in the README is what `retort --help` prints."""
    environment = {**os.environ, "COLUMNS": "100", "NO_COLOR": "1", "TERM": "dumb"}
    command = [sys.executable, "-m", "retort", "--help"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    shown = "\n".join(line.rstrip() for line in done.stdout.strip().splitlines())
    assert block("help") == f"```text\n{shown}\n```"


def test_recipe_in_the_readme_is_valid() -> None:
    """The recipe that the README explains passes the check."""
    import yaml

    text = re.findall(r"```yaml\n(.*?)```", README, re.S)[0]
    assert parse_recipe(yaml.safe_load(text)).name == "flowers"


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.yaml")), ids=lambda path: path.name)
def test_examples_are_valid(path: Path) -> None:
    """Every example recipe passes the check."""
    assert load_recipe(path).stages


def test_commands_of_the_readme_exist() -> None:
    """Every make target that README and CONTRIBUTING name is in the Makefile."""
    named = set(re.findall(r"`?make ([a-z-]+)", README + (ROOT / "CONTRIBUTING.md").read_text()))
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    assert named <= targets
