"""Words around numbers and names: plurals, lists and articles."""

from __future__ import annotations

import pytest

from retort.core.counts import counted, listed, with_article


def test_one_is_singular() -> None:
    """Only one thing has the singular; large numbers have separators."""
    assert [counted(count, "gate") for count in (0, 1, 2)] == ["0 gates", "1 gate", "2 gates"]
    assert counted(["a"], "entry", "entries") == "1 entry"
    assert counted(1250, "entry", "entries") == "1,250 entries"


def test_lists_have_a_conjunction() -> None:
    """Two things have no comma."""
    assert [listed(items) for items in ("", "a", "ab", "abc")] == ["", "a", "a and b", "a, b and c"]
    assert listed("ab", "or") == "a or b"


@pytest.mark.parametrize("word", ["archive", "engine", "ONNX file", "INT8 program", "`export` stage", "hour"])
def test_spoken_vowels_take_an(word: str) -> None:
    """What is spoken with a vowel at its beginning has `an`."""
    assert with_article(word) == f"an {word}"


@pytest.mark.parametrize("word", ["graph", "program", "unit", "user", "UINT8 tensor", ".plan file"])
def test_spoken_consonants_take_a(word: str) -> None:
    """What is spoken with a consonant at its beginning has `a`."""
    assert with_article(word) == f"a {word}"
