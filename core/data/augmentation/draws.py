"""Random numbers of views: each sample's view has a seed of its own, and each number is a hash of that seed.

So a view depends on nothing but its seed: neither on the other samples of a batch nor on who computes it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Seeds = NDArray[np.uint64]
_GOLDEN = 0x9E3779B97F4A7C15
_FIRST, _SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_PARTNER = 0xA5A5


def hashed(values: Seeds) -> Seeds:
    """The finalizer of SplitMix64 (Steele et al., 2014): every bit of the result depends on every bit of a value."""
    mixed = (values ^ (values >> np.uint64(30))) * _FIRST
    mixed = (mixed ^ (mixed >> np.uint64(27))) * _SECOND
    return mixed ^ (mixed >> np.uint64(31))


def combined(seeds: Seeds, number: int | NDArray[np.int64]) -> Seeds:
    """A further seed of each seed and of a number."""
    step = (np.atleast_1d(np.asarray(number, np.int64)).astype(np.uint64) + np.uint64(1)) * np.uint64(_GOLDEN)
    return hashed(hashed(seeds) + step)


def view_seeds(seed: int, epoch: int, indices: NDArray[np.int64], repeats: NDArray[np.int64] | int = 0) -> Seeds:
    """The seed of the view of each sample.

    Args:
        seed: of the run.
        epoch: number of the epoch, from 0.
        indices: number of each sample in its split.
        repeats: how often the sample was drawn before in this epoch.
    """
    start = combined(combined(np.zeros(1, np.uint64), seed), epoch)
    return combined(combined(np.broadcast_to(start, np.shape(indices)), indices), repeats)


def partner_seeds(seeds: Seeds) -> Seeds:
    """The seed of the view of the sample with which each sample is mixed."""
    return combined(seeds, _PARTNER)


class Draws:
    """The random numbers of one transform for a batch of views; each call gives the next number of every view.

    Args:
        seeds: ``[N]``, of the views.
        stream: number of the transform, so that two transforms draw different numbers.
    """

    def __init__(self, seeds: Seeds, stream: int) -> None:
        self.seeds = combined(seeds, stream)
        self._drawn = 0

    def __len__(self) -> int:
        return len(self.seeds)

    def uniform(self, low: float = 0.0, high: float = 1.0) -> NDArray[np.float64]:
        """``[N]`` numbers from ``low`` to below ``high``."""
        self._drawn += 1
        bits = combined(self.seeds, self._drawn) >> np.uint64(11)
        return low + (high - low) * (bits.astype(np.float64) * 2.0**-53)

    def signed(self, most: float) -> NDArray[np.float64]:
        """``[N]`` numbers from ``-most`` to ``most``."""
        return self.uniform(-most, most)

    def below(self, count: int) -> NDArray[np.int64]:
        """``[N]`` whole numbers from 0 to ``count - 1``."""
        return np.minimum((self.uniform() * count).astype(np.int64), count - 1)

    def chance(self, probability: float) -> NDArray[np.bool_]:
        """``[N]`` decisions, true with the given probability."""
        return self.uniform() < probability

    def beta(self, alpha: float) -> NDArray[np.float64]:
        """``[N]`` numbers of the Beta distribution with two equal parameters."""
        return np.array([generator.beta(alpha, alpha) for generator in self.generators()])

    def generators(self) -> list[np.random.Generator]:
        """A generator of many numbers for each view."""
        self._drawn += 1
        return [np.random.Generator(np.random.PCG64(int(seed))) for seed in combined(self.seeds, self._drawn)]

    def of(self, chosen: NDArray[np.bool_]) -> Draws:
        """The draws of some of the views, which go on where these are."""
        made = Draws.__new__(Draws)
        made.seeds, made._drawn = self.seeds[chosen], self._drawn
        return made
