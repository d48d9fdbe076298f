"""What a test takes to be there: a value that may be None by its type, and a split that is held in memory."""

from __future__ import annotations

from typing import TypeVar

from retort.core.data.splits import ArraySplit, Split

T = TypeVar("T")


def known(value: T | None) -> T:
    """The value; the test fails where there is none."""
    assert value is not None
    return value


def in_memory(split: Split) -> ArraySplit:
    """The split with its arrays; the test fails where it is of another kind."""
    assert isinstance(split, ArraySplit)
    return split
