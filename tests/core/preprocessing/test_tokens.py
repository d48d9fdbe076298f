"""Texts as tokens: the numbers are those of transformers' own call, and bad texts are faults of the request."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from retort.core.errors import InputError, UserError
from retort.core.preprocessing.sample_reader import SampleReader
from retort.core.preprocessing.specs import Side, TextInput
from retort.core.preprocessing.tokens import Tokenizer
from retort.core.signature import Signature
from retort.core.tensors import TensorSpec

tokenizers: Any = pytest.importorskip("tokenizers")
NAMES = ("input_ids", "attention_mask", "token_type_ids")
FIRST = ["a cat sat on a mat", "dog", "", "a " * 40]
SECOND = ["on", "the dog sat on the cat and the mat", "a cat", "the " * 30]


def _library() -> Any:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "cat", "sat", "on", "mat", "dog", "the"]
    made = tokenizers.Tokenizer(tokenizers.models.WordPiece({w: n for n, w in enumerate(words)}, unk_token="[UNK]"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return made


def _content() -> bytes:
    return str(_library().to_str()).encode()


def _spec(length: int, pair: bool = False, pad: Side = "right", cut: Side = "right") -> TextInput:
    inputs = tuple((name, name) for name in NAMES)
    sha256 = Tokenizer(_content()).sha256
    return TextInput(inputs, "tokenizer", length, pair=pair, sha256=sha256, pad_side=pad, cut_side=cut)


def _reader(spec: TextInput) -> SampleReader:
    inputs = tuple(TensorSpec(name, "int64", ("batch", spec.length)) for name in NAMES)
    outputs = (TensorSpec("y", "float32", ("batch", 2)),)
    return SampleReader(Signature(inputs, outputs, preprocessing=(spec,)), _content())


@pytest.mark.parametrize("pair", [False, True])
@pytest.mark.parametrize("pad", ["right", "left"])
@pytest.mark.parametrize("cut", ["right", "left"])
@pytest.mark.parametrize("length", [5, 12, 64])
def test_numbers_are_those_of_transformers(pair: bool, pad: Side, cut: Side, length: int) -> None:
    """Single texts and pairs, cut and padded on either side, are encoded as by the tokenizer's own call."""
    transformers = pytest.importorskip("transformers")
    own = transformers.PreTrainedTokenizerFast(
        tokenizer_object=_library(), pad_token="[PAD]", padding_side=pad, truncation_side=cut
    )
    columns = [FIRST, SECOND] if pair else [FIRST]
    wanted = own(*columns, truncation=True, max_length=length, padding="max_length", return_token_type_ids=True)
    found = Tokenizer(_content()).encode(columns, _spec(length, pair, pad, cut)).inputs
    for name in NAMES:
        np.testing.assert_array_equal(found[name], wanted[name], err_msg=name)


def test_places_are_those_of_the_whole_first_text() -> None:
    """Tokens of a text that is cut on the left stand where they are in it; those of a second text stand nowhere."""
    text = "dog " * 3000 + "the cat"
    found = Tokenizer(_content()).encode([[text]], _spec(6, cut="left"))
    assert [text[start:end] for start, end in found.offsets[0].tolist()][1:5] == ["dog", "dog", "the", "cat"]
    pair = Tokenizer(_content()).encode([["a cat"], ["the dog"]], _spec(8, pair=True)).offsets[0].tolist()
    assert [place for place in pair if place[1] > place[0]] == [[0, 1], [2, 5]]


@pytest.mark.parametrize("text", ["\ud800", "a\udfffb", b"\xff\xfe", b"\xed\xa0\x80"])
def test_half_characters_are_faults_of_the_request(text: str | bytes) -> None:
    """What is no text in UTF-8 is refused, though JSON can spell it."""
    with pytest.raises(InputError, match="not UTF-8"):
        _reader(_spec(8)).read({"text": [text]})


def test_any_length_of_text_is_read() -> None:
    """Empty texts, NUL characters and words of a megabyte have the model's length."""
    found = _reader(_spec(8)).read({"text": ["", "\0", "a" * 1_000_000, "a " * 500_000]})
    assert found.feeds["input_ids"].shape == (4, 8)


@pytest.mark.parametrize(("length", "pair"), [(1, False), (2, True)])
def test_a_length_below_the_added_tokens_is_said_at_load(length: int, pair: bool) -> None:
    """A model that takes fewer tokens than are added to each text is refused before any request."""
    with pytest.raises(UserError, match="adds as many"):
        _reader(_spec(length, pair))
    assert _reader(replace(_spec(3), pair=False)).tokenizer is not None
