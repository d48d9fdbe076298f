"""Explanations of real networks: trained ones have evidence for what they know, and random ones have none."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

import retort
from retort.core.explanation.explanation import Method
from retort.examples import sentences

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("method", ["occlusion", "integrated-differences", "integrated-gradients"])
def test_a_trained_network_of_digits_has_evidence(method: Method, tmp_path: Path) -> None:
    """Of 12 digits, at least 10 are explained with evidence after training, and none before it.

    The maps before and after training differ, as they should where weights matter (Adebayo et al. 2018).
    """
    program = retort.capture("retort.examples.digits:student", data="digits", folder=tmp_path)
    trained = retort.train(program, data="digits", epochs=4)
    before, after = (retort.explain(model, "digits", rows=12, method=method) for model in (program, trained))
    assert sum(found.evidence for found in after) >= 10
    assert not any(found.evidence for found in before)
    ranks = [
        [np.argsort(np.argsort(found[row].heatmaps["image"].values.reshape(-1))) for row in range(12)]
        for found in (before, after)
    ]
    likeness = [np.corrcoef(one, other)[0, 1] for one, other in zip(*ranks, strict=True)]
    assert abs(float(np.mean(likeness))) < 0.5


@pytest.mark.skipif(find_spec(sentences.PACKAGE) is None, reason=f"needs {sentences.PACKAGE}")
def test_the_subject_of_a_sentence_counts_more_than_its_articles(tmp_path: Path) -> None:
    """For the meaning of a sentence in MiniLM, nouns and verbs count more than articles and prepositions."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(sentences._folder())
    encoded = tokenizer(["The cat sat on the mat in the garden."], padding="max_length", max_length=24)
    feeds = {name: torch.tensor(encoded[name]) for name in ("input_ids", "attention_mask")}
    program = retort.capture(sentences.minilm(), {name: value.repeat(2, 1) for name, value in feeds.items()})
    words = tokenizer.convert_ids_to_tokens(encoded["input_ids"][0])
    for method in ("occlusion", "integrated-gradients"):
        (found,) = retort.explain(program, feeds, rows=1, method=method)
        values = dict(zip(words, found.heatmaps["input_ids"].values, strict=True))
        assert (found.kind, found.evidence) == ("similarity", True)
        assert min(values["cat"], values["garden"]) > max(values["the"], values["on"], values["in"])
