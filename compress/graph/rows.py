"""Feeds of other batch sizes, made of the ones at hand."""

from __future__ import annotations

from collections.abc import Mapping

import torch


def rows(feeds: Mapping[str, torch.Tensor], count: int) -> dict[str, torch.Tensor]:
    """The first ``count`` rows of every input, starting over when there are fewer."""
    return {
        name: tensor[torch.arange(count) % len(tensor)].clone() if tensor.dim() else tensor.clone()
        for name, tensor in feeds.items()
    }
