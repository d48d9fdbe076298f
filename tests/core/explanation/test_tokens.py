"""Texts: the planted word is found in characters and in tokens, and padding has no attribution."""

from __future__ import annotations

import numpy as np
import pytest

from retort.core.errors import InputError
from retort.core.explanation.explain import Setting, explain
from retort.core.explanation.explanation import Asked
from retort.core.preprocessing.symbols import spell
from retort.core.signature import Signature
from retort.core.tensors import Array, Feeds, TensorSpec

SYMBOLS = tuple("abcdefghijklmnopqrstuvwxyz .")
CHARACTERS = Signature(
    (TensorSpec("text", "int64", ("batch", 80)),),
    (TensorSpec("scores", "float32", ("batch", 2)),),
    classes=("dull", "praise"),
    symbols=SYMBOLS,
)
TEXT = "the plot was thin but the end was great and i left."


def praises(feeds: Feeds) -> dict[str, Array]:
    """Scores that rise with every letter of the word `great` that is at its place."""
    word = [SYMBOLS.index(letter) + 2 for letter in "great"]
    windows = np.lib.stride_tricks.sliding_window_view(feeds["text"], len(word), axis=1)
    margin = (windows == word).sum(axis=2).max(axis=1) ** 2 / 3.0 - 4
    return {"scores": np.stack([np.zeros_like(margin), margin], axis=1)}


def test_a_planted_word_is_found_in_characters() -> None:
    """The word has all of the attribution, its letters share it, and the padding after the text has none."""
    found = explain(Setting(praises, CHARACTERS), spell(CHARACTERS, [TEXT]), Asked())[0]
    heat, at = found.heatmaps["text"], TEXT.index("great")
    assert (found.label, found.evidence, heat.kind) == ("praise", True, "tokens")
    assert heat.values[at : at + 5].sum() > 0.9 * (found.score - found.baseline_score)
    assert (heat.values[at : at + 5] > 0).all()
    assert not heat.values[len(TEXT) :].any()


@pytest.mark.parametrize("budget", [40, 256])
def test_words_are_the_first_regions(budget: int) -> None:
    """Even with a small budget a word is not cut in the middle, because words are measured first."""
    found = explain(Setting(praises, CHARACTERS), spell(CHARACTERS, [TEXT]), Asked(budget=budget))[0]
    at = TEXT.index("great")
    assert found.heatmaps["text"].values[at : at + 5].sum() > 0.8 * (found.score - found.baseline_score)


def test_side_inputs_of_tokens_are_not_explained() -> None:
    """Of tokens with a mask and types only the tokens are explained, and the baseline is the number that pads."""
    signed = Signature(
        tuple(TensorSpec(name, "int64", ("batch", "length")) for name in ("input_ids", "attention_mask")),
        (TensorSpec("logits", "float32", ("batch", 2)),),
    )

    def model(feeds: Feeds) -> dict[str, Array]:
        margin = 6.0 * ((feeds["input_ids"] == 77) & (feeds["attention_mask"] == 1)).any(axis=1) - 3
        return {"logits": np.stack([np.zeros_like(margin), margin], axis=1)}

    ids = np.array([[101, 5, 77, 9, 102, 0, 0]])
    feeds = {"input_ids": ids, "attention_mask": (ids > 0).astype(np.int64)}
    found = explain(Setting(model, signed), feeds, Asked())[0]
    assert list(found.heatmaps) == ["input_ids"]
    assert found.heatmaps["input_ids"].values.argmax() == 2
    with pytest.raises(InputError, match="occlusion"):
        explain(Setting(model, signed), feeds, Asked("integrated-differences"))


@pytest.mark.parametrize(("name", "normed"), [("sentence_embedding", False), ("output", True)])
def test_a_meaning_is_explained_by_its_likeness(name: str, normed: bool) -> None:
    """Embeddings, known by name or by their length of 1, are explained by the likeness to that of the whole text."""
    table = np.random.default_rng(0).normal(size=(100, 16))
    signed = Signature(
        (TensorSpec("input_ids", "int64", ("batch", "length")),),
        (TensorSpec(name, "float32", ("batch", 16)),),
    )
    table[7] *= 9

    def model(feeds: Feeds) -> dict[str, Array]:
        found = table[feeds["input_ids"]].sum(axis=1)
        return {name: found / np.linalg.norm(found, axis=1, keepdims=True) if normed else found}

    found = explain(Setting(model, signed), {"input_ids": np.array([[3, 7, 5]])}, Asked())[0]
    assert found.kind == "similarity"
    assert found.score == pytest.approx(1)
    assert found.heatmaps["input_ids"].values.argmax() == 1
