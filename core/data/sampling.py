"""The order of the samples of an epoch, which only the seed and the epoch determine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ..counts import counted
from ..errors import DataError, UserError
from .augmentation.draws import Seeds, view_seeds
from .splits import Split, batches, targets_in_memory

Sampling = Literal["natural", "balanced"] | tuple[float, ...]
_WEIGHTED = 1
_COUNTED = 256


@dataclass(frozen=True)
class Order:
    """The samples of one epoch.

    Attributes:
        indices: ``int64[N]``, numbers of samples in the split.
        seeds: ``uint64[N]``, of their views.
    """

    indices: NDArray[np.int64]
    seeds: Seeds

    def part(self, places: Sequence[int] | NDArray[np.int64]) -> Order:
        """The samples at some places of the order."""
        chosen = np.asarray(places)
        return Order(self.indices[chosen], self.seeds[chosen])


@dataclass(frozen=True)
class Sampler:
    """Orders samples.

    Attributes:
        count: number of samples of the split, which is also the length of every epoch.
        seed: of the run.
        weights: ``float64[count]``, the probability with which each place of an epoch gets each sample, or None for
            every sample once.
    """

    count: int
    seed: int
    weights: NDArray[np.float64] | None = None

    def order(self, epoch: int) -> Order:
        """The order of an epoch.

        A sample that is drawn again in the same epoch has another view.
        """
        if self.weights is None:
            indices = np.random.default_rng([self.seed, epoch]).permutation(self.count)
            return Order(indices, view_seeds(self.seed, epoch, indices))
        generator = np.random.default_rng([self.seed, epoch, _WEIGHTED])
        indices = generator.choice(self.count, self.count, p=self.weights).astype(np.int64)
        return Order(indices, view_seeds(self.seed, epoch, indices, repeats(indices)))


def repeats(indices: NDArray[np.int64]) -> NDArray[np.int64]:
    """How often the number at each place occurs before it."""
    order = np.argsort(indices, kind="stable")
    sorted_ = indices[order]
    starts = np.searchsorted(sorted_, sorted_)
    made = np.empty(len(indices), np.int64)
    made[order] = np.arange(len(indices)) - starts
    return made


def sampler_of(split: Split, sampling: Sampling, seed: int) -> Sampler:
    """The sampler of a split.

    Args:
        sampling: ``balanced`` draws every class equally often, and weights draw each class in proportion to its own.

    Raises:
        DataError: samples are to be drawn by class and have none, or a class with a weight has no sample.
        UserError: there are fewer weights than classes.
    """
    if sampling == "natural":
        return Sampler(len(split), seed)
    classes = _classes(split)
    counts = np.bincount(classes)
    shares = (counts > 0).astype(np.float64) if sampling == "balanced" else _shares(sampling, counts)
    each = np.divide(shares, counts, out=np.zeros(len(shares)), where=counts > 0)[classes]
    return Sampler(len(split), seed, each / each.sum())


def _shares(weights: Sequence[float], counts: NDArray[np.int64]) -> NDArray[np.float64]:
    if len(weights) < len(counts):
        raise UserError(
            f"`sampling` has {counted(len(weights), 'weight')}, but the training split has the class {len(counts) - 1}",
            "give one weight per class, or `balanced`",
        )
    empty = [
        number for number, weight in enumerate(weights) if weight and not (number < len(counts) and counts[number])
    ]
    if empty:
        raise DataError(
            f"`sampling` gives class {empty[0]} the weight {weights[empty[0]]:g}, and it has no training sample",
            "set its weight to 0, or add samples",
        )
    shares = np.asarray(weights[: len(counts)], np.float64)
    if shares.sum() <= 0:
        raise UserError("`sampling` has no weight above 0", "give at least one class a weight")
    return shares


def _classes(split: Split) -> NDArray[np.int64]:
    known = targets_in_memory(split)
    if known is None:
        parts = [targets for _, targets in batches(split, _COUNTED)]
        known = None if parts[0] is None else np.concatenate([part for part in parts if part is not None])
    if known is None or known.ndim != 1 or known.dtype.kind not in "iub" or (known < 0).any():
        found = (
            "the samples have no targets" if known is None else f"the targets are {known.dtype}{list(known.shape[1:])}"
        )
        raise DataError(f"`sampling` draws samples by their class, and {found}", "set `sampling: natural`")
    return known.astype(np.int64)
