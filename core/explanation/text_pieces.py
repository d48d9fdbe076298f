"""Tokens as the pieces of text that they stand for, so that a person reads words and not numbers."""

from __future__ import annotations

import codecs
from collections.abc import Sequence

import numpy as np

from ..preprocessing.sample_reader import SampleReader, Samples
from ..preprocessing.specs import TextInput
from ..tensors import Array


def pieces_of(reader: SampleReader, samples: Samples) -> dict[str, list[str]]:
    """The pieces of the first text of ``samples`` by input; one piece per number, and empty ones for padding.

    Characters of the signature's symbols are known without these pieces.
    """
    found: dict[str, list[str]] = {}
    for spec in reader.signature.preprocessing:
        name = dict(spec.inputs_of).get("input_ids") if isinstance(spec, TextInput) else None
        if not isinstance(spec, TextInput) or name is None or name not in samples.feeds:
            continue
        numbers = samples.feeds[name][0]
        if spec.encoding == "bytes":
            found[name] = byte_pieces(numbers)
        elif reader.tokenizer is not None and samples.offsets is not None and not spec.pair:
            tokens = ["" if number == spec.pad_id else text for number, text in _named(reader, numbers)]
            found[name] = token_pieces(samples.texts[0], samples.offsets[0], tokens)
    return found


def _named(reader: SampleReader, numbers: Array) -> list[tuple[int, str]]:
    assert reader.tokenizer is not None
    return list(zip(numbers.tolist(), reader.tokenizer.tokens(numbers.tolist()), strict=True))


def token_pieces(text: str, offsets: Array, tokens: Sequence[str]) -> list[str]:
    """The text of each token with the blanks before it; tokens without a text have their names between blanks.

    Args:
        offsets: start and stop of each token in ``text``, ``int64[T, 2]``; equal where it has no text.
        tokens: names of the tokens; empty for padding.
    """
    found: list[str] = []
    end, apart = 0, False
    for (start, stop), token in zip(offsets.tolist(), tokens, strict=True):
        if stop > start:
            piece = text[end:stop] if stop > end else ""
            found.append(f" {piece}" if apart and piece[:1].strip() else piece)
            end, apart = max(end, stop), False
        else:
            found.append(f" {token}" if token and any(found) else token)
            apart = apart or bool(token)
    return found


def byte_pieces(numbers: Array) -> list[str]:
    """The characters of numbers that are bytes plus one; each stands at its last byte."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    return [decoder.decode(bytes([number - 1])) if 0 < number < 257 else "" for number in np.ravel(numbers).tolist()]


def words_of_pieces(pieces: Sequence[str]) -> list[tuple[int, int]]:
    """Start and stop of each word: it begins at a blank, and at a mark that is no letter or digit."""
    starts = [index for index in range(len(pieces)) if index == 0 or _begins(pieces[index - 1], pieces[index])]
    return list(zip(starts, [*starts[1:], len(pieces)], strict=True))


def _begins(before: str, piece: str) -> bool:
    if not piece or not before:
        return False
    return not (piece[0].isalnum() and before[-1].isalnum())
