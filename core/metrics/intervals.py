"""Confidence intervals with numpy alone: proportions, paired proportions, and the BCa bootstrap.

Sources: E. B. Wilson, JASA 22 (1927) for one proportion; T. Tango, Statistics in Medicine 17 (1998), 891-908 for the
difference of two paired proportions; B. Efron, JASA 82 (1987), 171-185 for BCa; T. C. Hesterberg, The American
Statistician 69 (2015), 371-386 for widening the bootstrap's quantiles by Student's t when samples are few.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Score = Callable[[Floats], Floats]

NORMAL = NormalDist()
RESAMPLES = 5_000
WEIGHTS_IN_MEMORY = 4_000_000
JACKKNIFE_GROUPS = 400


@dataclass(frozen=True)
class Interval:
    """A value and the range that holds the truth with the stated confidence.

    Attributes:
        confidence: two-sided, such as 0.95; each end alone holds with (1 + confidence) / 2.
    """

    value: float
    low: float
    high: float
    confidence: float

    def scaled(self, factor: float) -> Interval:
        """The interval in another unit; a negative factor swaps the ends."""
        low, high = sorted((self.low * factor, self.high * factor))
        return Interval(self.value * factor, low, high, self.confidence)


def z_value(confidence: float) -> float:
    """Standard normal quantile of the ends of a two-sided interval; 1.96 for 0.95."""
    return NORMAL.inv_cdf((1 + confidence) / 2)


def widened_z(n: int, confidence: float) -> float:
    """The normal quantile for a bootstrap of ``n`` samples, which is larger for few samples (Hesterberg 2015)."""
    return math.sqrt(n / (n - 1)) * _student(z_value(confidence), n - 1)


def student_interval(values: Sequence[float], confidence: float) -> Interval:
    """The mean of values with its interval by Student's t; the interval of one value is infinite."""
    count, mean = len(values), float(np.mean(values))
    if count < 2:
        return Interval(mean, -math.inf, math.inf, confidence)
    half = _student_quantile(confidence, count - 1) * float(np.std(values, ddof=1)) / math.sqrt(count)
    return Interval(mean, mean - half, mean + half, confidence)


def _student_quantile(confidence: float, freedom: int) -> float:
    """The two-sided quantile, exact for 1 and 2 degrees of freedom."""
    if freedom == 1:
        return math.tan(math.pi * confidence / 2)
    if freedom == 2:
        return confidence * math.sqrt(2 / (1 - confidence**2))
    return _student(z_value(confidence), freedom)


def smallest_doubt(n: int, confidence: float) -> float:
    """Upper end of a proportion's score interval when none of ``n`` samples shows the event (a rule of three)."""
    square = z_value(confidence) ** 2
    return square / (n + square)


def wilson(successes: float, n: int, confidence: float) -> Interval:
    """Wilson's score interval for a proportion.

    Args:
        successes: how many of the ``n`` samples.
    """
    z, share = z_value(confidence), successes / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return Interval(share, min(max(0.0, centre - half), share), max(min(1.0, centre + half), share), confidence)


def paired_proportions(first_only: int, second_only: int, n: int, confidence: float) -> Interval:
    """Tango's score interval for the difference of two proportions seen on the same samples.

    It keeps its coverage with few discordant pairs; with none it is ± z²/(n + z²), never a point.

    Args:
        first_only: samples on which only the first succeeds.
        second_only: samples on which only the second succeeds.
        n: all samples.

    Returns:
        The first proportion minus the second.
    """
    difference = (first_only - second_only) / n
    z = z_value(confidence)
    low = _tango_root(first_only, second_only, n, z, -1.0, difference)
    high = -_tango_root(second_only, first_only, n, z, -1.0, -difference)
    return Interval(difference, low, high, confidence)


def _tango_root(b: int, c: int, n: int, z: float, low: float, high: float) -> float:
    """The difference at which Tango's score equals ``z``; the score decreases with the assumed difference."""
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if _tango_score(b, c, n, middle) > z else (low, middle)
    return (low + high) / 2


