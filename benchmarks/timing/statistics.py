"""The statistics of latency: percentiles only where the sample count allows, and ratios of paired blocks.

Percentile bounds follow MLPerf LoadGen's early stopping (binomial test, benchmarks.md 2.2); ratios follow the block
design of the same section: rounds of randomly ordered blocks, their lower quartile, and its bootstrap over rounds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ...core.metrics.intervals import NORMAL, Floats, Interval, widened_z
from ...core.metrics.ratio import Ratio, from_logs

Verdict = Literal["reference", "faster", "slower", "cannot tell"]
PERCENTILE_CONFIDENCE = 0.99
MEDIAN_RESAMPLES = 4_000
FLIPS = 4_000
LOW, FLOOR = 0.25, 0.01
"""Quantile over rounds, and what no number of rounds tells: two openings of one file differ by about a percent."""


@dataclass(frozen=True)
class Percentile:
    """A percentile, or None where the samples are too few to print one.

    Attributes:
        percentile: such as 99.0.
        value: the empirical percentile in the unit of the samples.
        low: distribution-free two-sided interval.
        high: see ``low``.
        n: samples there are.
        needed: samples from which it may be printed.
    """

    percentile: float
    value: float | None
    low: float | None
    high: float | None
    n: int
    needed: int


@cache
def samples_needed(percentile: float, discarded: int = 1, confidence: float = PERCENTILE_CONFIDENCE) -> int:
    """Samples from which a percentile may be printed while leaving out the ``discarded`` worst ones.

    Args:
        percentile: such as 90.
        discarded: 1 is LoadGen's minimum, 0 means that the maximum itself bounds the percentile.
    """
    low, high = discarded + 1, discarded + 2
    while discards_allowed(high, percentile, confidence) < discarded:
        low, high = high, high * 2
    while low < high:
        middle = (low + high) // 2
        low, high = (
            (low, middle) if discards_allowed(middle, percentile, confidence) >= discarded else (middle + 1, high)
        )
    return low


@lru_cache(maxsize=1024)
def discards_allowed(n: int, percentile: float, confidence: float = PERCENTILE_CONFIDENCE) -> int:
    """How many of the worst of ``n`` samples early stopping allows for; -1 when even the maximum says nothing.

    The largest t with P[Bin(n, 1 - p) ≤ t] ≤ 1 - confidence.
    """
    return int(np.searchsorted(_binomial_cdf(n, 1 - percentile / 100), 1 - confidence, side="right")) - 1


def percentile_bound(samples: Floats, percentile: float, confidence: float = PERCENTILE_CONFIDENCE) -> float | None:
    """The value that the true percentile stays below with the stated confidence, as LoadGen estimates it.

    LoadGen discards t samples by its test and reports the t-th worst value. None when there are too few samples.
    """
    allowed = discards_allowed(len(samples), percentile, confidence)
    return None if allowed < 0 else float(np.sort(samples)[len(samples) - max(allowed, 1)])


def percentile_interval(samples: Floats, percentile: float, confidence: float = PERCENTILE_CONFIDENCE) -> Percentile:
    """A percentile with the two-sided interval that order statistics give for any distribution.

    Args:
        samples: one-dimensional, in any unit.
    """
    n, needed = len(samples), samples_needed(percentile)
    side = (1 + confidence) / 2
    above, below = discards_allowed(n, percentile, side), discards_allowed(n, 100 - percentile, side)
    if n < needed or above < 0 or below < 0:
        return Percentile(percentile, None, None, None, n, needed)
    ordered = np.sort(samples)
    value = float(np.percentile(ordered, percentile))
    low, high = float(ordered[below]), float(ordered[n - 1 - above])
    return Percentile(percentile, value, min(low, value), max(high, value), n, needed)


def rounds_needed(confidence: float) -> int:
    """Rounds below which no interval of a median can reach the confidence: 2 · 0.5ⁿ > 1 - confidence."""
    return max(2, math.ceil(math.log2(2 / (1 - confidence))))


def median_interval(values: Floats, confidence: float, seed: int = 0) -> Interval:
    """Bootstrap interval of the median; unbounded when there are fewer than :func:`rounds_needed` values."""
    value = float(np.median(values))
    if len(values) < rounds_needed(confidence):
        return Interval(value, -math.inf, math.inf, confidence)
    chosen = np.random.default_rng(seed).integers(0, len(values), size=(MEDIAN_RESAMPLES, len(values)))
    tail = NORMAL.cdf(-widened_z(len(values), confidence))
    low, high = np.quantile(np.median(values[chosen], axis=1), [tail, 1 - tail])
    return Interval(value, min(float(low), value), max(float(high), value), confidence)


def low(values: Sequence[float] | Floats) -> float:
    """The time that counts: the lower quartile over rounds, which a load of the machine hardly moves.

    A processor that others share is now fast and now slow, and slows down one model more than another: the median of
    ratios is somewhere between the two states, and elsewhere when it is measured again.
    """
    return float(np.quantile(np.asarray(values, np.float64), LOW))


def low_interval(values: Floats, confidence: float, seed: int = 0) -> Interval:
    """The time that counts with its bootstrap interval; unbounded for fewer values than :func:`rounds_needed`."""
    logs = _low_difference(np.log(values), np.zeros(len(values)), confidence, seed)
    low_end, high_end = (math.exp(end) if math.isfinite(end) else end for end in (logs.low, logs.high))
    return Interval(math.exp(logs.value), low_end, high_end, confidence)


def ratio_interval(
    reference: Sequence[float], candidate: Sequence[float], confidence: float, seed: int = 0, /, **told: Any
) -> Ratio:
    """How many times faster the candidate is: the ratio of the times that count, with its interval.

    Rounds are drawn again together, so that what disturbs both sides of a round stays together.

    Args:
        reference: its time in each round.
        candidate: of the same rounds.
        told: further attributes of the ratio: what it is a ratio of, by which clock, with which doubts.
    """
    theirs, ours = (np.log(np.asarray(values, np.float64)) for values in (reference, candidate))
    return from_logs(_low_difference(theirs, ours, confidence, seed), rounds=len(reference), **told)


def _low_difference(first: Floats, second: Floats, confidence: float, seed: int) -> Interval:
    """Difference of the lower quartiles of paired values, as far to either side as the bootstrap goes to one of them.

    Among few rounds of a machine with two states the bootstrap sees one side only.
    """
    value, n = float(np.quantile(first, LOW) - np.quantile(second, LOW)), len(first)
    if n < rounds_needed(confidence):
        return Interval(value, -math.inf, math.inf, confidence)
    chosen = np.random.default_rng(seed).integers(0, n, size=(MEDIAN_RESAMPLES, n))
    draws = np.quantile(first[chosen], LOW, axis=1) - np.quantile(second[chosen], LOW, axis=1)
    tail = NORMAL.cdf(-widened_z(n, confidence))
    ends = np.quantile(draws, [tail, 1 - tail])
    reach = math.hypot(max(value - float(ends[0]), float(ends[1]) - value, 0.0), FLOOR)
    return Interval(value, value - reach, value + reach, confidence)


def log_ratios(reference: Sequence[float], candidate: Sequence[float]) -> Floats:
    """log(reference / candidate) per round."""
    return np.asarray(np.log(np.asarray(reference, np.float64) / np.asarray(candidate, np.float64)), np.float64)


def sign_flip_p(values: Floats, seed: int = 0) -> float:
    """Two-sided p of the hypothesis that the values scatter evenly around 0, by flipping signs at random."""
    signs: NDArray[np.int64] = np.random.default_rng(seed).integers(0, 2, size=(FLIPS, len(values))) * 2 - 1
    flipped = np.abs(np.median(signs * values, axis=1))
    return float((1 + np.sum(flipped >= abs(np.median(values)) * (1 - 1e-12))) / (FLIPS + 1))


def _binomial_cdf(n: int, p: float) -> Floats:
    """P[Bin(n, p) ≤ k] for k = 0 … n, summed in logs so that it holds for any n."""
    k = np.arange(n, dtype=np.float64)
    steps = np.log((n - k) / (k + 1)) + math.log(p) - math.log1p(-p)
    logs = np.concatenate([[0.0], np.cumsum(steps)]) + n * math.log1p(-p)
    return np.asarray(np.cumsum(np.exp(logs)), np.float64)
