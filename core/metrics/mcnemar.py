"""McNemar's exact test: whether two classifiers are right on the same samples equally often.

Q. McNemar, Psychometrika 12 (1947), 153-157; the exact form is the sign test of the samples on which only one of them
is right.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ..tensors import Array


@dataclass(frozen=True)
class McNemar:
    """The samples on which two classifiers differ, and how likely so uneven a split is by chance.

    Attributes:
        lost: samples on which only the first is right.
        gained: samples on which only the second is right.
        p_value: two-sided; 1 if they differ on none.
    """

    lost: int
    gained: int
    p_value: float


def mcnemar(first: Array, second: Array) -> McNemar:
    """Compare two classifiers.

    Args:
        first: whether the first is right on each sample, ``[N]`` of bool.
        second: the same of the second.

    Raises:
        ValueError: the numbers of samples differ.
    """
    if first.shape != second.shape:
        raise ValueError(f"{first.shape} and {second.shape} are not the same samples")
    lost, gained = int(np.sum(first & ~second)), int(np.sum(~first & second))
    return McNemar(lost, gained, sign_test(lost, gained))


def sign_test(fewer: int, more: int) -> float:
    """Two-sided p-value of a split of ``fewer + more`` things that fall on either side with probability one half."""
    count, least = fewer + more, min(fewer, more)
    logs = [math.lgamma(count + 1) - math.lgamma(k + 1) - math.lgamma(count - k + 1) for k in range(least + 1)]
    tail = math.fsum(math.exp(one - count * math.log(2)) for one in logs)
    return min(1.0, 2 * tail)
