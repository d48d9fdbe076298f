"""How much neighbouring times depend on each other: so many of them say as much as one that is independent."""

from __future__ import annotations

import math

import numpy as np

from ...core.metrics.intervals import Floats

LENGTHS = tuple(2**power for power in range(3, 15))
"""Numbers of neighbours whose means are compared."""
FEWEST = 8
"""Number of means without which their variance is not known well enough."""
CERTAIN = 4.0
"""Standard deviations beyond which a variance is no longer that of independent samples."""


def dependence(samples: Floats) -> float:
    """The number of samples that say as much as one independent sample; 1 if no dependence is certain.

    The means of neighbours (batch means: H. Damerdji, Mathematics of Operations Research 19 (1994)) of independent
    samples vary by the variance of the samples divided by their number. How much more they vary is the dependence; the
    largest of all lengths is taken, because short ones see only a part of a long dependence.

    Args:
        samples: in the order in which they were measured, such as 1 for times above a percentile and 0 for others.
    """
    variance = float(samples.var())
    if variance == 0:
        return 1.0
    sums = np.concatenate([[0.0], np.cumsum(samples)])
    largest, certain = 1.0, False
    for length in LENGTHS:
        count = len(samples) // length
        if count < FEWEST:
            break
        means = np.diff(sums[: count * length + 1 : length]) / length
        factor = length * float(means.var(ddof=1)) / variance
        certain = certain or factor - 1 > CERTAIN * math.sqrt(2 / (count - 1))
        largest = max(largest, factor)
    return largest if certain else 1.0
