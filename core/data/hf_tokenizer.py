"""Tokenizers of Hugging Face as encoders of texts; their fast form makes the same numbers behind an endpoint."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UserError
from ..preprocessing.specs import TOKEN_INPUTS, TextInput
from ..preprocessing.tokens import Tokenizer
from ..system.installation import needed
from ..tensors import Array
from .input_parts import readable

LONGEST = 512
Texts = tuple[Sequence[str], ...]
"""One text per sample, or two for pairs."""


@dataclass(frozen=True)
class TokenizerEncoder:
    """The tokenizer in a Hugging Face folder or a tokenizer.json."""

    path: Path

    @cached_property
    def _library_form(self) -> Any:
        with needed("transformers", "tokenizers of Hugging Face"):
            library = import_module("transformers")
        try:
            if self.path.is_dir():
                made = library.AutoTokenizer.from_pretrained(str(self.path), local_files_only=True)
            else:
                made = library.PreTrainedTokenizerFast(tokenizer_file=str(self.path))
        except Exception as error:  # the libraries raise many classes
            text = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
            raise UserError(
                f"{self.path} is not a tokenizer: {text}",
                "give a folder that `save_pretrained` of a tokenizer wrote, or a tokenizer.json",
            ) from error
        if made.pad_token is None:
            known = [token for token in ("[PAD]", "<pad>", "<|endoftext|>") if token in made.get_vocab()]
            made.pad_token = known[0] if known else made.eos_token or made.convert_ids_to_tokens(0)
        return made

    @cached_property
    def tokenizer(self) -> bytes:
        """See :meth:`Encoder.tokenizer`; empty if the library has no such form of it."""
        backend = getattr(self._library_form, "backend_tokenizer", None)
        if backend is None:
            return b""
        backend.no_padding()
        backend.no_truncation()
        return str(backend.to_str()).encode()

    @cached_property
    def _tokens(self) -> Tokenizer | None:
        return Tokenizer(self.tokenizer) if self.tokenizer else None

    def _names(self, pair: bool) -> tuple[str, ...]:
        """The inputs that the tokenizer's model takes; of a bare file, those that say something."""
        names = {n for n in self._library_form.model_input_names if n != "token_type_ids" or self.path.is_dir()}
        return tuple(name for name in TOKEN_INPUTS if name in names or (pair and name == "token_type_ids"))

    @cached_property
    def identity(self) -> str:
        """Hash of the files of the tokenizer."""
        names = ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "vocab.json", "merges.txt", "spiece.model")
        files = [self.path] if self.path.is_file() else [self.path / n for n in names if (self.path / n).is_file()]
        digest = hashlib.sha256()
        for file in files:
            with readable(file):
                digest.update(file.name.encode() + file.read_bytes())
        return digest.hexdigest()

    @property
    def limit(self) -> int:
        """Largest number of tokens that the tokenizer's model takes, or the usual one."""
        return min(int(self._library_form.model_max_length), LONGEST)

    def rows(self, texts: Texts) -> list[int]:
        """See :meth:`Encoder.rows`."""
        if self._tokens is not None:
            return self._tokens.counts(texts)
        return [len(row) for row in self._library_form(*map(list, texts), verbose=False)["input_ids"]]

    def encode(self, texts: Texts, length: int) -> tuple[dict[str, Array], Array]:
        """See :meth:`Encoder.encode`."""
        spec = self.describe(length, len(texts) > 1, False)
        if spec is not None and self._tokens is not None:
            made = self._tokens.encode(texts, spec).inputs
            return {name: made[name] for name in spec.inputs}, made["lengths"]
        names = self._names(len(texts) > 1)
        found = self._library_form(
            *map(list, texts),
            truncation=True,
            max_length=length,
            padding="max_length",
            return_attention_mask=True,
            return_token_type_ids="token_type_ids" in names,
        )
        arrays = {name: np.asarray(found[name], np.int64) for name in found}
        return {name: arrays[name] for name in names}, arrays["attention_mask"].sum(axis=1)

    def describe(self, length: int, pair: bool, lengths: bool) -> TextInput | None:
        """See :meth:`Encoder.describe`."""
        if self._tokens is None:
            return None
        library = self._library_form
        names = (*self._names(pair), *(["lengths"] if lengths else []))
        return TextInput(
            tuple((name, name) for name in names),
            "tokenizer",
            length,
            free="attention_mask" in names,
            pair=pair,
            sha256=self._tokens.sha256,
            pad_id=int(library.pad_token_id),
            pad_type_id=int(library.pad_token_type_id),
            pad_token=str(library.pad_token),
            pad_side=library.padding_side,
            cut_side=library.truncation_side,
        )
