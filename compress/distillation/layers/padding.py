"""Padding of token sequences: which tokens count, by the mask among the inputs of a model."""

from __future__ import annotations

from collections.abc import Mapping

import torch

KEPT = ("attention_mask", "input_mask", "token_mask", "mask")
"""Inputs that are 1 for a token and 0 for padding."""
PADDED = ("src_key_padding_mask", "key_padding_mask", "padding_mask")
"""Inputs that are true for padding."""


def kept_tokens(inputs: Mapping[str, torch.Tensor], shape: tuple[int, ...]) -> torch.Tensor | None:
    """Which tokens count, as booleans ``[N, T]``; None without an input that masks this many tokens.

    Args:
        shape: samples and tokens.
    """
    for names, meaning in ((KEPT, True), (PADDED, False)):
        for name in names:
            mask = inputs.get(name)
            if mask is not None and tuple(mask.shape) == tuple(shape):
                return mask.bool() if meaning else ~mask.bool()
    return None
