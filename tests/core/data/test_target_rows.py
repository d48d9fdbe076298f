"""Targets of different lengths are filled up, within a batch and between batches."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from retort.core.data.splits import SequenceSplit, targets_in_memory
from retort.core.data.target_rows import joined_targets, stacked_targets
from retort.core.errors import DataError


def split(*targets: Any) -> SequenceSplit:
    """A dataset of samples with these targets."""
    return SequenceSplit([(np.zeros(2, np.float32), target) for target in targets], "x", "test")


def test_symbols_are_filled_up() -> None:
    """Sequences of symbols end with -100, also where one batch has longer ones than another."""
    data = split(np.array([1, 2]), np.array([3]), np.array([4, 5, 6]))
    first, second = data.read([0, 1])[1], data.read([2])[1]
    assert first is not None
    assert second is not None
    assert first.tolist() == [[1, 2], [3, -100]]
    assert joined_targets([first, second]).tolist() == [[1, 2, -100], [3, -100, -100], [4, 5, 6]]
    assert targets_in_memory(data) is None


def test_boxes_are_filled_up_with_a_negative_label() -> None:
    """An image with fewer boxes has rows of -1, and one without any has only those."""
    box = [0.0, 0.0, 4.0, 4.0, 2.0]
    found = split(np.array([box, box]), np.zeros((0, 5))).read([0, 1])[1]
    assert found is not None
    assert found.shape == (2, 2, 5)
    assert found[1, :, 4].tolist() == [-1, -1]


def test_other_targets_must_be_alike() -> None:
    """Values and masks of different shapes are no lists, and the sample is named."""
    with pytest.raises(DataError, match="sample 1 of the dataset has an array of shape"):
        split(np.zeros((2, 2), np.int64), np.zeros((3, 2), np.int64)).read([0, 1])
    assert stacked_targets([np.array(1), np.array(2)]).tolist() == [1, 2]
