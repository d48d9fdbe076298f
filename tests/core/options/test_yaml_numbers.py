"""YAML 1.2: what is a number, in which encoding a file may be, and which faults of a recipe are listed."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from retort.core.errors import RecipeError, UserError
from retort.core.options.recipe import load_recipe
from retort.core.options.yaml_text import parse_yaml, read_text

WORDS = ["1:30", "1_0", "1_000.5", "0b11", "2024-01-01", "12:30:45", "0x", "1.2.3", "."]
NUMBERS: dict[str, Any] = {
    "017": 17, "0o17": 15, "0x1F": 31, "-12": -12, "+3": 3, "1e-3": 0.001, "1.5E2": 150.0, ".5": 0.5, "1.": 1.0,
    ".inf": math.inf, "-.INF": -math.inf, "0": 0, "00": 0,
}  # fmt: skip


@pytest.mark.parametrize("text", WORDS)
def test_what_only_yaml_1_1_takes_for_a_number_is_a_word(text: str) -> None:
    """Sexagesimal numbers, underscores, binary numbers and dates are text."""
    assert parse_yaml(f"value: {text}") == {"value": text}


@pytest.mark.parametrize(("text", "number"), NUMBERS.items(), ids=NUMBERS)
def test_numbers_of_yaml_1_2(text: str, number: float) -> None:
    """Decimal with leading zeros, octal, hexadecimal, exponents without a point, infinity."""
    found = parse_yaml(f"value: {text}")["value"]
    assert found == number
    assert type(found) is type(number)


def test_no_number_is_read() -> None:
    """`.nan` is the float."""
    assert math.isnan(parse_yaml(".nan"))


@pytest.mark.parametrize(
    ("encoding", "told"), [("utf-16", "utf-16"), ("utf-16-le", "utf-16"), ("utf-32", "utf-32"), ("latin1", "latin1")]
)
def test_the_remedy_names_the_encoding(encoding: str, told: str, tmp_path: Path) -> None:
    """Windows' UTF-16 is converted with another command than Latin-1."""
    path = tmp_path / "r.yaml"
    path.write_bytes("name: größe".encode(encoding))
    with pytest.raises(UserError) as caught:
        read_text(path)
    assert f"iconv -f {told} " in caught.value.remedy


def test_stages_with_faults_are_not_missing(tmp_path: Path) -> None:
    """A recipe whose only stage has a fault has one fault; without a stage, it says so."""
    path = tmp_path / "r.yaml"
    path.write_text("name: a\nmodel: {source: 'm:n'}\ndata: digits\nstages:\n  - export: {batch_sizes: [1:30, 2]}\n")
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    assert len(caught.value.facts["faults"]) == 1  # type: ignore[arg-type]
    assert "batch_sizes.0 (line 5)" in caught.value.message
    path.write_text("name: a\nmodel: {source: 'm:n'}\ndata: digits\nstages: []\n")
    with pytest.raises(RecipeError, match="needs at least 1 value"):
        load_recipe(path)
