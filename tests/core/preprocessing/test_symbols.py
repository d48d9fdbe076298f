"""Symbols of texts: stored in a signature, and texts as their numbers."""

from __future__ import annotations

import pytest

from retort.core.errors import InputError
from retort.core.preprocessing.symbols import spell
from retort.core.signature import Signature
from retort.core.tensors import TensorSpec

TEXT = Signature(
    (TensorSpec("lengths", "int64", ("batch",)), TensorSpec("ids", "int64", ("batch", 4))),
    (TensorSpec("scores", "float32", ("batch", 2)),),
)


def test_symbols_are_stored_only_where_there_are_any() -> None:
    """A signature without symbols has the bytes it always had; one with them comes back, and keeps its own."""
    assert "symbols" not in TEXT.to_json()
    spelled = TEXT.spelling("ba ")
    assert Signature.from_json(spelled.to_json()) == spelled
    assert spelled.spelling("xy").symbols == ("b", "a", " ")
    assert Signature(TEXT.outputs, TEXT.inputs).spelling("ba").symbols == ()


def test_texts_become_the_numbers_of_the_model() -> None:
    """0 pads, 1 is an unknown character, and the symbols follow in order; texts are cut to a fixed length."""
    feeds = spell(TEXT.spelling("ba "), ["ab", "a b xyz", ""])
    assert {name: value.tolist() for name, value in feeds.items()} == {
        "ids": [[3, 2, 0, 0], [3, 4, 2, 4], [0, 0, 0, 0]]
    }
    free = Signature((TensorSpec("ids", "int64", ("batch", "length")),), ()).spelling("ba")
    assert spell(free, ["a", "bx!"])["ids"].tolist() == [[3, 0, 0], [2, 1, 1]]
    with pytest.raises(InputError, match="does not know the numbers of characters"):
        spell(TEXT, ["a"])
