"""Bags of embeddings in a program."""

from __future__ import annotations

import os
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from torch import nn

from retort.compress.capture.capture_program import capture

torch.set_num_threads(1)


class Bag(nn.Module):
    """From words to one vector."""

    def __init__(self, **given: Any) -> None:
        super().__init__()
        self.bag = nn.EmbeddingBag(20, 6, **given)

    def forward(self, words: torch.Tensor, weights: torch.Tensor | None = None) -> torch.Tensor:
        """``[N, 6]``."""
        result: torch.Tensor = self.bag(words, per_sample_weights=weights)
        return result


@pytest.mark.parametrize(
    ("given", "weighted"),
    [
        ({"mode": "mean"}, False),
        ({"mode": "mean", "padding_idx": 3}, False),
        ({"mode": "sum", "padding_idx": 3}, True),
        ({"mode": "max"}, False),
    ],
)
def test_bags_are_a_look_up_and_a_reduction(given: dict[str, Any], weighted: bool) -> None:
    """An embedding bag on rows of words is replaced: equal values and gradients at other batches and lengths."""

    def _feeds(rows: int, length: int) -> dict[str, torch.Tensor]:
        words = torch.randint(0, 20, (rows, length))
        words[0] = 3
        return {"words": words, **({"weights": torch.rand(rows, length)} if weighted else {})}

    model, example = Bag(**given), _feeds(2, 5)
    program = capture(model, example, dynamic={name: {1: "length"} for name in example})
    assert not [node for node in program.module.graph.nodes if "embedding_bag" in str(node.target)]
    feeds = _feeds(4, 9)
    found, wanted = program.module(*feeds.values())[0], model(**feeds)
    assert torch.allclose(found, wanted, atol=1e-6)
    (table,) = program.module.parameters()
    ours = torch.autograd.grad(found.square().sum(), table)[0]
    assert torch.allclose(ours, torch.autograd.grad(wanted.square().sum(), model.bag.weight)[0], atol=1e-5)
