"""Transforms of series, recordings and tokens: known answers, and what they leave as it is."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from augmented_views import view, views

from retort.core.data.augmentation.input_kinds import special_tokens
from retort.core.errors import UserError
from retort.core.preprocessing.specs import SoundInput, TextInput
from retort.core.tensors import Array

PAIRS = (("input_ids", "input_ids"), ("attention_mask", "attention_mask"), ("token_type_ids", "token_type_ids"))
CLS, SEP, MASK = 101, 102, 103
TOKENIZER = json.dumps(
    {
        "added_tokens": [
            {"id": number, "content": text, "special": True}
            for number, text in ((0, "[PAD]"), (CLS, "[CLS]"), (SEP, "[SEP]"), (MASK, "[MASK]"))
        ]
    }
).encode()
BERT = TextInput(PAIRS, "tokenizer", 12)


def _sentences(count: int, left: bool = False) -> dict[str, Array]:
    """Rows such as `CLS 7 8 9 10 11 12 SEP 0 0 0 0`."""
    row = [CLS, *range(7, 13), SEP, 0, 0, 0, 0]
    row = row[8:] + row[:8] if left else row
    ids = np.tile(np.array(row, np.int64), (count, 1))
    return {"input_ids": ids, "attention_mask": (ids > 0).astype(np.int64), "token_type_ids": np.zeros_like(ids)}


def test_the_mask_token_replaces_only_ordinary_tokens() -> None:
    """About the asked share of the words is masked; special tokens, padding and the other inputs stay."""
    rows = _sentences(500)
    made = view(views(rows, {"mask": 0.3}, preprocessing=[BERT], tokenizer=TOKENIZER), 500).inputs
    words = made["input_ids"][:, 1:7]
    assert set(np.unique(words)) == {MASK, *range(7, 13)}
    assert 0.27 < (words == MASK).mean() < 0.33
    np.testing.assert_array_equal(made["input_ids"][:, [0, 7, 8, 11]], rows["input_ids"][:, [0, 7, 8, 11]])
    np.testing.assert_array_equal(made["attention_mask"], rows["attention_mask"])


@pytest.mark.parametrize("left", [False, True])
def test_dropped_tokens_leave_padding_behind(left: bool) -> None:
    """The rest keeps its order, special tokens stay, and the attention mask says what is padding, on the same side."""
    spec = TextInput(PAIRS, "tokenizer", 12, pad_side="left" if left else "right")
    source = views(_sentences(200, left), {"drop": 0.4}, preprocessing=[spec], tokenizer=TOKENIZER)
    made = view(source, 200).inputs
    lengths = set()
    for ids, attention in zip(made["input_ids"], made["attention_mask"], strict=True):
        kept = ids[attention == 1]
        assert ids.tolist() == (
            [0] * (12 - len(kept)) + kept.tolist() if left else kept.tolist() + [0] * (12 - len(kept))
        )
        assert (kept[0], kept[-1]) == (CLS, SEP)
        assert sorted(kept[1:-1]) == kept[1:-1].tolist()
        lengths.add(len(kept))
    assert len(lengths) >= 5


def test_a_row_of_symbols_keeps_at_least_one() -> None:
    """Bytes without special tokens: deletion of nearly all leaves one, and `lengths` counts what is left."""
    spec = TextInput((("input_ids", "input_ids"), ("lengths", "lengths")), "bytes", 5)
    rows = {"input_ids": np.tile(np.array([5, 6, 7, 0, 0]), (50, 1)), "lengths": np.full(50, 3)}
    made = view(views(rows, {"drop": 0.95}, preprocessing=[spec]), 50).inputs
    np.testing.assert_array_equal((made["input_ids"] != 0).sum(axis=1), made["lengths"])
    assert made["lengths"].min() == 1


def test_symbols_can_be_shifted_and_tokens_of_a_tokenizer_cannot() -> None:
    """Rows of symbols move by whole places; the special tokens of a tokenizer have their places."""
    rows = np.tile(np.arange(1, 11), (40, 1))
    made = view(views(rows, {"shift": 0.3}), 40).inputs["x"]
    offsets = {int(row[5]) - 6 for row in made}
    assert offsets == {-3, -2, -1, 0, 1, 2, 3}
    with pytest.raises(UserError, match="`shift` would move the special tokens of input 'input_ids'"):
        views(_sentences(2), "shift", preprocessing=[BERT], tokenizer=TOKENIZER)


def test_tokens_with_a_target_each_may_not_move() -> None:
    """Deletion would leave targets at other tokens; masking keeps all places."""
    rows = _sentences(3)
    arguments: dict[str, Any] = {"targets": rows["input_ids"] % 3, "preprocessing": [BERT], "tokenizer": TOKENIZER}
    with pytest.raises(UserError, match="each token has a target of its own"):
        views(rows, "drop", **arguments)
    assert view(views(rows, "mask", **arguments), 3).targets is not None


def test_a_mask_needs_the_number_of_its_token() -> None:
    """Texts without a mask token need a number."""
    rows = np.ones((2, 4), np.int64)
    with pytest.raises(UserError, match="`mask` needs the number of the mask token for input 'x'"):
        views(rows, "mask")
    assert 9 in view(views(rows, {"mask": {"token": 9, "share": 0.9}}), 2).inputs["x"]


def test_special_tokens_are_read_from_the_file_of_a_tokenizer() -> None:
    """All special tokens, and which of them masks, also in the spelling of RoBERTa."""
    assert special_tokens(TOKENIZER) == ((0, CLS, SEP, MASK), MASK)
    other = json.dumps({"added_tokens": [{"id": 4, "content": "<mask>", "special": True}, {"id": 5, "content": "x"}]})
    assert special_tokens(other.encode()) == ((4,), 4)
    assert special_tokens(b"") == ((), None)


def test_time_and_feature_masks_overwrite_spans_with_the_mean() -> None:
    """Whole rows of a series become its mean, or whole columns; the others stay."""
    series = np.random.default_rng(0).random((60, 20, 10)).astype(np.float32)
    means = series.reshape(60, -1).astype(np.float64).mean(axis=1)
    made = view(views(series, {"time_mask": {"share": 0.2, "count": 1}}), 60).inputs["x"]
    hidden = np.isclose(made, means[:, None, None].astype(np.float32), atol=0).all(axis=2)
    np.testing.assert_array_equal(made[~hidden], series[~hidden])
    assert hidden.sum(axis=1).max() == 4
    assert hidden.sum(axis=1).min() == 0
    made = view(views(series, {"feature_mask": {"share": 0.3, "count": 1}}), 60).inputs["x"]
    hidden = (made != series).all(axis=1)
    assert hidden.sum(axis=1).max() == 3
    last = view(
        views(series.transpose(0, 2, 1).copy(), {"feature_mask": {"share": 0.3, "count": 1, "time": "last"}}), 60
    )
    np.testing.assert_array_equal(last.inputs["x"].transpose(0, 2, 1), made)


def test_recordings_become_louder_silent_in_spans_and_shifted() -> None:
    """A gain is one factor per recording within the range in dB; masks and shifts leave silence."""
    tone = np.ones((80, 1000), np.float32)
    spec = SoundInput("x", 1000)
    loud = view(views(tone, {"gain": 6}, preprocessing=[spec]), 80).inputs["x"]
    assert (loud == loud[:, :1]).all()
    assert 20 * np.log10(loud.min()) == pytest.approx(-6, abs=0.6)
    assert 20 * np.log10(loud.max()) == pytest.approx(6, abs=0.6)
    quiet = view(views(tone, {"time_mask": {"share": 0.1, "count": 1}}, preprocessing=[spec]), 80).inputs["x"]
    assert 0.05 < (quiet == 0).mean(axis=1).max() <= 0.1
    ramp = np.tile(np.arange(1, 1001, dtype=np.float32), (80, 1))
    moved = view(views(ramp, {"shift": 0.2}, preprocessing=[spec]), 80).inputs["x"]
    steps = 500 - (moved[:, 500] - 1)
    assert len(np.unique(steps)) > 40
    assert np.abs(steps).max() <= 200
    channel = view(views(ramp[:, None], {"shift": 0.2}), 80).inputs["x"]
    np.testing.assert_array_equal(channel[:, 0], moved)
