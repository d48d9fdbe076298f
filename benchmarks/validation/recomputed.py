"""What every recomputation has in common: the faults, the number of figures, and how two values are compared."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from ...core.counts import counted


class Recomputed:
    """What was computed again.

    Attributes:
        faults: figures that do not follow from what the result keeps, each with its key path.
        figures: number of figures that were computed again.
        notes: what could not be computed again, and why.
    """

    def __init__(self) -> None:
        self.faults: list[str] = []
        self.notes: list[str] = []
        self.figures = 0


def leaves(path: str, said: Any, found: Any) -> Iterator[tuple[str, Any, Any]]:
    """Both values of each figure, with the path to it."""
    if isinstance(said, dict) and isinstance(found, dict):
        for key in said:
            yield from leaves(f"{path}.{key}", said[key], found.get(key))
    elif isinstance(said, list | tuple) and isinstance(found, list | tuple) and len(said) == len(found):
        for index, (one, other) in enumerate(zip(said, found, strict=True)):
            yield from leaves(f"{path}.{index}", one, other)
    else:
        yield path, said, found


def equal(said: Any, found: Any, relative: float, absolute: float) -> bool:
    """Whether two values are the same figure.

    Args:
        relative: difference of two numbers as a share.
        absolute: difference of two numbers.
    """
    if isinstance(said, float | int) and isinstance(found, float | int):
        return math.isclose(said, found, rel_tol=relative, abs_tol=absolute)
    return bool(said == found)


def shown(value: Any) -> str:
    """A value in a fault."""
    if isinstance(value, list | tuple):
        return counted(len(value), "value")
    return "nothing" if value is None else f"{value:.5g}" if isinstance(value, float) else str(value)[:60]
