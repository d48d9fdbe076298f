"""Files of installed packages, without an import of the packages, which would need their dependencies."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Array = NDArray[np.float32]
Outputs = dict[str, NDArray[np.float32]]
Scores = tuple[Floats, Floats]
"""Of each sample, what is right and of how much; the metric is the ratio of the two sums over the samples."""


def package_folder(module: str, distribution: str) -> Path:
    """The folder of a package.

    Args:
        module: name by which it is imported.
        distribution: name by which it is installed.

    Raises:
        ModuleNotFoundError: it is not installed; the message is the command that installs it.
    """
    found = find_spec(module)
    if found is None or found.origin is None:
        raise ModuleNotFoundError(f"{distribution} is not there: pip install --no-deps {distribution}", name=module)
    return Path(found.origin).parent


def draws(counts: Mapping[str, int], split: str) -> Iterator[np.random.Generator]:
    """A source of random numbers for each sample of a split, which no other sample of any split shares."""
    place = sorted(counts).index(split)
    return (np.random.default_rng((place, index)) for index in range(counts[split]))


def each(right: NDArray[np.bool_]) -> Scores:
    """Scores of samples that are right or wrong as a whole."""
    return right.astype(np.float64), np.ones(len(right))


def weighted_mean(values: Floats) -> tuple[int, Callable[[Floats], Floats]]:
    """The number of samples N, and the mean of their values ``[B]`` for weights of the samples ``[B, N]``."""
    return len(values), lambda weights: (weights @ values) / weights.sum(1)
