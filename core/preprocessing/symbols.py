"""Texts as the numbers of their bytes or characters. Part of the runtime half: standard library and numpy only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ..errors import InputError
from ..signature import Signature
from ..tensors import Array

UNKNOWN = 1
"""Number of a character that is none of the symbols; 0 pads."""


def numbered(symbols: Sequence[str]) -> dict[str, int]:
    """The number of every symbol."""
    return {symbol: number for number, symbol in enumerate(symbols, UNKNOWN + 1)}


def values_of(text: str, numbers: Mapping[str, int] | None) -> list[int]:
    """The numbers of the characters of a text; without numbers of symbols, each byte of UTF-8 plus 1."""
    if numbers is None:
        return [byte + 1 for byte in text.encode("utf-8", "surrogatepass")]
    return [numbers.get(character, UNKNOWN) for character in text]


def padded(rows: Sequence[Sequence[int]], length: int) -> tuple[Array, Array]:
    """Rows as ``int64[N, length]``, cut and padded with 0, and the number of values of each before the padding."""
    made, used = np.zeros((len(rows), length), np.int64), np.zeros(len(rows), np.int64)
    for index, row in enumerate(rows):
        values = row[:length]
        made[index, : len(values)] = values
        used[index] = len(values)
    return made, used


def spell(signature: Signature, texts: Sequence[str]) -> dict[str, Array]:
    """The input of a model that takes characters, ``int64[N, length]``, for texts.

    Args:
        signature: of the model; its symbols are those of its training.
        texts: cut to the length that the model takes, or padded to it, or to the longest if it takes any.

    Raises:
        InputError: the model does not know its symbols.
    """
    spec = signature.spelled
    if spec is None:
        raise InputError(
            "the model does not know the numbers of characters",
            "they are stored by `capture` of a model whose data have a vocabulary of characters",
        )
    rows = [values_of(text, numbered(signature.symbols)) for text in texts]
    length = spec.shape[1]
    return {spec.name: padded(rows, length if isinstance(length, int) else max(map(len, rows), default=0))[0]}
