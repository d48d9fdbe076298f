"""Equivalence of two times: whether one is no slower than the other by so many percent.

Two one-sided tests: D. J. Schuirmann, Journal of Pharmacokinetics and Biopharmaceutics 15 (1987), 657-680. An interval
with the confidence 1 - 2α inside the margins is the same test at the level α.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np

from ...core.metrics.intervals import Floats
from ...core.metrics.ratio import Ratio
from .statistics import FLIPS, log_ratios

Answer = Literal["yes", "no", "cannot tell"]


def no_slower(ratio: Ratio, percent: float) -> Answer:
    """Whether the candidate is slower than the reference by less than ``percent``, with the interval's confidence.

    ``no`` if the whole interval lies at or beyond the margin. A margin within the machine's noise floor is not decided.

    Args:
        percent: the margin of the time, such as 5.
    """
    least, found = 1 / (1 + percent / 100), ratio.beyond_noise
    if ratio.doubts:
        return "cannot tell"
    if found.low > least:
        return "yes"
    return "no" if found.high <= least else "cannot tell"


def equivalent(ratio: Ratio, percent: float) -> Answer:
    """Whether the times differ by less than ``percent`` in either direction.

    Args:
        percent: the margin of the time, such as 5.
    """
    most, found = 1 + percent / 100, ratio.beyond_noise
    slower = no_slower(ratio, percent)
    if slower != "yes":
        return slower
    if found.high < most:
        return "yes"
    return "no" if found.low >= most else "cannot tell"


def tost_p(reference: Sequence[float], candidate: Sequence[float], percent: float, seed: int = 0) -> float:
    """The p value of the hypothesis that two times differ by ``percent`` or more: the larger of two one-sided tests.

    Args:
        reference: its time in each round.
        candidate: its time in the same rounds.
        percent: the margin of the time.
    """
    logs, margin = log_ratios(reference, candidate), math.log1p(percent / 100)
    return max(_greater_p(logs + margin, seed), _greater_p(margin - logs, seed))


def _greater_p(values: Floats, seed: int) -> float:
    """One-sided p value by random sign flips: whether values that are symmetric around 0 have so large a median."""
    signs = np.random.default_rng(seed).integers(0, 2, size=(FLIPS, len(values))) * 2 - 1
    flipped = np.median(signs * values, axis=1)
    return float((1 + np.sum(flipped >= np.median(values) - 1e-12)) / (FLIPS + 1))
