"""Targets of different lengths: sequences of symbols and lists of boxes, filled up to the longest."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..tensors import Array

FILL = -100
"""What fills up sequences of symbols, as in PyTorch's losses."""
NO_BOX = -1.0
"""What fills up lists of boxes, whose label is then negative."""
_BOX = 5


def is_list(target: Array) -> bool:
    """Whether the target of a sample may have another length than that of the next one: symbols, or boxes."""
    return (target.ndim == 1 and target.dtype.kind in "iu") or (
        target.ndim == 2 and target.shape[1] == _BOX and target.dtype.kind == "f"
    )


def stacked_targets(samples: Sequence[Array]) -> Array:
    """The targets of samples in one array; lists are filled up to the longest."""
    if not all(is_list(sample) for sample in samples) or len({len(sample) for sample in samples}) == 1:
        return np.asarray(samples)
    return joined_targets([sample[None] for sample in samples])


def joined_targets(batches: Sequence[Array]) -> Array:
    """The targets of batches in one array, filled up where the lists of one batch are longer than those of another."""
    if len({batch.shape[1:] for batch in batches}) <= 1 or not all(batch.ndim > 1 for batch in batches):
        return np.concatenate(batches)
    longest = max(batch.shape[1] for batch in batches)
    return np.concatenate([_filled(batch, longest) for batch in batches])


def _filled(batch: Array, length: int) -> Array:
    width = [(0, 0), (0, length - batch.shape[1]), *[(0, 0)] * (batch.ndim - 2)]
    return np.pad(batch, width, constant_values=FILL if batch.dtype.kind in "iu" else NO_BOX)
