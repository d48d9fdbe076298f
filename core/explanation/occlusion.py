"""Copies of a sample without some of its regions, and how much its score falls by that.

Part of the runtime half: standard library and numpy only.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from ..errors import InputError
from ..tensors import Array
from .evaluations import Evaluations, Sample
from .explained_value import Explained
from .input_forms import Form
from .refinement import Region

STEPS = 8
"""Points of the path from the baseline to the sample; even, so that differences forward and backward balance."""


def without(regions: Sequence[Region]) -> dict[str, Array]:
    """The changed inputs of a copy in which the baseline takes the place of regions."""
    copies: dict[str, Array] = {}
    for region in regions:
        array = copies.setdefault(region.form.name, region.form.sample.copy())
        index = region.form.index(region.box)
        array[index] = region.form.baseline[index]
    return copies


def occlusion(regions: Sequence[Region], evaluations: Evaluations, explained: Explained, score: float) -> Array:
    """How much the score falls without each region (Zeiler and Fergus 2014), one evaluation each."""
    return score - evaluations.scores((without([region]) for region in regions), explained)


class Path:
    """The straight path from the baseline to a sample, along which differences are added up.

    As the integrated gradients of Sundararajan et al. 2017, with finite differences of regions in the place of
    gradients; forward and backward differences take turns, so that their first errors cancel.

    Raises:
        InputError: an input of whole numbers has nothing between the baseline and the sample.
    """

    def __init__(self, forms: Sequence[Form], evaluations: Evaluations, explained: Explained) -> None:
        whole = [form for form in forms if form.sample.dtype.kind != "f"]
        if whole:
            message = f"integrated differences need numbers between two values, which '{whole[0].name}' does not have"
            raise InputError(message, "use the method occlusion")
        self.points: list[Sample] = [
            {form.name: _between(form, step / STEPS) for form in forms} for step in range(STEPS + 1)
        ]
        self.evaluations, self.explained = evaluations, explained
        self.scores = evaluations.scores(self.points, explained)

    def effects(self, regions: Sequence[Region]) -> Array:
        """The integrated difference of each region; :data:`STEPS` evaluations each."""
        found = self.evaluations.scores(self._copies(regions), self.explained).reshape(len(regions), STEPS)
        forward = found[:, 0::2] - self.scores[0:-1:2]
        backward = self.scores[2::2] - found[:, 1::2]
        return np.asarray((forward + backward).sum(axis=1))

    def _copies(self, regions: Sequence[Region]) -> Iterator[Sample]:
        for region in regions:
            index = region.form.index(region.box)
            for step in range(STEPS):
                at, other = (step, step + 1) if step % 2 == 0 else (step + 1, step)
                copy = self.points[at][region.form.name].copy()
                copy[index] = self.points[other][region.form.name][index]
                yield {**self.points[at], region.form.name: copy}


def _between(form: Form, share: float) -> Array:
    """The point of the path; its cells that are not explained are those of the sample."""
    point = form.sample.copy()
    index = form.index(form.whole)
    point[index] = form.baseline[index] + share * (form.sample[index] - form.baseline[index])
    return point
