"""Ranges that clip outliers to get finer steps: chosen by squared error or by relative entropy."""

from __future__ import annotations

import numpy as np
import torch

from ..scheme import Range, Scheme
from .observers import BINS, Histogram

CANDIDATES = 100
_LEAST_SHARE = 0.2
_LEVELS = 128


class SquaredError(Histogram):
    """The range with the least squared error: ``step^2 / 12`` for every value inside, the distance for those outside.

    Args:
        scheme: the target's quantization scheme. A symmetric scheme has one limit for both sides.
    """

    def __init__(self, scheme: Scheme) -> None:
        super().__init__()
        self.scheme = scheme

    def _chosen(self, seen: Range) -> Range:
        counts = self.counts.double()
        centres = (torch.arange(BINS, dtype=torch.float64) + 0.5) * self.bin_width - self.limit
        shares = torch.linspace(_LEAST_SHARE, 1, CANDIDATES, dtype=torch.float64)
        low, high = min(seen.low, 0.0), max(seen.high, 0.0)
        above = _clipped(counts, centres, shares * high)
        below = _clipped(counts.flip(0), -centres.flip(0), shares * -low)
        total = float(counts.sum())
        if self.scheme.symmetric:
            limits = shares * max(-low, high)
            outside = _clipped(counts, centres, limits) + _clipped(counts.flip(0), -centres.flip(0), limits)
            best = float(limits[(outside + total * (limits / self.scheme.qmax) ** 2 / 12).argmin()])
            return Range(max(seen.low, -best), min(seen.high, best))
        steps = (shares[:, None] * high - shares[None, :] * low) / (self.scheme.qmax - self.scheme.qmin)
        error = above[:, None] + below[None, :] + total * steps.square() / 12
        row, column = divmod(int(error.argmin()), CANDIDATES)
        # a side without values has no error, so its share has no effect
        return Range(max(seen.low, float(shares[column]) * low), min(seen.high, float(shares[row]) * high))


def _clipped(counts: torch.Tensor, centres: torch.Tensor, limits: torch.Tensor) -> torch.Tensor:
    """Sum of the squared distances to each limit over the values above it."""
    sums = [(counts * centres**power).flip(0).cumsum(0).flip(0) for power in (0, 1, 2)]
    nothing = torch.zeros(1, dtype=torch.float64)
    index = torch.searchsorted(centres, limits, right=True)
    zeroth, first, second = (torch.cat([total, nothing])[index] for total in sums)
    return second - 2 * limits * first + limits.square() * zeroth


class Entropy(Histogram):
    """The range whose 128 levels lose the least information by the Kullback-Leibler divergence (Migacz, 2017).

    Both ends shrink by the same share. Values outside the range are counted in the outermost bins.
    """

    def _chosen(self, seen: Range) -> Range:
        counts = self.counts.double().numpy()
        counts[BINS // 2] = min(counts[BINS // 2], counts[BINS // 2 + 1 :].max(initial=0) + counts[: BINS // 2].max())
        edges = np.arange(BINS + 1) * self.bin_width - self.limit
        best, chosen = np.inf, 1.0
        for share in np.linspace(1, _LEAST_SHARE, CANDIDATES):
            first = max(int(np.searchsorted(edges, share * min(seen.low, 0.0), side="right")) - 1, 0)
            last = min(int(np.searchsorted(edges, share * max(seen.high, 0.0))), BINS)
            found = _divergence(counts, first, last)
            if found < best:
                best, chosen = found, float(share)
        return Range(chosen * seen.low, chosen * seen.high)


def _divergence(counts: np.ndarray[tuple[int], np.dtype[np.float64]], first: int, last: int) -> float:
    """Divergence of the bins ``[first, last)``, to which all other values are clipped, from their 128 levels."""
    if last - first <= _LEVELS:
        return float("inf")
    inside = counts[first:last]
    wanted = inside.copy()
    wanted[0] += counts[:first].sum()
    wanted[-1] += counts[last:].sum()
    starts = np.linspace(0, len(inside), _LEVELS + 1).astype(np.int64)[:-1]
    filled = inside > 0
    share = np.add.reduceat(inside, starts) / np.maximum(np.add.reduceat(filled.astype(np.float64), starts), 1)
    levels = np.repeat(share, np.diff(np.append(starts, len(inside)))) * filled
    p, q = wanted / wanted.sum(), levels / max(levels.sum(), 1e-30)
    both = (p > 0) & (q > 0)
    lost = p[(p > 0) & (q <= 0)].sum()
    return float((p[both] * np.log(p[both] / q[both])).sum() + lost * np.log(1e6))
