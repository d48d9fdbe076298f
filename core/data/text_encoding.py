"""Texts as rows of numbers: tokens of a tokenizer, bytes, or characters; they are encoded when they are read."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from ..errors import DataError, MissingFileError, UserError
from ..options.data_options import EncodingOptions
from ..preprocessing.specs import TextInput
from ..preprocessing.symbols import numbered, padded, values_of
from ..tensors import Array
from .hf_tokenizer import LONGEST, Texts, TokenizerEncoder
from .input_parts import Indices, InputPart, readable

LOOKED_AT = 1024
STEP = 8


class Encoder(Protocol):
    """Turns texts into rows of numbers."""

    @property
    def identity(self) -> str:
        """Text that changes when the rows would."""
        ...

    def rows(self, texts: Texts) -> list[int]:
        """The number of values of each text, without a limit."""
        ...

    def encode(self, texts: Texts, length: int) -> tuple[dict[str, Array], Array]:
        """The inputs ``int64[N, length]``, cut and padded, and the number of values before the padding."""
        ...

    def describe(self, length: int, pair: bool, lengths: bool) -> TextInput | None:
        """What makes the same numbers elsewhere; None if only this machine can."""
        ...

    @property
    def tokenizer(self) -> bytes:
        """The file of the tokenizer, empty without one."""
        ...


@dataclass(frozen=True)
class TextPart:
    """The inputs of texts; see :class:`retort.core.data.input_parts.InputPart`.

    Attributes:
        length: number of values of a sample.
        lengths: whether ``lengths`` is an input.
    """

    texts: Texts
    encoder: Encoder
    length: int
    lengths: bool = False

    def read(self, indices: Indices) -> dict[str, Array]:
        """Encode the texts at ``indices``."""
        chosen = tuple([column[int(index)] for index in indices] for column in self.texts)
        inputs, used = self.encoder.encode(chosen, self.length)
        return {**inputs, "lengths": used} if self.lengths else inputs

    def fingerprint(self) -> str:
        """Hash of the texts and the encoder."""
        digest = hashlib.sha256(f"{self.encoder.identity}|{self.length}|{self.lengths}".encode())
        for column in self.texts:
            for text in column:
                digest.update(text.encode("utf-8", "surrogatepass") + b"\x00")
        return digest.hexdigest()


@dataclass(frozen=True)
class SymbolEncoder:
    """Bytes or characters, one number each.

    Attributes:
        symbols: number of each character; None for bytes.
    """

    symbols: dict[str, int] | None

    @property
    def identity(self) -> str:
        """The symbols in order."""
        return "bytes" if self.symbols is None else "".join(self.symbols)

    @property
    def size(self) -> int:
        """Number of different values: the rows of an embedding."""
        return 257 if self.symbols is None else len(self.symbols) + 2

    def rows(self, texts: Texts) -> list[int]:
        """See :meth:`Encoder.rows`."""
        return [len(values_of(text, self.symbols)) for text in self._single(texts)]

    def encode(self, texts: Texts, length: int) -> tuple[dict[str, Array], Array]:
        """See :meth:`Encoder.encode`."""
        made, used = padded([values_of(text, self.symbols) for text in self._single(texts)], length)
        return {"input_ids": made}, used

    def describe(self, length: int, pair: bool, lengths: bool) -> TextInput | None:
        """See :meth:`Encoder.describe`."""
        names = ("input_ids", *(["lengths"] if lengths else []))
        pairs = tuple((name, name) for name in names)
        return TextInput(pairs, "bytes" if self.symbols is None else "characters", length)

    @property
    def tokenizer(self) -> bytes:
        """See :meth:`Encoder.tokenizer`."""
        return b""

    def _single(self, texts: Texts) -> Sequence[str]:
        if len(texts) > 1:
            raise UserError("pairs of texts need a tokenizer", "give `tokenizer`, or one column as `text`")
        return texts[0]


def encoder_of(options: EncodingOptions, base: Path, training: Texts) -> Encoder:
    """The encoder that the options name.

    Args:
        base: folder in which relative paths are looked up.
        training: texts whose characters become the vocabulary.

    Raises:
        UserError: neither or both of `tokenizer` and `vocabulary` are given.
        MissingFileError: there is no such file.
    """
    if (options.tokenizer is None) == (options.vocabulary is None):
        raise UserError(
            "text needs either `tokenizer` or `vocabulary`, to become numbers",
            "give `tokenizer: FOLDER` (or a tokenizer.json), `vocabulary: bytes` or `vocabulary: characters`",
        )
    if options.tokenizer is not None:
        path = base / options.tokenizer
        if not path.exists():
            raise MissingFileError(f"no such tokenizer: {path}", "check the path; nothing is downloaded")
        return TokenizerEncoder(path)
    if options.vocabulary == "bytes":
        return SymbolEncoder(None)
    if options.vocabulary == "characters":
        found = sorted({character for column in training for text in column for character in text})
    else:
        found = _symbols(base / str(options.vocabulary))
    return SymbolEncoder(numbered(found))


def symbols_of(encoder: Encoder | None) -> tuple[str, ...]:
    """The characters that an encoder numbers, in order; empty for bytes, which need none, and for tokens."""
    return tuple(encoder.symbols or ()) if isinstance(encoder, SymbolEncoder) else ()


def described_input(encoder: Encoder, length: int, options: EncodingOptions, texts: Texts) -> tuple[TextInput, ...]:
    """How texts become inputs, for the signature of a model; empty if only this machine can do it."""
    spec = encoder.describe(length, len(texts) > 1, options.lengths)
    return () if spec is None else (spec,)


def respelled(part: InputPart, symbols: Sequence[str]) -> InputPart:
    """A part whose characters have the numbers of other symbols; bytes, tokens and other values stay."""
    if isinstance(part, TextPart) and symbols_of(part.encoder) not in ((), tuple(symbols)):
        return replace(part, encoder=SymbolEncoder(numbered(symbols)))
    return part


def _symbols(path: Path) -> list[str]:
    if not path.is_file():
        raise MissingFileError(f"no such vocabulary: {path}", "give a file, `bytes` or `characters`")
    with readable(path):
        content = path.read_bytes()
    try:
        lines = [line.removesuffix("\r") if len(line) > 1 else line for line in content.decode("utf-8-sig").split("\n")]
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise DataError(
            f"{path}, line {line} is not UTF-8: byte 0x{content[error.start]:02x}", "save it as UTF-8"
        ) from error
    found: dict[str, int] = {}
    for number, symbol in enumerate(lines, 1):
        if len(symbol) > 1:
            raise DataError(
                f"{path}, line {number}: '{symbol[:20]}' is not one character", "write one character per line"
            )
        if symbol in found:
            raise DataError(f"{path}, line {number}: '{symbol}' is in line {found[symbol]}, too", "write each once")
        if symbol:
            found[symbol] = number
    if not found:
        raise DataError(f"{path} is empty", "write one character per line")
    return list(found)


def length_of(options: EncodingOptions, encoder: Encoder, training: Texts) -> int:
    """The number of values per sample: the given one, or that of the longest of the first training texts."""
    if options.max_length is not None:
        return options.max_length
    longest = max(encoder.rows(tuple(column[:LOOKED_AT] for column in training)), default=1)
    limit = encoder.limit if isinstance(encoder, TokenizerEncoder) else LONGEST
    return min(limit, -(-max(longest, 1) // STEP) * STEP)


def described(encoder: Encoder, length: int) -> str:
    """The encoding in words."""
    if isinstance(encoder, SymbolEncoder):
        kind = "bytes" if encoder.symbols is None else "characters"
        return f"{length} {kind} per text, values 0 to {encoder.size - 1}"
    return f"{length} tokens per text"
