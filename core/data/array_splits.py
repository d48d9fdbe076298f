"""Splits made of values in memory: arrays, pairs of inputs and targets, mappings of arrays, map-style datasets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..counts import with_article
from ..errors import DataError
from ..tensors import Array, to_array
from .input_parts import standard
from .splits import ArraySplit, SequenceSplit, Split

DEPTH = 4
"""Number of datasets inside each other that are looked into."""


def as_split(value: Any, where: str) -> Split:
    """Convert ``(inputs, targets)``, an array, a mapping of arrays, a map-style dataset or a split to a :class:`Split`.

    Targets may be None.

    Raises:
        DataError: the value is none of these, or its arrays differ in length.
    """
    if hasattr(value, "read") and hasattr(value, "fingerprint"):
        split: Split = value
        return split
    pair = isinstance(value, tuple | list) and len(value) == 2
    if pair and _is_arrays(value[0]) and (value[1] is None or _is_arrays(value[1])):
        return array_split(value[0], value[1], where)
    if _is_arrays(value):
        return array_split(value, None, where)
    if hasattr(value, "__getitem__") and hasattr(value, "__len__"):
        return SequenceSplit(value, "input", where)
    raise DataError(
        f"{where} is {with_article(type(value).__name__)}, not samples",
        "return (inputs, targets) arrays or a map-style dataset",
    )


def classes_of(data: Any) -> tuple[str, ...]:
    """The names of the classes that a dataset knows, or the dataset of a loader or a subset; empty without any.

    They are its ``classes``, as those of torchvision, or the names of its ClassLabel, as those of ``datasets``.
    """
    for _ in range(DEPTH):
        names = getattr(data, "classes", None)
        if isinstance(names, tuple | list) and names and all(isinstance(name, str) for name in names):
            return tuple(names)
        features = getattr(data, "features", None)
        for feature in features.values() if isinstance(features, Mapping) else ():
            if isinstance(getattr(feature, "names", None), list):
                return tuple(map(str, feature.names))
        data = getattr(data, "dataset", None)
    return ()


def _is_arrays(value: Any) -> bool:
    parts = value.values() if isinstance(value, Mapping) else [value]
    return all(hasattr(part, "shape") and hasattr(part, "dtype") for part in parts)


def array_split(inputs: Any, targets: Any, where: str) -> ArraySplit:
    """Make a split in memory from arrays of equal length, in the dtypes that stages use.

    A number without axes beside other inputs is the value of every sample.

    Raises:
        DataError: the arrays differ in length or contain no numbers.
    """
    given = inputs if isinstance(inputs, Mapping) else {"input": inputs}
    labels = None if targets is None else to_array(targets)
    named = of_one_length({str(key): to_array(value) for key, value in given.items()}, labels, where)
    return ArraySplit(
        {k: standard(v, where) for k, v in named.items()}, None if labels is None else standard(labels, where)
    )


def of_one_length(inputs: Mapping[str, Array], targets: Array | None, where: str) -> dict[str, Array]:
    """The inputs, with a number without axes beside arrays repeated for every sample.

    Raises:
        DataError: the arrays differ in length, or no input has an axis.
    """
    lengths = {name: len(array) for name, array in inputs.items() if array.ndim}
    if not lengths:
        raise DataError(f"{where} has only numbers without axes: {', '.join(inputs)}", "give one row per sample")
    if targets is not None:
        lengths["targets"] = len(targets) if targets.ndim else 0
    if len(set(lengths.values())) > 1:
        listed = ", ".join(f"{name} has {length}" for name, length in lengths.items())
        raise DataError(
            f"{where}: arrays differ in length: {listed}",
            "give one row per sample in every array; repeat for each sample an array that all of them share "
            "(`np.repeat(value[None], samples, axis=0)`), or make it a constant of the model (`fixed`, `--fix`)",
        )
    count = next(iter(lengths.values()))
    return {name: array if array.ndim else np.broadcast_to(array, (count,)) for name, array in inputs.items()}
