"""How times change while they are measured, in percent per minute, and the calls that take much longer than others."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ...core.metrics.intervals import Floats, Interval, z_value

LONGEST = 800
"""Number of values beyond which every second, third … is used: their pairs are compared."""
FEWEST = 8
SPIKE = 2.0
"""A call that takes so many times the median is a spike."""


@dataclass(frozen=True)
class Spikes:
    """Calls that take more than twice the median.

    Attributes:
        count: number of them.
        calls: number of all calls.
        share_percent: share of the calls.
        time_percent: share of the time of all calls that exceeds the median in them.
        longest_ms: time of the longest call.
        median_ms: median of all calls.
    """

    count: int
    calls: int
    share_percent: float
    time_percent: float
    longest_ms: float
    median_ms: float


def drift_per_minute(moments_s: Floats, times: Floats, confidence: float = 0.95) -> Interval | None:
    """Change of the times in percent per minute, by the median of the slopes of all pairs (Theil and Sen).

    The interval is that of P. K. Sen, JASA 63 (1968), 1379-1389, from the distribution of Kendall's statistic. It
    assumes independent values. Slopes are those of the logarithms.

    Args:
        moments_s: when each value was measured, in seconds.
        times: in any unit.

    Returns:
        None for fewer than eight values, or if all were measured at one moment.
    """
    step = max(1, math.ceil(len(times) / LONGEST))
    minutes, logs = moments_s[::step] / 60, np.log(times[::step])
    first, second = np.triu_indices(len(logs), 1)
    apart = minutes[second] - minutes[first]
    known = apart != 0
    if len(logs) < FEWEST or not known.any():
        return None
    slopes = np.sort((logs[second] - logs[first])[known] / apart[known])
    n = len(logs)
    reach = z_value(confidence) * math.sqrt(n * (n - 1) * (2 * n + 5) / 18)
    low, high = (int(np.clip(round((len(slopes) + sign * reach) / 2), 0, len(slopes) - 1)) for sign in (-1, 1))
    value, *ends = (_percent(slope) for slope in (float(np.median(slopes)), float(slopes[low]), float(slopes[high])))
    return Interval(value, min(ends[0], value), max(ends[1], value), confidence)


def _percent(slope: float) -> float:
    return 100 * math.expm1(min(slope, 700.0))


def spikes(calls_ms: Floats) -> Spikes:
    """The calls that take more than twice the median.

    Args:
        calls_ms: time of each call.
    """
    median = float(np.median(calls_ms))
    high = calls_ms[calls_ms > SPIKE * median]
    total = float(calls_ms.sum())
    return Spikes(
        count=len(high),
        calls=len(calls_ms),
        share_percent=100 * len(high) / len(calls_ms),
        time_percent=100 * float(np.sum(high - median)) / total if total > 0 else 0.0,
        longest_ms=float(calls_ms.max()),
        median_ms=median,
    )
