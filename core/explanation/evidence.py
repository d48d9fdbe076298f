"""Whether an explanation says more than chance: the deletion curve, and the reasons to doubt.

Part of the runtime half: standard library and numpy only.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ..tensors import Array
from .evaluations import Evaluations
from .explained_value import Explained
from .explanation import Deletion
from .occlusion import without
from .refinement import Leaf, Region

ORDERS = 3
"""Random orders with which the order of the attributions is compared."""
LEAST_PROBABILITY = 0.05
"""A change of the probability of a class below which nothing is explained; untrained models stay below it."""
LEAST_SHARE = 1e-4
"""A change of a value, as a share of the value, that is no more than the noise of its computation."""


@dataclass(frozen=True)
class Verdict:
    """Whether there is evidence; if not, why."""

    evidence: bool
    reason: str = ""


def deletion_curve(
    leaves: Sequence[Leaf], evaluations: Evaluations, explained: Explained, ends: tuple[float, float], affordable: int
) -> Deletion:
    """Delete the sample by attribution and in random orders, and compute the score after each step.

    Args:
        ends: the scores of the sample and of the baseline.
        affordable: number of evaluations.
    """
    cells = sum(leaf.region.cells for leaf in leaves)
    ordered = [leaf.region for leaf in sorted(leaves, key=lambda leaf: -leaf.value / leaf.region.cells)]
    steps = max(1, affordable // (ORDERS + 1))
    counts = _counts(len(leaves), steps)
    shares = [sum(region.cells for region in ordered[:count]) / cells for count in counts]
    scores = evaluations.scores((without(ordered[:count]) for count in counts), explained)
    random = np.random.default_rng(0)
    orders = [[ordered[at] for at in random.permutation(len(ordered))] for _ in range(ORDERS)]
    copies = (copy for order in orders for copy in _deleted(order, shares, cells))
    others = evaluations.scores(copies, explained).reshape(ORDERS, len(counts))
    gain = float(others.mean(axis=1).min() - scores.mean()) if counts else 0.0
    random_scores = others.mean(axis=0).tolist()
    return Deletion((0.0, *shares, 1.0), (ends[0], *scores.tolist(), ends[1]), (ends[0], *random_scores, ends[1]), gain)


def _counts(leaves: int, steps: int) -> list[int]:
    """Numbers of deleted regions: first few, then twice as many each time."""
    spaced = np.geomspace(1, max(1, leaves - 1), steps)
    return sorted({round(count) for count in spaced} if leaves > 1 else set())


def _deleted(order: Sequence[Region], shares: Sequence[float], cells: int) -> Iterator[dict[str, Array]]:
    sizes = np.cumsum([region.cells for region in order])
    for share in shares:
        yield without(order[: int(np.searchsorted(sizes, share * cells - 1e-9)) + 1])


def judge(explained: Explained, seen: Array, deletion: Deletion) -> Verdict:
    """Whether the attributions are more than chance.

    Args:
        seen: all scores that were computed, the one of the sample first.
    """
    chances = explained.probabilities(seen)
    if chances is not None:
        change = float(np.abs(chances - chances[0]).max())
        if change < LEAST_PROBABILITY:
            kept = f"changes the probability by no more than {change:.2g}"
            return Verdict(False, f"removing any part of the sample, or all of it, {kept}")
    elif float(np.abs(seen - seen[0]).max()) <= LEAST_SHARE * max(1e-12, abs(float(seen[0]))):
        return Verdict(False, "removing any part of the sample, or all of it, does not change the score")
    if len(deletion.shares) > 2 and deletion.gain <= 0:
        reason = "the score falls no faster when parts are deleted by their attribution than in a random order"
        return Verdict(False, reason)
    return Verdict(True)
