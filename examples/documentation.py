"""Text that is available everywhere: docstrings of installed packages, which a small BERT learns to classify."""

from __future__ import annotations

import ast
import functools
import re
import sysconfig
import zlib
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

SOURCES = ("torch", "numpy", "sklearn", "python")
"""What a docstring may come from, by class: packages, and the standard library."""
VOCABULARY, LENGTH = 4096, 32
_PER_SOURCE, _FEWEST_WORDS = 900, 8
_START = 1
_NAMES = frozenset([*SOURCES, "scikit", "pytorch", "np"])


class Classifier(nn.Module):
    """A BERT of two layers and 128 channels with a score per source."""

    def __init__(self) -> None:
        from transformers import BertConfig, BertForSequenceClassification

        super().__init__()
        config = BertConfig(
            vocab_size=VOCABULARY,
            hidden_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=512,
            max_position_embeddings=LENGTH,
        )
        config.num_labels = len(SOURCES)
        self.model = BertForSequenceClassification(config)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Logits per source of texts ``[N, L]``."""
        logits: Tensor = self.model(input_ids=input_ids, attention_mask=attention_mask).logits
        return logits


def bert() -> nn.Module:
    """The classifier, untrained."""
    return Classifier()


def splits() -> tuple[dict[str, NDArray[np.int64]], NDArray[np.int64]]:
    """Tokens and masks of docstrings, and which source each comes from; the same for the same packages."""
    texts = [(text, label) for label, source in enumerate(SOURCES) for text in docstrings(source)]
    order = np.random.default_rng(0).permutation(len(texts))
    encoded = [encode(texts[index][0]) for index in order]
    ids = np.stack(encoded)
    labels = np.asarray([texts[index][1] for index in order], np.int64)
    return {"input_ids": ids, "attention_mask": (ids > 0).astype(np.int64)}, labels


def encode(text: str) -> NDArray[np.int64]:
    """Words of a text as hashed numbers, ``[L]``, between a start and zeros; names of the sources left out."""
    words = [word for word in re.findall(r"[a-z]{2,}", text.lower()) if word not in _NAMES]
    numbers = [_START, *(2 + zlib.crc32(word.encode()) % (VOCABULARY - 2) for word in words)][:LENGTH]
    return np.asarray(numbers + [0] * (LENGTH - len(numbers)), np.int64)


@functools.cache
def docstrings(source: str) -> tuple[str, ...]:
    """Docstrings of functions and classes, file by file in order, until there are enough."""
    found: dict[str, None] = {}
    for path in _files(source):
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError):
            continue
        for node in ast.walk(tree):
            text: Any = ast.get_docstring(node) if isinstance(node, ast.FunctionDef | ast.ClassDef) else None
            if text and len(text.split()) >= _FEWEST_WORDS:
                found[text] = None
        if len(found) >= _PER_SOURCE:
            break
    return tuple(found)[:_PER_SOURCE]


def _files(source: str) -> Iterator[Path]:
    """Python files of a package or of the standard library, without tests."""
    spec = None if source == "python" else find_spec(source)
    places = spec.submodule_search_locations if spec is not None else None
    folder = Path(sysconfig.get_path("stdlib")) if places is None else Path(next(iter(places)))
    skipped = {"tests", "test", "site-packages", "dist-packages", "lib2to3", "idlelib"}
    return (path for path in sorted(folder.rglob("*.py")) if not skipped & set(path.relative_to(folder).parts))
