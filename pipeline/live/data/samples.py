"""Loaders, datasets and iterables converted to splits: in memory if they fit, else read sample by sample."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from ....core.data.array_splits import array_split
from ....core.data.sample_axis import rows_first
from ....core.data.splits import ArraySplit, Batch, Split, check_finite
from ....core.errors import DataError
from ....core.signature import Signature
from ....core.tensors import Array
from .feeds import as_numpy, is_array, taken_apart

LIMIT_BYTES = 4 << 30
"""Largest number of bytes that are read into memory from a loader or an iterable."""

PROBES = 1024
_READ: WeakKeyDictionary[Any, Split] = WeakKeyDictionary()
"""Samples of iterators, which can be read only once."""


@dataclass(frozen=True)
class SampleSplit:
    """A split over a map-style dataset that is read sample by sample on every access, so augmentation stays random.

    Attributes:
        fetch: returns the sample at an index.
        count: number of samples.
        join: makes one batch of inputs and targets from samples.
    """

    fetch: Callable[[int], Any]
    count: int
    join: Callable[[list[Any]], Batch]

    def __len__(self) -> int:
        return self.count

    def read(self, indices: Sequence[int] | NDArray[np.integer[Any]]) -> Batch:
        """See :meth:`retort.core.data.splits.Split.read`."""
        return self.join([self.fetch(int(index)) for index in indices])

    def fingerprint(self) -> str:
        """Hash of the number of samples and of 1024 of them, evenly spread."""
        digest = hashlib.sha256(str(self.count).encode())
        for index in np.linspace(0, self.count - 1, num=min(self.count, PROBES)).astype(int):
            digest.update(ArraySplit(*self.read([int(index)])).fingerprint().encode())
        return digest.hexdigest()


@dataclass(frozen=True)
class Reader:
    """Reads one set of samples in any form for a model.

    Attributes:
        signature: signature of the model, which distinguishes inputs from targets and samples from batches.
    """

    signature: Signature

    def read(self, data: Any, where: str) -> Split:
        """The samples as a split.

        Raises:
            DataError: the data are not samples, are empty, are too large for memory, or do not fit the model.
        """
        if hasattr(data, "read") and hasattr(data, "fingerprint"):
            split: Split = data
        elif _is_whole(data, len(self.signature.inputs)):
            split = self._joined([self._checked(data, where)], where)
        elif hasattr(data, "dataset") and hasattr(data, "collate_fn"):
            split = self._loader(data, where)
        elif hasattr(data, "__getitem__") and hasattr(data, "__len__") and not isinstance(data, Mapping | list | tuple):
            split = self._dataset(data, where)
        elif isinstance(data, Iterable) and not isinstance(data, Mapping):
            split = self._iterable(data, where)
        else:
            raise _no_samples(data, where)
        if len(split) == 0:
            raise DataError(f"{where} is empty", "give at least one sample")
        return split

    def _loader(self, loader: Any, where: str) -> Split:
        """A loader in memory; above the limit it is read sample by sample if its dataset can be indexed."""
        dataset, sampler = loader.dataset, getattr(loader, "sampler", None)
        indexed = hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")
        batches = _within(LIMIT_BYTES, self._batches(loader, where))
        if batches is None and indexed:
            order = list(range(len(dataset)) if sampler is None else sampler)
            return SampleSplit(
                lambda i: dataset[order[i]], len(order), lambda items: self._arrays(loader.collate_fn(items), where)
            )
        found = self._joined(batches, where)
        return found if type(sampler).__name__ == "SequentialSampler" or not indexed else _sorted(found)

    def _dataset(self, dataset: Any, where: str) -> Split:
        if len(dataset) == 0:
            raise DataError(f"{where} is empty", "give at least one sample")
        if self._is_batch(self._parts(dataset[0], f"{where}[0]")[0], where):
            batches = (self._arrays(dataset[i], f"{where}[{i}]") for i in range(len(dataset)))
            return self._joined(_within(LIMIT_BYTES, batches), where)
        return SampleSplit(dataset.__getitem__, len(dataset), lambda items: self._stacked(items, where))

    def _iterable(self, data: Iterable[Any], where: str) -> Split:
        known = _seen(data)
        if known is not None:
            return known
        split = self._joined(_within(LIMIT_BYTES, self._batches(data, where)), where)
        if iter(data) is data:
            _keep(data, split)
        return split

    def _batches(self, data: Iterable[Any], where: str) -> Iterator[Batch]:
        for index, item in enumerate(data):
            label = f"batch {index} of {where}"
            inputs, _ = self._parts(item, label)
            yield self._arrays(item, label) if self._is_batch(inputs, where) else self._stacked([item], label)

    def _checked(self, data: Any, where: str) -> Batch:
        if not self._is_batch(self._parts(data, where)[0], where):
            shape = self.signature.inputs[0].describe()
            raise DataError(f"{where} is a single sample without the batch axis of {shape}", "give a batch: x[None]")
        return self._arrays(data, where)

    def _parts(self, item: Any, where: str) -> tuple[dict[str, Any], Any]:
        return taken_apart(item, [spec.name for spec in self.signature.inputs], where)

    def _arrays(self, batch: Any, where: str) -> Batch:
        inputs, targets = self._parts(batch, where)
        arrays = rows_first({k: as_numpy(v) for k, v in inputs.items()}, self.signature.inputs)
        return arrays, None if targets is None else as_numpy(targets)

    def _stacked(self, samples: list[Any], where: str) -> Batch:
        parts = [self._arrays(sample, where) for sample in samples]
        inputs = {name: _stack([part[0][name] for part in parts], name, where) for name in parts[0][0]}
        given = [part[1] for part in parts if part[1] is not None]
        split = array_split(inputs, _stack(given, "targets", where) if given else None, where)
        return split.inputs, split.targets

    def _is_batch(self, inputs: Mapping[str, Any], where: str) -> bool:
        """Whether values have a batch axis, according to the ranks of the signature.

        Numbers without axes, which all samples share, do not tell.
        """
        ranked = [spec for spec in self.signature.inputs if spec.shape]
        for spec in ranked or self.signature.inputs:
            rank = np.ndim(as_numpy(inputs[spec.name]))
            if rank in (len(spec.shape), len(spec.shape) - 1):
                return rank == len(spec.shape)
            shape = list(np.shape(as_numpy(inputs[spec.name])))
            raise DataError(
                f"{where} contains values of shape {shape} for the input {spec.describe()}",
                "give batches or samples that fit the input",
            )
        return True

    def _joined(self, parts: list[Batch] | None, where: str) -> ArraySplit:
        if parts is None:
            raise DataError(
                f"{where} is larger than {LIMIT_BYTES >> 30} GiB, the limit for data in memory",
                "give a map-style Dataset, which is read sample by sample, or fewer batches",
            )
        if not parts:
            raise DataError(
                f"{where} returned no batch",
                "check its length and `drop_last`; a generator is read only once",
            )
        unlabelled = [targets is None for _, targets in parts]
        if any(unlabelled) and not all(unlabelled):
            raise DataError(
                f"{where}: some batches have targets and some have none", "give targets for all batches or for none"
            )
        inputs = {name: _chain([part[0][name] for part in parts], name, where) for name in parts[0][0]}
        targets = None if any(unlabelled) else _chain([part[1] for part in parts], "targets", where)
        split = array_split(inputs, targets, where)
        check_finite(split.inputs, where)
        return split


def _within(limit_bytes: int, batches: Iterable[Batch]) -> list[Batch] | None:
    """All batches; None if they need more memory than the limit."""
    parts, held = [], 0
    for inputs, targets in batches:
        parts.append((inputs, targets))
        held += sum(array.nbytes for array in inputs.values())
        if held > limit_bytes:
            return None
    return parts


def _no_samples(data: Any, where: str) -> DataError:
    if isinstance(data, Mapping) and data:
        name = next(key for key, value in data.items() if not (is_array(value) or isinstance(value, list)))
        kind = type(data[name]).__name__
        return DataError(
            f"{where}['{name}'] is of type {kind}, not an array of samples",
            "give one array per input; a value that is always the same belongs into the model, not into its inputs",
        )
    return DataError(f"{where} is of type {type(data).__name__}, not samples", "give a DataLoader, a Dataset or arrays")


def _is_whole(data: Any, inputs: int) -> bool:
    """Whether data are one large batch: an array, a mapping of arrays, or a tuple of inputs and targets."""
    if is_array(data):
        return True
    if isinstance(data, Mapping):
        return bool(data) and all(is_array(value) or isinstance(value, list) for value in data.values())
    if isinstance(data, tuple) and data and all(map(is_array, data)):
        return True
    if not isinstance(data, tuple | list) or len(data) not in (inputs, inputs + 1, 2):
        return False
    first_is_whole = is_array(data[0]) or (isinstance(data[0], Mapping | tuple) and _is_whole(data[0], inputs))
    return first_is_whole and (len(data) == 1 or is_array(data[-1])) and not _alike(data, inputs)


def _alike(parts: Sequence[Any], inputs: int) -> bool:
    """Whether a list contains batches of one input and not one input and its targets."""
    if not isinstance(parts, list) or inputs > 1 or not all(map(is_array, parts)) or len(parts) < 2:
        return False
    return len({(part.ndim, str(part.dtype), tuple(part.shape[1:])) for part in parts}) == 1 and parts[0].ndim > 1


def _stack(values: list[Array], name: str, where: str) -> Array:
    shapes = sorted({value.shape for value in values})
    if len(shapes) > 1:
        raise _uneven(name, where, shapes)
    return np.stack(values)


def _chain(values: list[Any], name: str, where: str) -> Array:
    shapes = sorted({value.shape[1:] for value in values})
    if len(shapes) > 1:
        raise _uneven(name, where, shapes)
    joined: Array = values[0] if len(values) == 1 else np.concatenate(values)
    return joined


def _uneven(name: str, where: str, shapes: list[tuple[int, ...]]) -> DataError:
    shown = " and ".join(str(list(shape)) for shape in shapes[:3])
    return DataError(
        f"{where}: samples of '{name}' differ in shape: {shown}",
        "make their shapes equal; pad texts to one length (`padding='max_length'` of a tokenizer)",
    )


def _sorted(split: ArraySplit) -> ArraySplit:
    """The samples in a canonical order, so that a shuffled loader has the same identity."""
    arrays = [*split.inputs.values(), *([] if split.targets is None else [split.targets])]
    keys = []
    for row in range(len(split)):
        digest = hashlib.blake2b(digest_size=16)
        for array in arrays:
            digest.update(np.ascontiguousarray(array[row]).tobytes())
        keys.append(digest.digest())
    order = sorted(range(len(keys)), key=keys.__getitem__)
    return ArraySplit(*split.read(order))


def _seen(data: Any) -> Split | None:
    try:
        return _READ.get(data)
    except TypeError:  # weak references to it are not possible
        return None


def _keep(data: Any, split: Split) -> None:
    with suppress(TypeError):  # weak references to it are not possible
        _READ[data] = split
