"""Arrays in the layout of a model whose batch is not on axis 0 (sequences with time first), as samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ..tensors import BATCH, Array, TensorSpec

BATCH_NAMES = ("batch", "batch_size", "batchsize", "n", "b", "bs", "num_batch", "batch_dim", "n_batch", "batch_axis")
"""Names of axes, in lower case, that mean the batch."""


def rows_first(inputs: Mapping[str, Array], specs: Sequence[TensorSpec]) -> dict[str, Array]:
    """Arrays with the samples on axis 0, for arrays in the layout of a model whose batch is on another axis.

    Arrays that fit with the samples on axis 0, or in neither layout, are returned as they are. The value of an input
    without a batch, which all samples share, is repeated for every sample.

    Args:
        inputs: by name.
        specs: the inputs of the model; the batch is ``batch``, or else an axis with a usual name that all inputs share.
    """
    given = [spec for spec in specs if spec.name in inputs]
    free = dict.fromkeys(size for spec in given for size in spec.shape if isinstance(size, str))
    names = [BATCH] if BATCH in free else [name for name in free if name.lower() in BATCH_NAMES]
    for name in names:
        axes = {spec.name: spec.shape.index(name) for spec in given if name in spec.shape}
        own = [spec for spec in given if spec.name in axes]
        if name == BATCH or len(own) == len(given):
            first = dict.fromkeys(axes, 0)
            turned = not _fits(inputs, own, axes, first) and _fits(inputs, own, axes, axes)
            return as_samples(inputs, given, axes if turned else first)
    return dict(inputs)


def as_samples(inputs: Mapping[str, Array], specs: Sequence[TensorSpec], axes: Mapping[str, int]) -> dict[str, Array]:
    """Arrays with the samples on axis 0.

    Args:
        inputs: by name.
        specs: the inputs of the model.
        axes: the axis of the samples in arrays that have one; other values are repeated for every sample.
    """
    found = {name: np.moveaxis(array, axes[name], 0) if axes.get(name) else array for name, array in inputs.items()}
    counts = {np.shape(found[name])[0] for name in axes if np.ndim(found[name])}
    for spec in specs if len(counts) == 1 else ():
        value = found[spec.name]
        if spec.name not in axes and np.ndim(value) == len(spec.shape):
            found[spec.name] = np.broadcast_to(value, (*counts, *np.shape(value)))
    return found


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
