"""Attributions from coarse to fine: regions of a sample, of which the weightiest are divided again and again.

Part of the runtime half: standard library and numpy only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ..tensors import Array
from .input_forms import Box, Form

Effects = Callable[[Sequence["Region"]], Array]
_SPREAD = 0.05
"""Effects that together are below this share of what they are parts of tell little about its division."""


@dataclass(frozen=True)
class Region:
    """A box of cells of one input."""

    form: Form
    box: Box

    @property
    def cells(self) -> int:
        """Number of its cells."""
        return math.prod(stop - start for start, stop in self.box)

    def halves(self) -> list[Region]:
        """Two regions, divided in the middle of the longest axis; itself if it is one cell."""
        sides = [stop - start for start, stop in self.box]
        if max(sides, default=1) < 2:
            return [self]
        axis = sides.index(max(sides))
        start, stop = self.box[axis]
        middle = (start + stop) // 2
        parts = ((start, middle), (middle, stop))
        return [Region(self.form, (*self.box[:axis], part, *self.box[axis + 1 :])) for part in parts]


@dataclass(frozen=True)
class Leaf:
    """A region that is not divided further, with its share in the score."""

    region: Region
    value: float


def start_regions(forms: Sequence[Form], count: int) -> list[Region]:
    """About ``count`` regions that cover all inputs; words are regions where they are known."""
    cells = sum(form.cells for form in forms)
    found: list[Region] = []
    for form in forms:
        share = max(1, round(count * form.cells / max(1, cells)))
        found += _words(form) if 1 < len(form.words) <= share else _grid(form, share)
    return found


def _words(form: Form) -> list[Region]:
    starts = [0, *form.words[1:]]
    return [Region(form, ((start, stop),)) for start, stop in zip(starts, [*starts[1:], *form.used], strict=True)]


def _grid(form: Form, count: int) -> list[Region]:
    """Halves of halves, as many as fit; single cells if they fit."""
    if form.cells <= count:
        return [Region(form, box) for box in _single(form)]
    found = [Region(form, form.whole)]
    while 2 * len(found) <= count:
        found = [half for region in found for half in region.halves()]
    return found


def _single(form: Form) -> list[Box]:
    return [tuple((i, i + 1) for i in index) for index in np.ndindex(*form.used)]


def attribute(start: Sequence[Region], effects: Effects, total: float, affordable: int) -> list[Leaf]:
    """The shares of regions in ``total``, which they add up to.

    Parts get their own effects, plus what is left of the whole in proportion to their size: parts that matter only
    together, or that replace each other, share it. Where the effects are nearly nothing, it is spread evenly.

    Args:
        start: regions that cover the sample.
        effects: how much the score falls without each region.
        total: the score minus that of the baseline.
        affordable: number of regions that may be measured, those of ``start`` included.
    """
    leaves = divided(start, effects(start), total)
    left = affordable - len(start)
    while left >= 2:
        order = sorted(range(len(leaves)), key=lambda at: -_priority(leaves[at]))
        chosen = [at for at in order if leaves[at].region.cells > 1 and leaves[at].value][: max(1, left // 8)]
        if not chosen:
            break
        parts = {at: leaves[at].region.halves() for at in chosen}
        found = iter(effects([half for at in chosen for half in parts[at]]).tolist())
        left -= 2 * len(chosen)
        kept = [leaf for at, leaf in enumerate(leaves) if at not in parts]
        for at in chosen:
            kept += divided(parts[at], np.array([next(found) for _ in parts[at]]), leaves[at].value)
        leaves = kept
    return leaves


def _priority(leaf: Leaf) -> float:
    """Weight of a region; large ones are divided before small ones of the same weight."""
    return abs(leaf.value) * math.sqrt(leaf.region.cells) if leaf.region.cells > 1 else -1.0


def divided(parts: Sequence[Region], effects: Array, total: float) -> list[Leaf]:
    """The shares of parts in what they make together."""
    sizes = np.array([part.cells for part in parts], np.float64)
    strength = np.abs(effects)
    weights = strength + max(0.0, _SPREAD * abs(total) - strength.sum()) * sizes / sizes.sum()
    rest = total - effects.sum()
    shares = effects + (rest * weights / weights.sum() if weights.sum() > 0 else rest * sizes / sizes.sum())
    return [Leaf(part, float(share)) for part, share in zip(parts, shares, strict=True)]


def heatmap(form: Form, leaves: Sequence[Leaf]) -> Array:
    """The share of each cell of an input as float64; the cells of a region have equal shares."""
    values = form.empty
    for leaf in leaves:
        if leaf.region.form is form:
            index = tuple(slice(start, stop) for start, stop in leaf.region.box)
            values[index] = leaf.value / max(1, leaf.region.cells)
    return values
