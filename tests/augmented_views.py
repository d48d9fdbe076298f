"""Small splits and the views that an option `augment` gives of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from retort.core.data.augmentation.draws import view_seeds
from retort.core.data.augmentation.mixing import View
from retort.core.data.augmentation.views import Views, views_of
from retort.core.data.splits import ArraySplit
from retort.core.options.stage_options import TrainOptions
from retort.core.preprocessing.specs import Preprocessing
from retort.core.tensors import Array


def views(
    inputs: Array | dict[str, Array],
    *augment: Any,
    targets: Array | None = None,
    preprocessing: Sequence[Preprocessing] = (),
    tokenizer: bytes = b"",
) -> Views:
    """The views of arrays."""
    named = inputs if isinstance(inputs, dict) else {"x": inputs}
    split = ArraySplit(named, targets)
    return views_of(split, TrainOptions(augment=augment).augment, preprocessing, tokenizer)


def view(source: Views, count: int, epoch: int = 0, seed: int = 1) -> View:
    """The views of the first samples in an epoch."""
    indices = np.arange(count)
    return source.read(indices, view_seeds(seed, epoch, indices))


def read(source: Views, indices: Sequence[int], epoch: int = 0, seed: int = 1) -> View:
    """The views of some samples in an epoch."""
    numbers = np.asarray(indices)
    return source.read(numbers, view_seeds(seed, epoch, numbers))
