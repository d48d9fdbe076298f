"""Views of a split: its samples as the transforms change them, read by sample number and by the seed of each view."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...options.augment_options import Step
from ...options.metric_names import Task
from ...preprocessing.specs import Preprocessing
from ...tensors import BATCH, Array, TensorSpec
from ..splits import Split
from .augmentation import Augmentation
from .checks import augmentation_of
from .draws import Seeds, partner_seeds
from .mixing import View, combined_views

Numbers = NDArray[np.integer[Any]]
PROBED = 256
"""Number of training samples from which the range of values is taken where no description of the data says it."""


@dataclass(frozen=True)
class Views:
    """The views of a split. The same numbers and seeds give the same views, whoever reads them with which others.

    Attributes:
        split: the samples.
        augmentation: None gives the samples as they are.
        specs: the inputs of a model, which say on which axis samples lie; empty if they lie on axis 0.
    """

    split: Split
    augmentation: Augmentation | None = None
    specs: tuple[TensorSpec, ...] = ()

    def read(self, indices: Numbers, seeds: Seeds) -> View:
        """The views of some samples.

        Args:
            indices: numbers of samples in the split; a sample may occur more than once.
            seeds: ``uint64[N]``, of :func:`retort.core.data.augmentation.draws.view_seeds`.
        """
        change = self.augmentation
        if change is None:
            return View(*self.split.read(indices))
        view = self._plain(change, indices, seeds)
        if change.mixing:
            rows = change.mixing.rows(seeds)
            numbers = change.mixing.partners(seeds[rows], len(self.split))
            others = self._plain(change, numbers, partner_seeds(seeds[rows])) if len(rows) else view
            view = combined_views(change.mixing, view, others, change.forms, seeds, change.follows == "mask")
        laid_out = {name: np.moveaxis(array, 0, self._axis(name)) for name, array in view.inputs.items()}
        return replace(view, inputs=laid_out)

    def _plain(self, change: Augmentation, indices: Numbers, seeds: Seeds) -> View:
        """The views before samples are mixed, with the samples on axis 0."""
        inputs, targets = self.split.read(indices)
        return View(*change.apply(self._rows_first(inputs), targets, seeds))

    def _rows_first(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        return {name: np.moveaxis(array, self._axis(name), 0) for name, array in inputs.items()}

    def _axis(self, name: str) -> int:
        shapes = {spec.name: spec.shape for spec in self.specs}
        return shapes[name].index(BATCH) if BATCH in shapes.get(name, ()) else 0


def views_of(
    split: Split,
    steps: Sequence[Step],
    preprocessing: Sequence[Preprocessing] = (),
    tokenizer: bytes = b"",
    specs: tuple[TensorSpec, ...] = (),
    task: Task | None = None,
) -> Views:
    """The views of a training split.

    Args:
        steps: the option ``augment``; none gives the samples as they are.
        preprocessing: how pictures, texts and recordings become inputs.
        tokenizer: the file of the tokenizer of texts.
        specs: see :class:`Views`.
        task: what the targets are for; the boxes of detection move with the images.

    Raises:
        UserError: a transform is made for no input, or lacks what it needs.
    """
    plain = Views(split, None, specs)
    if not steps:
        return plain
    example, targets = split.read(_spread(len(split), 2))
    described = {name for spec in preprocessing for name in spec.inputs}
    if any(name not in described and values.dtype.kind == "f" for name, values in example.items()):
        example, targets = split.read(_spread(len(split), PROBED))
    made = augmentation_of(steps, plain._rows_first(example), targets, preprocessing, tokenizer, task)
    return replace(plain, augmentation=made)


def _spread(count: int, most: int) -> NDArray[np.int64]:
    """Numbers of samples from everywhere in a split: the first ones may all be of one class."""
    return np.unique(np.linspace(0, count - 1, min(most, count)).astype(np.int64))
