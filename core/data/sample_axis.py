"""Arrays in the layout of a model whose batch is not on axis 0 (sequences with time first), as samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ..tensors import BATCH, Array, TensorSpec

BATCH_NAMES = ("batch", "batch_size", "batchsize", "n", "b", "bs", "num_batch", "batch_dim", "n_batch", "batch_axis")
"""Names of axes, in lower case, that mean the batch."""


def rows_first(inputs: Mapping[str, Array], specs: Sequence[TensorSpec]) -> dict[str, Array]:
    """Arrays with the samples on axis 0, for arrays in the layout of a model whose batch is on another axis.

    Arrays that fit with the samples on axis 0, or in neither layout, are returned as they are.

    Args:
        inputs: by name.
        specs: the inputs of the model; the batch is ``batch``, or else an axis with a usual name that
            all of them share.
    """
    specs = [spec for spec in specs if spec.name in inputs and spec.shape]
    free = dict.fromkeys(size for spec in specs for size in spec.shape if isinstance(size, str))
    names = [BATCH] if BATCH in free else [name for name in free if name.lower() in BATCH_NAMES]
    places = [{spec.name: spec.shape.index(name) for spec in specs if name in spec.shape} for name in names]
    places = [axes for axes in places if len(axes) == len(specs)]
    if any(_fits(inputs, specs, axes, dict.fromkeys(axes, 0)) for axes in places):
        return dict(inputs)
    own = [axes for axes in places if any(axes.values()) and _fits(inputs, specs, axes, axes)]
    turned = own[0] if len(own) == 1 else {}
    return {name: np.moveaxis(array, turned.get(name, 0), 0) for name, array in inputs.items()}


def _fits(
    inputs: Mapping[str, Array], specs: Sequence[TensorSpec], batch: Mapping[str, int], given: Mapping[str, int]
) -> bool:
    """Whether arrays whose samples are on the given axes have one number of samples, and the fixed sizes of the model.

    Args:
        batch: the batch axis of each input of the model.
        given: the axis of the samples of each array.
    """
    counts = set()
    for spec in specs:
        shape, at, axis = np.shape(inputs[spec.name]), given[spec.name], batch[spec.name]
        if len(shape) != len(spec.shape):
            return False
        counts.add(shape[at])
        wanted = (*spec.shape[:axis], *spec.shape[axis + 1 :])
        sizes = (*shape[:at], *shape[at + 1 :])
        if any(isinstance(want, int) and want != size for want, size in zip(wanted, sizes, strict=True)):
            return False
    return len(counts) == 1
