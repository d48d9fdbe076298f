"""Statistics of latency: percentiles if the number of samples allows them, and ratios of paired blocks.

Percentile bounds follow MLPerf LoadGen's early stopping (binomial test, benchmarks.md 2.2). Ratios follow the block
design of the same section: rounds of randomly ordered blocks, a low quantile of them, and its bootstrap over rounds.
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
from .dependence import dependence

Verdict = Literal["reference", "faster", "slower", "cannot tell"]
PERCENTILE_CONFIDENCE = 0.99
MEDIAN_RESAMPLES = 4_000
FLIPS = 4_000
LOWEST, LOW, FLOOR, LEAST = 0.05, 0.25, 0.01, 0.002
"""Limits of the quantile over rounds; smallest half width of an interval of sessions that were opened once, which
differ by 1 % for one file, and smallest half width of all."""


@dataclass(frozen=True)
class Percentile:
    """A percentile, with the value None if there are too few samples.

    Attributes:
        percentile: such as 99.0.
        value: the empirical percentile in the unit of the samples.
        low: lower end of the distribution-free two-sided interval.
        high: upper end of that interval.
        n: number of samples.
        needed: number of samples that the percentile needs; more if neighbouring samples depend on each other.
        dependence: number of neighbouring samples that say as much as one independent sample.
    """

    percentile: float
    value: float | None
    low: float | None
    high: float | None
    n: int
    needed: int
    dependence: float = 1.0


@cache
def samples_needed(percentile: float, discarded: int = 1, confidence: float = PERCENTILE_CONFIDENCE) -> int:
    """Number of samples that a percentile needs if the ``discarded`` worst samples are excluded.

    Args:
        percentile: such as 90.
        discarded: 1 is LoadGen's minimum; with 0, the maximum itself bounds the percentile.
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
    """How many of the worst of ``n`` samples early stopping may discard; -1 if even the maximum is no bound.

    The largest t with P[Bin(n, 1 - p) ≤ t] ≤ 1 - confidence.
    """
    return int(np.searchsorted(_binomial_cdf(n, 1 - percentile / 100), 1 - confidence, side="right")) - 1


def percentile_bound(samples: Floats, percentile: float, confidence: float = PERCENTILE_CONFIDENCE) -> float | None:
    """An upper bound of the true percentile with the stated confidence, as LoadGen estimates it.

    LoadGen discards t samples by its test and reports the t-th worst value. None if there are too few samples.
    """
    allowed = discards_allowed(len(samples), percentile, confidence)
    return None if allowed < 0 else float(np.sort(samples)[len(samples) - max(allowed, 1)])


def percentile_interval(
    samples: Floats, percentile: float, confidence: float = PERCENTILE_CONFIDENCE, known: float | None = None
) -> Percentile:
    """A percentile with the two-sided interval from order statistics, which is valid for any distribution.

    Neighbouring times of a busy machine depend on each other. If so many of them say as much as one independent time
    (see :func:`.dependence.dependence`), the interval is that of so many times fewer samples, and more are needed.

    Args:
        samples: one-dimensional, in the order in which they were measured, in any unit.
        known: the dependence, if it is known; the samples may be in any order then.
    """
    n = len(samples)
    value = float(np.percentile(samples, percentile)) if n else math.nan
    measured = dependence((samples > value).astype(np.float64)) if n and known is None else 1.0
    factor = known or measured
    worth, needed = int(n / factor), math.ceil(factor * samples_needed(percentile))
    side = (1 + confidence) / 2
    above, below = discards_allowed(worth, percentile, side), discards_allowed(worth, 100 - percentile, side)
    if n < needed or above < 0 or below < 0:
        return Percentile(percentile, None, None, None, n, needed, factor)
    ordered = np.sort(samples)
    low, high = float(ordered[int(below * factor)]), float(ordered[n - 1 - int(above * factor)])
    return Percentile(percentile, value, min(low, value), max(high, value), n, needed, factor)


def rounds_needed(confidence: float) -> int:
    """Smallest n for which an interval of a median of n rounds reaches the confidence: 2 · 0.5ⁿ ≤ 1 - confidence."""
    return max(2, math.ceil(math.log2(2 / (1 - confidence))))


def median_interval(values: Floats, confidence: float, seed: int = 0) -> Interval:
    """Bootstrap interval of the median; unbounded if there are fewer than :func:`rounds_needed` values."""
    value = float(np.median(values))
    if len(values) < rounds_needed(confidence):
        return Interval(value, -math.inf, math.inf, confidence)
    chosen = np.random.default_rng(seed).integers(0, len(values), size=(MEDIAN_RESAMPLES, len(values)))
    tail = NORMAL.cdf(-widened_z(len(values), confidence))
    low, high = np.quantile(np.median(values[chosen], axis=1), [tail, 1 - tail])
    return Interval(value, min(float(low), value), max(float(high), value), confidence)


def low_share(rounds: int) -> float:
    """The quantile over so many rounds that is the time of a candidate, about the second lowest of few rounds."""
    return min(LOW, max(LOWEST, 1 / rounds))


def low(values: Sequence[float] | Floats) -> float:
    """The time of a candidate: a low quantile over rounds, which load on the machine hardly changes.

    A shared processor alternates between fast and slow states, which slow down models by different factors: beside a
    busy hyperthread, one network took 1.35 and another 1.6 times as long. The median of ratios would lie somewhere
    between these states, and at another value when it is measured again. The fast state is rare on a busy machine, so
    the quantile is as low as the number of rounds allows.
    """
    return float(low_quantiles(np.asarray(values, np.float64), len(values)))


