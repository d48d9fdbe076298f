"""Splits over a user's dataset: what the dataset raises, and what is odd in it, is told with the sample's number."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from retort.core.data.splits import SequenceSplit, Subset
from retort.core.errors import DataError, UserError


class Rows:
    """A dataset of 20 samples, of which number 13 is given by ``odd``."""

    def __init__(self, odd: Callable[[], Any]) -> None:
        self.odd = odd

    def __len__(self) -> int:
        return 20

    def __getitem__(self, index: int) -> Any:
        return self.odd() if index == 13 else (np.zeros(3, np.float32), index)


def _fails() -> Any:
    raise OSError("truncated\nimage")


@pytest.mark.parametrize(
    ("odd", "words"),
    [
        (_fails, "sample 13 of the dataset cannot be read: OSError: truncated"),
        (lambda: dict[str, int]()["x"], "sample 13 of the dataset cannot be read: KeyError: 'x'"),
        (
            lambda: (np.zeros(4), 1),
            r"sample 13 of the dataset has an array of shape \[4\] as its input 'x', and sample 1",
        ),
        (lambda: np.zeros(3), r"sample 13 of the dataset has nothing as its target, and sample 12"),
        (lambda: ({"y": np.zeros(3)}, 1), "sample 13 of the dataset has nothing as its input 'x'"),
    ],
)
def test_the_sample_is_named(odd: Callable[[], Any], words: str) -> None:
    """The number is that of the dataset, also through a selection of its samples."""
    split = SequenceSplit(Rows(odd), "x", "rows")
    with pytest.raises(DataError, match=words):
        Subset(split, np.array([11, 12, 13, 14])).read([1, 2])
    assert split.read([3, 4])[0]["x"].shape == (2, 3)


def test_an_error_of_retort_stays_what_it_is() -> None:
    """A dataset may use Retort, whose errors have remedies of their own."""

    def _told() -> Any:
        raise UserError("a fault", "a remedy")

    with pytest.raises(UserError, match="a fault"):
        SequenceSplit(Rows(_told), "x", "rows").read([13])
