"""Splits: train, validation, calibration and test. They are read in batches, so no set has to fit into memory."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError, RetortError
from ..faults import first_line
from ..preprocessing.fitting import completed
from ..preprocessing.specs import Preprocessing
from ..signature import Signature
from ..tensors import Array, to_array
from .target_rows import is_list, stacked_targets

Sample = tuple[dict[str, Array], Array | None]
Batch = tuple[dict[str, Array], Array | None]
FEATURES = "features"
"""The input that the columns of a table make."""
TRAIN, VALIDATION, TEST, CALIBRATION = "train", "validation", "test", "calibration"
NAMES = (TRAIN, VALIDATION, CALIBRATION, TEST)
ALIASES = {"val": VALIDATION, "valid": VALIDATION, "dev": VALIDATION, "calib": CALIBRATION}
"""Other names of splits that data may use."""


class Split(Protocol):
    """Samples that can be read by index."""

    def __len__(self) -> int:
        """Number of samples."""
        ...

    def read(self, indices: Sequence[int] | NDArray[np.integer[Any]]) -> Batch:
        """Read the samples at ``indices``: one array per model input with a leading batch axis, and the targets.

        Targets are ``int64[N]`` class indices, or ``float32[N, …]`` values for regression, or None.
        """
        ...

    def fingerprint(self) -> str:
        """A hash that changes when the samples change."""
        ...


@dataclass(frozen=True)
class ArraySplit:
    """A split held in memory.

    Attributes:
        inputs: one array per model input, all of the same length.
        targets: class indices or values of that length, or None if the samples have no targets.
    """

    inputs: dict[str, Array]
    targets: Array | None = None

    def __len__(self) -> int:
        return len(next(iter(self.inputs.values())))

    def read(self, indices: Sequence[int] | NDArray[np.integer[Any]]) -> Batch:
        """See :meth:`Split.read`."""
        chosen = np.asarray(indices)
        inputs = {name: array[chosen] for name, array in self.inputs.items()}
        return inputs, None if self.targets is None else self.targets[chosen]

    def fingerprint(self) -> str:
        """Hash of names, shapes, dtypes and bytes."""
        digest = hashlib.sha256()
        arrays = [*sorted(self.inputs.items()), *([("", self.targets)] if self.targets is not None else [])]
        for name, array in arrays:
            digest.update(f"{name}|{array.dtype}|{array.shape}|".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()


@dataclass(frozen=True)
class SequenceSplit:
    """A split over a map-style dataset: ``dataset[i]`` is ``(input, target)``, ``(inputs, target)`` or an input.

    Attributes:
        name: name of the input if samples are single arrays.
        identity: text that represents the content in :meth:`fingerprint`.
    """

    dataset: Any
    name: str
    identity: str

    def __len__(self) -> int:
        return len(self.dataset)

    def read(self, indices: Sequence[int] | NDArray[np.integer[Any]]) -> Batch:
        """See :meth:`Split.read`.

        Raises:
            DataError: the dataset raised an exception, or a sample is unlike those that are read with it. The message
                has the number of the sample.
        """
        numbers = [int(index) for index in indices]
        samples = [self._read(number) for number in numbers]
        for number, sample in zip(numbers, samples, strict=True):
            _require_alike(sample, number, samples[0], numbers[0])
        inputs = {name: np.stack([sample[0][name] for sample in samples]) for name in samples[0][0]}
        targets = [sample[1] for sample in samples]
        given = [target for target in targets if target is not None]
        return inputs, stacked_targets(given) if given else None

    def _read(self, number: int) -> Sample:
        try:
            return _sample(self.dataset[number], self.name)
        except RetortError:
            raise
        except Exception as error:  # the user's dataset may raise anything
            raise DataError(
                f"sample {number} of the dataset cannot be read: {type(error).__name__}: {first_line(error)}",
                "correct it in the dataset, or leave this sample out",
            ) from error

    def fingerprint(self) -> str:
        """Hash of the identity, the length and a few samples."""
        digest = hashlib.sha256(f"{self.identity}|{len(self)}".encode())
        probe = np.linspace(0, len(self) - 1, num=min(len(self), 16)).astype(int)
        digest.update(as_arrays(self, probe).fingerprint().encode())
        return digest.hexdigest()


@dataclass(frozen=True)
class Subset:
    """A selection of the samples of another split, by index."""

    parent: Split
    indices: NDArray[np.integer[Any]]

    def __len__(self) -> int:
        return len(self.indices)

    def read(self, indices: Sequence[int] | NDArray[np.integer[Any]]) -> Batch:
        """See :meth:`Split.read`."""
        return self.parent.read(self.indices[np.asarray(indices)])

    def fingerprint(self) -> str:
        """Hash of the parent and the indices."""
        return hashlib.sha256(self.parent.fingerprint().encode() + self.indices.tobytes()).hexdigest()


Named = dict[str, Split]
"""Splits by name; a source need not have all of them."""


@dataclass(frozen=True)
class Splits:
    """The four splits. No sample belongs to two of train, validation and test.

    Attributes:
        classes: names of the classes, in index order; empty for regression.
        symbols: characters of texts in the order of their numbers; empty for other data.
        features: names of the columns of a table that are features, in order; empty for other data.
        preprocessing: how pictures, texts and recordings become inputs; empty for other data.
        tokenizer: the file of the tokenizer of texts, empty without one.
    """

    train: Split
    validation: Split
    calibration: Split
    test: Split
    classes: tuple[str, ...] = ()
    symbols: tuple[str, ...] = ()
    features: tuple[str, ...] = ()
    preprocessing: tuple[Preprocessing, ...] = ()
    tokenizer: bytes = b""

    def describing(self, signature: Signature) -> Signature:
        """The signature of a model with names of classes and what else describes data, where it has none that fits."""
        return completed(signature.naming(self.classes), self)

    def fingerprint(self) -> str:
        """A hash that changes when any split changes; it is computed once."""
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        parts = (self.train, self.validation, self.calibration, self.test)
        text = "|".join([*(part.fingerprint() for part in parts), *self.classes])
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def judging(self) -> Split:
        """The split on which decisions are based: validation, or calibration if there is no validation split."""
        return self.validation if len(self.validation) else self.calibration

    def example(self, rows: int = 2) -> dict[str, Array]:
        """The inputs of the first ``rows`` training samples."""
        return self.train.read(range(min(rows, len(self.train))))[0]


def batches(split: Split, size: int, limit: int | None = None) -> Iterator[Batch]:
    """Read a split in order in batches of ``size`` samples, up to ``limit`` samples.

    Raises:
        DataError: the split is empty.
    """
    total = min(len(split), limit) if limit is not None else len(split)
    if total == 0:
        raise DataError("the data set is empty", "give at least one sample")
    for start in range(0, total, size):
        yield split.read(range(start, min(start + size, total)))


def rows_of(split: Split, count: int) -> dict[str, Array]:
    """The inputs of the first ``count`` samples, or of all samples if there are fewer."""
    return split.read(range(min(count, len(split))))[0]


def as_arrays(split: Split, indices: Sequence[int] | NDArray[np.integer[Any]] | None = None) -> ArraySplit:
    """Read a split, or some of its samples, into memory."""
    inputs, targets = split.read(range(len(split)) if indices is None else indices)
    return ArraySplit(inputs, targets)


def targets_in_memory(split: Split) -> Array | None:
    """The targets of a split, or of a selection of a selection of one, if they can be had without reading inputs."""
    found: Array | None = getattr(split, "targets", None)
    if found is None and isinstance(split, Subset):
        whole = targets_in_memory(split.parent)
        return None if whole is None else whole[split.indices]
    return found


def check_finite(inputs: Mapping[str, Array], where: str) -> None:
    """Reject NaN and infinite values.

    Raises:
        DataError: there is such a value; the message names the input and the first bad sample.
    """
    for name, array in inputs.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            bad = int(np.argwhere(~np.isfinite(array).reshape(len(array), -1).all(axis=1))[0][0])
            # `input` is Retort's name for the only array of a source, and a model may have another one
            what = "the input" if list(inputs) == ["input"] else f"input '{name}'"
            raise DataError(
                f"{where}: {what} has NaN or infinite values, first in sample {bad}",
                "clean the data, or drop those samples",
            )


def _require_alike(sample: Sample, number: int, first: Sample, first_number: int) -> None:
    """Fail if two samples cannot be stacked.

    Raises:
        DataError: they differ in their inputs, in a shape, or in having a target.
    """
    forms = [
        {**{f"input '{name}'": array.shape for name, array in inputs.items()}, "target": _target_shape(target)}
        for inputs, target in (first, sample)
    ]
    for what in dict.fromkeys([*forms[0], *forms[1]]):
        one, other = (_shape(form.get(what)) for form in forms)
        if one != other:
            raise DataError(
                f"sample {number} of the dataset has {other} as its {what}, and sample {first_number} has {one}",
                "give all samples the same inputs and shapes",
            )


def _target_shape(target: Array | None) -> tuple[int, ...] | None:
    """The shape that all samples share: lists of symbols or boxes may have different lengths."""
    if target is None:
        return None
    return (0, *target.shape[1:]) if is_list(target) else target.shape


def _shape(shape: tuple[int, ...] | None) -> str:
    return "nothing" if shape is None else f"an array of shape {list(shape)}"


def _sample(item: Any, name: str) -> Sample:
    inputs, target = (item[0], item[1]) if isinstance(item, tuple | list) and len(item) == 2 else (item, None)
    named = inputs if isinstance(inputs, Mapping) else {name: inputs}
    return {key: to_array(value) for key, value in named.items()}, None if target is None else to_array(target)
