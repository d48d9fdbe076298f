"""The README shows what happens."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from retort.core.options.recipe import load_recipe

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()


def test_readme_is_a_front_door() -> None:
    """The README has about 120 lines; longer texts are in docs/."""
    assert len(README.splitlines()) <= 130


def test_install_lines_name_what_is_there() -> None:
    """The lines for readers pin torch as in constraints.txt, before the other packages; their extras exist."""
    lines = README.split("<!-- install -->\n```sh\n")[1].split("```")[0].splitlines()
    pins = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    installs = [line.split("#")[0].strip() for line in lines if line.startswith("pip install")]
    assert installs[0] == f"pip install torch=={pins['torch']}"
    assert set(re.findall(r"\w+", installs[1].partition("[")[2].partition("]")[0])) <= set(extras)
    assert "…" not in "".join(lines)


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.yaml")), ids=lambda path: path.name)
def test_examples_are_valid(path: Path) -> None:
    """Every example recipe passes the check."""
    assert load_recipe(path).stages


def test_commands_of_the_readme_exist() -> None:
    """Every make target in README and CONTRIBUTING is in the Makefile."""
    named = set(re.findall(r"`?make ([a-z-]+)", README + (ROOT / "CONTRIBUTING.md").read_text()))
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    assert named <= targets
