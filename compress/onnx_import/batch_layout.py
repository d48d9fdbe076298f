"""Which axis of each input of an ONNX file is the batch: what the names, the sizes and the samples allow."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ...core.data.model_inputs import laid_out
from ...core.data.sample_axis import BATCH_NAMES
from ...core.tensors import BATCH, Array, TensorSpec


@dataclass(frozen=True)
class Layout:
    """One assignment of the batch.

    Attributes:
        inputs: the inputs with ``batch`` on the batch axis; an axis that is dynamic otherwise keeps its name.
        fixed: the batch size of the file, or None if it is dynamic.
    """

    inputs: tuple[TensorSpec, ...]
    fixed: int | None

    @property
    def axes(self) -> dict[str, int | None]:
        """The batch axis of each input, or None."""
        return {spec.name: spec.shape.index(BATCH) if BATCH in spec.shape else None for spec in self.inputs}

    @property
    def dynamic(self) -> dict[str, dict[int, str]]:
        """The other dynamic axes of each input that has any."""
        found = {
            spec.name: {axis: size for axis, size in enumerate(spec.shape) if isinstance(size, str) and size != BATCH}
            for spec in self.inputs
        }
        return {name: axes for name, axes in found.items() if axes}


def layouts(inputs: Sequence[TensorSpec], samples: Mapping[str, Array]) -> Iterator[Layout]:
    """The layouts that the file and the samples allow, the likely ones first; the last one has no batch.

    Args:
        inputs: with the sizes and the names of the file.
        samples: one array per input, rows first; an input that all samples share may have no rows.
    """
    seen: set[tuple[TensorSpec, ...]] = set()
    tried = (*_named(inputs), *_unnamed(inputs), *_by_samples(inputs, samples), *_of_one_size(inputs, samples))
    found = [layout for layout in tried if _fits(layout, samples)]
    for layout in (*found, *(_merged(layout, samples) for layout in found)):
        layout = _without_ones(layout, samples)
        if layout.inputs not in seen:
            seen.add(layout.inputs)
            yield layout
    free = any(isinstance(size, str) for spec in inputs for size in spec.shape)
    if not free and _has_values(inputs, samples):
        yield Layout(tuple(inputs), None)


def _named(inputs: Sequence[TensorSpec]) -> Iterator[Layout]:
    """Layouts by a name that several inputs may share: names that mean a batch, then the one of the first axis."""
    names = list(dict.fromkeys(size for spec in inputs for size in spec.shape if isinstance(size, str)))
    first = [spec.shape[0] for spec in inputs if spec.shape]
    usual = [name for name in names if name.lower() in BATCH_NAMES]
    shared = [name for name in names if all(name in spec.shape for spec in inputs)]
    for name in (*usual, *(name for name in first if name in shared), *(name for name in first if name in names)):
        specs = [_with_batch(spec, spec.shape.index(name)) if name in spec.shape else spec for spec in inputs]
        yield Layout(tuple(specs), None)


def _unnamed(inputs: Sequence[TensorSpec]) -> Iterator[Layout]:
    """The first axis of every input whose first axis is dynamic, whatever its name is."""
    specs = [_with_batch(spec, 0) if spec.shape and isinstance(spec.shape[0], str) else spec for spec in inputs]
    if any(BATCH in spec.shape for spec in specs):
        yield Layout(tuple(specs), None)


def _by_samples(inputs: Sequence[TensorSpec], samples: Mapping[str, Array]) -> Iterator[Layout]:
    """The first dynamic axis of every input behind which, or around which, the samples have the sizes of the file."""
    found = []
    for spec in inputs:
        shape = samples[spec.name].shape
        places = [
            axis
            for axis, size in enumerate(spec.shape)
            if isinstance(size, str)
            and len(shape) == len(spec.shape)
            and _same((*spec.shape[:axis], *spec.shape[axis + 1 :]), shape[1:])
        ]
        found.append(_with_batch(spec, places[0]) if places else spec)
    if any(BATCH in spec.shape for spec in found):
        yield Layout(tuple(found), None)


def _of_one_size(inputs: Sequence[TensorSpec], samples: Mapping[str, Array]) -> Iterator[Layout]:
    """The axis of every input that has one size: that of the first axis of the first input.

    If all sizes are numbers, it may be that of its second axis.
    Of several such axes it is the one around which the samples have the sizes of the file, else the first one.
    """
    ranked = [spec for spec in inputs if spec.shape]
    fixed = not any(isinstance(size, str) for spec in inputs for size in spec.shape)
    for size in dict.fromkeys(size for spec in ranked[:1] for size in spec.shape[: 2 if fixed else 1]):
        specs = []
        for spec in inputs:
            places = [axis for axis, own in enumerate(spec.shape[:2]) if own == size]
            around = [axis for axis in places if _same(_without(spec.shape, axis), samples[spec.name].shape[1:])]
            specs.append(_with_batch(spec, (around or places)[0]) if places else spec)
        yield Layout(tuple(specs), size if isinstance(size, int) else None)


def _without(shape: Sequence[int | str], axis: int) -> tuple[int | str, ...]:
    return (*shape[:axis], *shape[axis + 1 :])


def _with_batch(spec: TensorSpec, axis: int) -> TensorSpec:
    """The batch on one axis; the same name on another axis is a size of its own."""
    shape = [f"{size}_{place}" if size == spec.shape[axis] and isinstance(size, str) else size
             for place, size in enumerate(spec.shape)]  # fmt: skip
    return replace(spec, shape=(*shape[:axis], BATCH, *shape[axis + 1 :]))


def _fits(layout: Layout, samples: Mapping[str, Array]) -> bool:
    """Whether the samples have the sizes of the file, and the same number of rows for every input with a batch."""
    counts = set()
    for spec in layout.inputs:
        value = samples[spec.name]
        if BATCH in spec.shape:
            axis = spec.shape.index(BATCH)
            rest = (*spec.shape[:axis], *spec.shape[axis + 1 :])
            if np.ndim(value) != len(spec.shape) or not _same(rest, value.shape[1:]):
                return False
            counts.add(len(value))
        elif not any(_same(spec.shape, shape) for shape in (value.shape, value.shape[1:])):
            return False
    return len(counts) == 1


def _same(wanted: Sequence[int | str], sizes: Sequence[int]) -> bool:
    return len(wanted) == len(sizes) and all(isinstance(a, str) or a == b for a, b in zip(wanted, sizes))


def _has_values(inputs: Sequence[TensorSpec], samples: Mapping[str, Array]) -> bool:
    shapes = {spec.name: (np.shape(samples[spec.name]), np.shape(samples[spec.name])[1:]) for spec in inputs}
    return all(any(_same(spec.shape, shape) for shape in shapes[spec.name]) for spec in inputs)


def _sizes(spec: TensorSpec, value: Array) -> tuple[int, ...]:
    """The sizes of the samples in the layout of the input."""
    return np.shape(laid_out(value, spec))


def _without_ones(layout: Layout, samples: Mapping[str, Array]) -> Layout:
    """A dynamic axis of which the samples have one element is fixed: a capture takes a size of 1 for a constant."""
    inputs = []
    for spec in layout.inputs:
        sizes = _sizes(spec, samples[spec.name])
        shape = [1 if size == 1 and axis != BATCH else axis for axis, size in zip(spec.shape, sizes, strict=True)]
        inputs.append(replace(spec, shape=tuple(shape)))
    return replace(layout, inputs=tuple(inputs))


def _merged(layout: Layout, samples: Mapping[str, Array]) -> Layout:
    """Axes of several inputs that have equal sizes in the samples are one axis, such as two images of one height."""
    names: dict[int, str] = {}
    inputs = []
    for spec in layout.inputs:
        sizes = _sizes(spec, samples[spec.name])
        own = {
            size: axis
            for axis, size in zip(spec.shape, sizes, strict=True)
            if isinstance(axis, str) and axis != BATCH and size not in names
        }
        names |= own
        shape = [
            names[size] if isinstance(axis, str) and axis != BATCH and axis not in own.values() else axis
            for axis, size in zip(spec.shape, sizes, strict=True)
        ]
        inputs.append(replace(spec, shape=tuple(shape)))
    return replace(layout, inputs=tuple(inputs))


def fix_axis(layout: Layout, name: str, samples: Mapping[str, Array]) -> Layout:
    """The layout with one dynamic axis fixed to the size of the samples."""
    inputs = []
    for spec in layout.inputs:
        sizes = _sizes(spec, samples[spec.name])
        shape = [size if axis == name else axis for axis, size in zip(spec.shape, sizes, strict=True)]
        inputs.append(replace(spec, shape=tuple(shape)))
    return replace(layout, inputs=tuple(inputs))