def _tango_score(b: int, c: int, n: int, delta: float) -> float:
    linear = -b - c + (2 * n - b + c) * delta
    root = math.sqrt(max(0.0, linear * linear + 8 * n * c * delta * (1 - delta)))
    nuisance = max(0.0, (root - linear) / (4 * n))
    variance = n * (2 * nuisance + delta * (1 - delta))
    distance = b - c - n * delta
    return distance / math.sqrt(variance) if variance > 0 else math.copysign(math.inf, distance)


def bootstrap(score: Score, n: int, confidence: float, seed: int = 0, resamples: int | None = None) -> Interval:
    """BCa bootstrap interval of any statistic that can be computed from sample weights.

    Args:
        score: takes weights ``[B, n]`` (how often each sample was drawn) and gives ``[B]`` values.
        n: samples.
        resamples: by default 5,000, fewer beyond 20,000 samples; memory stays bounded either way.

    Returns:
        The value on the unweighted samples with its interval; unbounded when there is only one sample.
    """
    value = float(score(np.ones((1, n)))[0])
    if n < 2:
        return Interval(value, -math.inf, math.inf, confidence)
    if not math.isfinite(value):
        return Interval(value, value, value, confidence)
    draws = _draws(score, n, seed, resamples or int(np.clip(1e8 / n, 500, RESAMPLES)))
    draws = np.sort(draws[np.isfinite(draws)])
    if draws.size == 0 or draws[0] == draws[-1]:
        return Interval(value, value, value, confidence)
    low, high = np.quantile(draws, _bca_levels(value, draws, _acceleration(score, n, seed), n, confidence))
    return Interval(value, min(float(low), value), max(float(high), value), confidence)


def _draws(score: Score, n: int, seed: int, resamples: int) -> Floats:
    generator = np.random.default_rng(seed)
    chunk = max(1, WEIGHTS_IN_MEMORY // n)
    parts = []
    for start in range(0, resamples, chunk):
        rows = min(chunk, resamples - start)
        chosen = generator.integers(0, n, size=(rows, n)) + np.arange(rows)[:, None] * n
        weights = np.bincount(chosen.ravel(), minlength=rows * n).reshape(rows, n)
        parts.append(score(weights.astype(np.float64)))
    return np.concatenate(parts)


def _acceleration(score: Score, n: int, seed: int) -> float:
    """Efron's acceleration from a jackknife that leaves out groups, so that its cost is bounded."""
    groups = min(n, JACKKNIFE_GROUPS)
    member = np.random.default_rng(seed).permutation(n) % groups
    chunk = max(1, WEIGHTS_IN_MEMORY // n)
    parts = [
        score((member[None, :] != np.arange(start, min(start + chunk, groups))[:, None]).astype(np.float64))
        for start in range(0, groups, chunk)
    ]
    left_out = np.concatenate(parts)
    left_out = left_out[np.isfinite(left_out)]
    influence = left_out.mean() - left_out
    spread = float(np.sum(influence**2)) ** 1.5
    return float(np.sum(influence**3)) / (6 * spread) if spread > 0 else 0.0


def _bca_levels(value: float, draws: Floats, acceleration: float, n: int, confidence: float) -> list[float]:
    below = (np.sum(draws < value) + 0.5 * np.sum(draws == value)) / draws.size
    bias = NORMAL.inv_cdf(float(np.clip(below, 1 / (draws.size + 1), draws.size / (draws.size + 1))))
    reach = widened_z(n, confidence)
    return [_bca_level(bias, acceleration, sign * reach) for sign in (-1.0, 1.0)]


def _bca_level(bias: float, acceleration: float, z: float) -> float:
    shifted = bias + z
    stretch = 1 - acceleration * shifted
    # For very skewed statistics the transform is not monotonic; the plain percentile is used there.
    return NORMAL.cdf(bias + shifted / stretch) if stretch > 0.1 else NORMAL.cdf(z)


def _student(z: float, freedom: int) -> float:
    """Student's t quantile from the normal quantile (Abramowitz and Stegun 26.7.5)."""
    v = float(max(freedom, 3))
    terms = (z, (z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96, (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384)
    return sum(term / v**power for power, term in enumerate(terms))