def low_quantiles(values: Floats, rounds: int) -> Floats:
    """The low quantile along the last axis that is the time of a candidate with so many rounds.

    Runs of different length are compared at the quantile of the shorter one: it stands for the same share of the
    machine's states in both (median-unbiased positions, Hyndman and Fan, The American Statistician 50 (1996)).
    """
    position = (low_share(rounds) * (rounds - 1) + 2 / 3) / (rounds + 1 / 3)
    return np.asarray(np.quantile(values, position, axis=-1, method="median_unbiased"), np.float64)


def low_interval(values: Floats, confidence: float, seed: int = 0) -> Interval:
    """The time of a candidate with its bootstrap interval; unbounded for fewer values than :func:`rounds_needed`."""
    logs = _low_difference(np.log(values), np.zeros(len(values)), confidence, seed)
    low_end, high_end = (math.exp(end) if math.isfinite(end) else end for end in (logs.low, logs.high))
    return Interval(math.exp(logs.value), low_end, high_end, confidence)


def session_floor(openings: int) -> float:
    """Smallest half width of a ratio's interval if every session was opened so many times during the measurement.

    The differences between sessions are then a part of the differences between rounds, which the bootstrap sees. Of
    1,000 comparisons of a file with itself on a very busy machine, 10 of 1.5 seconds raised a false alarm, and none of
    those of 19 seconds (docs/benchmarks/ab_simulation.md).
    """
    return max(LEAST, min(FLOOR, 2 * FLOOR / math.sqrt(max(openings, 1))))


def ratio_interval(
    reference: Sequence[float],
    candidate: Sequence[float],
    confidence: float,
    seed: int = 0,
    openings: int = 1,
    /,
    **attributes: Any,
) -> Ratio:
    """How many times faster the candidate is: the ratio of the low quantiles, with its interval.

    The bootstrap draws complete rounds, so that disturbances of both sides of a round stay together.

    Args:
        reference: time of the reference in each round.
        candidate: time of the candidate in the same rounds.
        openings: how often the sessions were opened in these rounds.
        attributes: further attributes of the ratio: names, clock and doubts.
    """
    theirs, ours = (np.log(np.asarray(values, np.float64)) for values in (reference, candidate))
    found = _low_difference(theirs, ours, confidence, seed, session_floor(openings))
    return from_logs(found, rounds=len(reference), **attributes)


def _low_difference(first: Floats, second: Floats, confidence: float, seed: int, floor: float = FLOOR) -> Interval:
    """Difference of the low quantiles of paired values, with a symmetric interval of the larger bootstrap deviation.

    With few rounds on a machine with two states, the bootstrap would cover only one side.
    """
    n, share = len(first), low_share(len(first))
    value = float(np.quantile(first, share) - np.quantile(second, share))
    if n < rounds_needed(confidence):
        return Interval(value, -math.inf, math.inf, confidence)
    chosen = np.random.default_rng(seed).integers(0, n, size=(MEDIAN_RESAMPLES, n))
    draws = np.quantile(first[chosen], share, axis=1) - np.quantile(second[chosen], share, axis=1)
    return _symmetric(value, draws, n, confidence, floor)


def _symmetric(value: float, draws: Floats, rounds: int, confidence: float, floor: float = FLOOR) -> Interval:
    tail = NORMAL.cdf(-widened_z(rounds, confidence))
    ends = np.quantile(draws, [tail, 1 - tail])
    reach = math.hypot(max(value - float(ends[0]), float(ends[1]) - value, 0.0), floor)
    return Interval(value, value - reach, value + reach, confidence)


def unpaired_ratio(
    reference: Sequence[float], candidate: Sequence[float], confidence: float, seed: int = 0, /, **attributes: Any
) -> Ratio:
    """As :func:`ratio_interval`, for the rounds of two separate runs, which may differ in number."""
    theirs, ours = (np.log(np.asarray(values, np.float64)) for values in (reference, candidate))
    rounds = min(len(theirs), len(ours))
    value = float(low_quantiles(theirs, rounds) - low_quantiles(ours, rounds))
    found = Interval(value, -math.inf, math.inf, confidence)
    if rounds >= rounds_needed(confidence):
        random_numbers = np.random.default_rng(seed)
        drawn = (
            low_quantiles(values[random_numbers.integers(0, len(values), (MEDIAN_RESAMPLES, len(values)))], rounds)
            for values in (theirs, ours)
        )
        found = _symmetric(value, next(drawn) - next(drawn), rounds, confidence)
    return from_logs(found, rounds=rounds, **attributes)


def log_ratios(reference: Sequence[float], candidate: Sequence[float]) -> Floats:
    """log(reference / candidate) per round."""
    return np.asarray(np.log(np.asarray(reference, np.float64) / np.asarray(candidate, np.float64)), np.float64)


def sign_flip_p(values: Floats, seed: int = 0) -> float:
    """Two-sided p value of the hypothesis that the values are symmetric around 0, by random sign flips."""
    signs: NDArray[np.int64] = np.random.default_rng(seed).integers(0, 2, size=(FLIPS, len(values))) * 2 - 1
    flipped = np.abs(np.median(signs * values, axis=1))
    return float((1 + np.sum(flipped >= abs(np.median(values)) * (1 - 1e-12))) / (FLIPS + 1))


def _binomial_cdf(n: int, p: float) -> Floats:
    """P[Bin(n, p) ≤ k] for k = 0 … n, computed with logarithms so that it is accurate for any n."""
    k = np.arange(n, dtype=np.float64)
    steps = np.log((n - k) / (k + 1)) + math.log(p) - math.log1p(-p)
    logs = np.concatenate([[0.0], np.cumsum(steps)]) + n * math.log1p(-p)
    return np.asarray(np.cumsum(np.exp(logs)), np.float64)
