"""Texts as tokens, by the file of a tokenizer alone. Part of the runtime half: ``tokenizers`` is imported in use."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..counts import counted
from ..errors import ArtifactError, UserError
from ..system.installation import needed
from .specs import TextInput

Ints = NDArray[np.int64]
CHARACTERS_PER_TOKEN = 64
"""Characters of a text that are looked at for each token that the model takes: what is behind them would be cut."""
_STEPS = (8, 16, 32, 48, 64, 96, 128, 192, 256, 384, 512)


@dataclass(frozen=True)
class Tokenized:
    """Texts as rows of numbers.

    Attributes:
        inputs: ``int64[N, length]`` of each name of :data:`retort.core.preprocessing.specs.TOKEN_INPUTS`, and
            ``lengths`` as ``int64[N]``.
        offsets: where each token begins and ends in the first text of its sample, ``int64[N, length, 2]``; equal for
            tokens of the second text and for those that stand in none.
    """

    inputs: dict[str, NDArray[np.int64]]
    offsets: Ints


class Tokenizer:
    """The tokenizer in a ``tokenizer.json``.

    Args:
        content: of the file.

    Raises:
        MachineError: the package tokenizers is not installed.
        ArtifactError: the content is no tokenizer.
    """

    def __init__(self, content: bytes) -> None:
        with needed("tokenizers", "texts of a tokenizer"):
            library: Any = import_module("tokenizers")
        try:
            self._backend = library.Tokenizer.from_str(content.decode("utf-8"))
        except Exception as error:  # the library raises bare exceptions
            text = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
            raise ArtifactError(f"tokenizer.json is not a tokenizer: {text}", "give the file of a tokenizer") from error
        self._backend.no_padding()
        self._backend.no_truncation()
        self.sha256 = hashlib.sha256(content).hexdigest()

    def counts(self, texts: Sequence[Sequence[str]]) -> list[int]:
        """The number of tokens of each text or pair, without a limit."""
        self._backend.no_truncation()
        return [len(one.ids) for one in self._backend.encode_batch(_items(texts))]

    def encode(self, texts: Sequence[Sequence[str]], spec: TextInput, free: bool = False) -> Tokenized:
        """Texts, or two columns of texts, cut and padded to the length of ``spec``.

        Args:
            free: whether to pad to the next of a few sizes instead, if ``spec`` allows it.

        Raises:
            UserError: the length is less than the number of tokens that the tokenizer adds to each text.
        """
        self._backend.enable_truncation(spec.length, direction=spec.cut_side)
        most = spec.length * CHARACTERS_PER_TOKEN
        cut = [[text[:most] if spec.cut_side == "right" else text[-most:] for text in column] for column in texts]
        found = self._backend.encode_batch(_items(cut))
        longest = max((len(one.ids) for one in found), default=0)
        if longest > spec.length:
            message = f"the model takes {counted(spec.length, 'token')}, and the tokenizer adds as many to each text"
            raise UserError(message, "choose a larger length of the data, and train again")
        size = bucket(longest, spec.length) if free and spec.free else spec.length
        padding = {"input_ids": spec.pad_id, "attention_mask": 0, "token_type_ids": spec.pad_type_id}
        read = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}
        made = {
            name: _padded([getattr(one, read[name]) for one in found], size, value, spec)
            for name, value in padding.items()
        }
        made["lengths"] = made["attention_mask"].sum(axis=1)
        offsets = np.zeros((len(found), size, 2), np.int64)
        for row, one in enumerate(found):
            place = np.asarray(one.offsets, np.int64).reshape(-1, 2)
            own = np.array([number == 0 for number in one.sequence_ids], np.bool_)
            before = len(texts[0][row]) - len(cut[0][row]) if spec.cut_side == "left" else 0
            offsets[row, _span(len(one.ids), size, spec)] = np.where(own[:, None], place + before, 0)
        return Tokenized(made, offsets)

    def tokens(self, ids: Sequence[int]) -> list[str]:
        """The tokens of numbers; of an unknown number its digits."""
        return [self._backend.id_to_token(int(number)) or str(number) for number in ids]


def buckets(most: int) -> tuple[int, ...]:
    """The sizes to which rows of at most ``most`` values are padded."""
    return (*(size for size in _STEPS if size < most), most)


def bucket(count: int, most: int) -> int:
    """The size to which rows of up to ``count`` values are padded: few sizes, so that requests can run together."""
    return next((size for size in _STEPS if count <= size <= most), most)


def _items(texts: Sequence[Sequence[str]]) -> list[Any]:
    return list(texts[0]) if len(texts) == 1 else list(zip(*texts, strict=True))


def _span(count: int, size: int, spec: TextInput) -> slice:
    return slice(0, count) if spec.pad_side == "right" else slice(size - count, size)


def _padded(rows: Sequence[Sequence[int]], size: int, value: int, spec: TextInput) -> Ints:
    made = np.full((len(rows), size), value, np.int64)
    for index, row in enumerate(rows):
        made[index, _span(len(row), size, spec)] = row
    return made
