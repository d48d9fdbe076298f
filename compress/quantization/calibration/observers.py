"""Observers: compute ranges of activations batch by batch, in memory that does not grow with the number of samples."""

from __future__ import annotations

import math
from typing import Protocol

import torch

from ..scheme import Range

BINS = 8192
# Small enough that the indices of a chunk stay in the cache; counting is then twice as fast as torch.histc.
_CHUNK = 1 << 16
_RUN = 16
"""Number of neighbouring values that are counted together: one cache line."""
_SMALLEST_EXPONENT = -100
_FADING = 0.9
MOST, PLENTY = 1 << 18, 1 << 22
"""Largest number of values counted per batch, and number of counted values after which a quarter of that is used."""


class Watcher(Protocol):
    """Receives a tensor once per batch."""

    def update(self, value: torch.Tensor) -> bool:
        """Record a batch; false, and nothing is recorded, if it has NaN or infinite values."""
        ...


class Observer(Watcher, Protocol):
    """Computes the range of a tensor."""

    def range(self) -> Range:
        """The range to quantize."""
        ...


class MinMax:
    """The smallest and the largest value seen."""

    def __init__(self) -> None:
        self.low, self.high = math.inf, -math.inf

    def update(self, value: torch.Tensor) -> bool:
        """See :meth:`Observer.update`."""
        if value.numel() == 0:
            return True
        low, high = (float(item) for item in torch.aminmax(value))
        if not (math.isfinite(low) and math.isfinite(high)):
            return False
        self.low, self.high = min(self.low, low), max(self.high, high)
        return True

    def range(self) -> Range:
        """See :meth:`Observer.range`."""
        return Range(self.low, self.high) if self.low <= self.high else Range(0.0, 0.0)


class MovingAverage:
    """Exponential moving average of the extremes of the batches, with decay 0.9."""

    def __init__(self) -> None:
        self.low, self.high, self.weight = 0.0, 0.0, 0.0

    def update(self, value: torch.Tensor) -> bool:
        """See :meth:`Observer.update`."""
        batch = MinMax()
        if not batch.update(value):
            return False
        if batch.low <= batch.high:
            self.weight = _FADING * self.weight + 1
            self.low += (batch.low - self.low) / self.weight
            self.high += (batch.high - self.high) / self.weight
        return True

    def range(self) -> Range:
        """See :meth:`Observer.range`."""
        return Range(self.low, self.high)


class Histogram:
    """A histogram whose limits double when a value exceeds them; subclasses compute a range from it.

    It spans ``[-limit, limit]`` with ``limit`` a power of two. Doubling merges pairs of bins, so counts stay exact. If
    a batch of a tensor has more than :data:`MOST` values, evenly spaced runs of values are counted; once :data:`PLENTY`
    values have been counted, a quarter as many are used per batch. The extremes are those of all values.
    """

    def __init__(self) -> None:
        self.extremes = MinMax()
        self.limit = 0.0
        self.counts = torch.zeros(BINS, dtype=torch.int64)
        self.zeros = 0
        self.counted = 0

    @property
    def bin_width(self) -> float:
        """Width of a bin, in the tensor's units."""
        return 2 * self.limit / BINS

    def update(self, value: torch.Tensor) -> bool:
        """See :meth:`Observer.update`."""
        if not self.extremes.update(value):
            return False
        if value.numel() == 0:
            return True
        self._reach(max(-self.extremes.low, self.extremes.high))
        flat = value.detach().reshape(-1)
        most = MOST if self.counted < PLENTY else MOST // 4
        every = flat.numel() // most | 1 if flat.numel() > most else 1
        while every > 1 and math.gcd(every, flat.numel()) > 1:  # else some channels would never be counted
            every += 2
        if self.limit == 0.0:
            self.zeros += flat.numel()
            return True
        if every > 1:
            flat = flat[: flat.numel() // _RUN * _RUN].reshape(-1, _RUN)[::every].reshape(-1)
        self.counted += flat.numel()
        for part in torch.split(flat.float(), _CHUNK):
            index = torch.mul(part, 1 / self.limit).add_(1).mul_(BINS / 2).to(torch.int32)
            found = torch.bincount(index, minlength=BINS + 1).mul_(every)
            self.counts += found[:BINS].cpu()
            self.counts[-1] += int(found[BINS])
        return True

    def _reach(self, largest: float) -> None:
        """Widen the histogram until it holds ``largest``."""
        if largest <= self.limit:
            return
        if self.limit == 0.0:
            self.limit = 2.0 ** max(math.ceil(math.log2(largest)), _SMALLEST_EXPONENT)
            self.counts[BINS // 2] += self.zeros
        while self.limit < largest:
            self.limit *= 2
            merged = self.counts.reshape(-1, 2).sum(1)
            self.counts = torch.zeros_like(self.counts)
            self.counts[BINS // 4 : BINS // 4 + BINS // 2] = merged

    def range(self) -> Range:
        """See :meth:`Observer.range`."""
        seen = self.extremes.range()
        return seen if self.limit == 0.0 else self._chosen(seen)

    def _chosen(self, seen: Range) -> Range:
        """The range to quantize, given the extremes."""
        return seen


class Percentile(Histogram):
    """The range that contains a given share of the values, exact to one bin, ``limit / 4096``.

    Args:
        percent: share of values inside, in percent; half of the others are cut off at each end.
    """

    def __init__(self, percent: float) -> None:
        super().__init__()
        self.percent = percent

    def _chosen(self, seen: Range) -> Range:
        tail = (1 - self.percent / 100) / 2
        low, high = self._quantile(tail), self._quantile(1 - tail)
        return Range(max(low, seen.low), min(high, seen.high))

    def _quantile(self, share: float) -> float:
        """The value below which ``share`` of the values lie, interpolated within its bin."""
        total = self.counts.cumsum(0).double()
        wanted = share * float(total[-1])
        index = min(int(torch.searchsorted(total, wanted)), BINS - 1)
        before = float(total[index - 1]) if index else 0.0
        inside = float(self.counts[index])
        part = min(max((wanted - before) / inside, 0.0), 1.0) if inside else 0.0
        return -self.limit + (index + part) * self.bin_width
