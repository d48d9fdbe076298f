"""Data with the names and the layout of a model's inputs."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ..counts import counted
from ..errors import DataError, InputError
from ..signature import Signature
from ..tensors import BATCH, Array, TensorSpec
from .class_labels import shortened
from .input_parts import ArraysPart, JoinedSplit, LoadedPart
from .splits import FEATURES, NAMES, TRAIN, ArraySplit, Split, Splits, Subset, targets_in_memory
from .text_encoding import respelled


@dataclass(frozen=True)
class Renamed:
    """A split whose inputs have the names and the layout of a model's signature.

    Attributes:
        names: for each input of the model, the input of the parent.
        signature: where the model's batch axis is not axis 0, the rows are moved there; of an input without a batch
            axis, which all samples share, the first row is taken.
        numbers: for each class of the parent, the index that the model gives it; empty if they are the same.
    """

    parent: Split
    names: dict[str, str] = field(default_factory=dict)
    signature: Signature = field(default=Signature((), ()))
    numbers: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.parent)

    def read(self, indices: Any) -> tuple[dict[str, Array], Array | None]:
        """See :meth:`retort.core.data.splits.Split.read`."""
        inputs, targets = self.parent.read(indices)
        specs = {spec.name: spec for spec in self.signature.inputs}
        arrays = {wanted: laid_out(inputs[given], specs.get(wanted)) for wanted, given in self.names.items()}
        return arrays, None if targets is None else self._renumbered(targets)

    @property
    def targets(self) -> Array | None:
        """The targets, if they can be had without reading inputs."""
        known = targets_in_memory(self.parent)
        return None if known is None else self._renumbered(known)

    def fingerprint(self) -> str:
        """The fingerprint of the parent split, and the numbers of its classes if the model has others."""
        own = self.parent.fingerprint()
        return hashlib.sha256(f"{own}|{self.numbers}".encode()).hexdigest() if self.numbers else own

    def _renumbered(self, targets: Array) -> Array:
        if not self.numbers or targets.dtype.kind not in "iu":
            return targets
        wrong = targets[targets >= len(self.numbers)]
        if wrong.size:
            raise DataError(
                f"the data have the label {wrong.flat[0]} and the names of {counted(self.numbers, 'class')}",
                "name every class, in the order of their numbers",
            )
        moved = np.asarray(self.numbers, np.int64)[np.maximum(targets, 0)]
        return np.where(targets < 0, targets, moved).astype(np.int64)  # negative ones mean that there is no label


def _rows_first(split: Split) -> Split:
    """A split before it was laid out for another model, so that no axis is moved twice."""
    if isinstance(split, Renamed):
        return Renamed(split.parent, split.names, numbers=split.numbers)
    if isinstance(split, Subset) and isinstance(split.parent, Renamed):
        return Subset(_rows_first(split.parent), split.indices)
    return split


def _spelled(split: Split, symbols: tuple[str, ...]) -> Split:
    """A split whose characters have the numbers of a model's symbols, if it has any."""
    if isinstance(split, Subset | Renamed):
        return replace(split, parent=_spelled(split.parent, symbols))
    if not symbols or not isinstance(split, JoinedSplit):
        return split
    return replace(split, parts=tuple(respelled(part, symbols) for part in split.parts))


def _ordered(split: Split, order: list[int]) -> Split:
    """A split of a table with some of its features, in another order."""
    if isinstance(split, Subset | Renamed):
        return replace(split, parent=_ordered(split.parent, order))
    if not order:
        return split
    if isinstance(split, ArraySplit) and FEATURES in split.inputs:
        return replace(split, inputs={**split.inputs, FEATURES: split.inputs[FEATURES][:, order]})
    if not isinstance(split, JoinedSplit):
        return split
    tables = [part for part in split.parts if isinstance(part, ArraysPart) and FEATURES in part.arrays]
    made = {id(part): ArraysPart({**part.arrays, FEATURES: part.arrays[FEATURES][:, order]}) for part in tables}
    return replace(split, parts=tuple(made.get(id(part), part) for part in split.parts))


def _feature_order(data: Sequence[str], model: Sequence[str]) -> list[int]:
    """For each feature of the model, its number in the data; empty if they are the same or one has no names.

    Features of which none is the model's are taken for other names in the same order.

    Raises:
        DataError: the data have some of the model's features and lack others.
    """
    places = {name: number for number, name in enumerate(data)}
    missing = [name for name in model if name not in places]
    if not data or tuple(data) == tuple(model) or len(missing) == len(model):
        return []
    if missing:
        raise DataError(
            f"the data lack {shortened(missing)} of the features that the model takes, which are {shortened(model)}",
            "give the columns the names that they had in training",
        )
    return [places[name] for name in model]


def laid_out(rows: Array, spec: TensorSpec | None) -> Array:
    """Samples, which are rows first in a data set, in the layout of a model's input."""
    if spec is None:
        return rows
    if BATCH in spec.shape:
        axis = spec.shape.index(BATCH)
        return np.moveaxis(rows, 0, axis) if 0 < axis < np.ndim(rows) else rows
    return rows[0] if np.ndim(rows) == len(spec.shape) + 1 else rows


def matched(given: Sequence[str], wanted: Sequence[str]) -> dict[str, str] | None:
    """The name in the data of each input of a model: the same name; in order if no name is the same.

    If all but one have the same name, the last one belongs to the other.

    Returns:
        None if the data have more or fewer inputs than the model, or if it is not clear which belongs to which.
    """
    if set(wanted) <= set(given):
        return {name: name for name in wanted}
    rest = [name for name in given if name not in wanted]
    if len(given) != len(wanted) or 1 < len(rest) < len(given):
        return None
    left = iter(rest)
    return {name: name if name in given else next(left) for name in wanted}


def fit_to(splits: Splits, signature: Signature) -> Splits:
    """Give the inputs of ``splits`` the names of ``signature``: by name, and by position where no name agrees.

    Labels get the model's numbers where data and model name their classes, and so do characters of texts where data and
    model have symbols. Labels that are some of the indices of the model's scores stay what they are. The
    features of a table get the model's order where both name them.

    Raises:
        DataError: the number of inputs differs, a sample does not fit, or the model does not know a class.
    """
    numbers = _numbers(splits.classes, signature.classes) or score_indices(splits.classes, signature)
    order = _feature_order(splits.features, signature.features)
    sources = {key: _ordered(_spelled(_rows_first(getattr(splits, key)), signature.symbols), order) for key in NAMES}
    inputs = sources[TRAIN].read([0])[0]
    given, wanted = list(inputs), [spec.name for spec in signature.inputs]
    names = matched(given, wanted)
    if names is None:
        raise DataError(
            f"the data have the inputs {', '.join(given)}; the model takes {signature.describe_inputs()}",
            "give the inputs of the data the names of the model's inputs",
        )
    parts = [Renamed(source, names, signature, numbers) for source in sources.values()]
    try:
        signature.validate(signature.whole_batch(parts[0].read([0])[0]))
    except InputError as error:
        spec = next((spec for spec in signature.inputs if spec.name == error.facts.get("input")), None)
        arguments = image_arguments(sources[TRAIN], spec)
        if not arguments:
            raise
        raise InputError(error.message, f"{error.remedy}; {arguments}", **error.facts) from error
    classes = signature.classes if numbers else splits.classes or signature.classes
    symbols = (splits.symbols and signature.symbols) or splits.symbols
    return replace(
        splits,
        train=parts[0],
        validation=parts[1],
        calibration=parts[2],
        test=parts[3],
        classes=classes,
        symbols=symbols,
        features=signature.features if order else splits.features,
    )


def image_arguments(split: Split, spec: TensorSpec | None) -> str:
    """The data arguments that give the files of images the shape of a model's input; empty for other data."""
    while isinstance(split, Subset | Renamed):
        split = split.parent
    read = isinstance(split, JoinedSplit) and any(isinstance(part, LoadedPart) for part in split.parts)
    if not read or spec is None or len(spec.shape) != 4:
        return ""
    channels, *size = spec.shape[1:]
    mode = {1: "L", 3: "RGB"}.get(channels) if isinstance(channels, int) else None
    if mode is None or not all(isinstance(pixels, int) for pixels in size):
        return ""
    height, width = size
    shown = str(height) if height == width else f"[{height}, {width}]"
    return (
        f"images are read in that shape with `--data-arg 'size={shown}' --data-arg mode={mode}`, or "
        f"`args: {{size: {shown}, mode: {mode}}}` under `data` of a recipe"
    )


def _numbers(data: Sequence[str], model: Sequence[str]) -> tuple[int, ...]:
    """For each class of the data, its number in the model; empty if they are the same.

    As many names of which none is the model's are taken for other names of the same classes.

    Raises:
        DataError: the data have a class that the model does not.
    """
    exact = {name: number for number, name in enumerate(model)}
    folded = {name.casefold(): number for name, number in exact.items()}
    found = [exact.get(name, folded.get(name.casefold()) if len(folded) == len(exact) else None) for name in data]
    unknown = [name for name, number in zip(data, found, strict=True) if number is None]
    if not data or not model or (len(data) == len(model) == len(unknown)):
        return ()
    if len(unknown) == len(data) < len(model) and all(map(_whole, data)) and not any(map(_whole, model)):
        return ()  # numbers of classes that have names in the model
    if unknown:
        raise DataError(
            f"the data have {'classes' if len(unknown) > 1 else 'the class'} {shortened(unknown)}, which the model "
            f"does not know: its classes are {shortened(model)}",
            "leave out the samples of other classes, give the classes the model's names, or read the data without "
            "labels (`target: none`)",
        )
    numbers = tuple(number for number in found if number is not None)
    return () if numbers == tuple(range(len(model))) else numbers


def _whole(name: str) -> bool:
    return re.fullmatch(r"-?[0-9]+", name) is not None


def score_indices(data: Sequence[str], signature: Signature) -> tuple[int, ...]:
    """For each class of data whose labels are whole numbers, the index that it is in a model with more scores.

    Labels that are some of a model's indices, such as 1 and 4 of 0 to 4, were numbered from 0 when they were read.

    Returns:
        Empty if the labels are text, or as many as the model has scores: then they stay numbered in order.

    Raises:
        DataError: a label is not the index of a score.
    """
    widths = [width for spec in signature.outputs for width in spec.shape[1:] if len(spec.shape) == 2 and width != 1]
    scores = next((width for width in widths if isinstance(width, int)), 0)
    if not data or not all(map(_whole, data)) or len(data) in widths or len(data) > scores:
        return ()
    numbers = tuple(map(int, data))
    wrong = next((number for number in numbers if not 0 <= number < scores), None)
    if wrong is not None:
        raise DataError(
            f"the data have the label {wrong}, and the model has {counted(scores, 'score')}, which are those of the "
            f"labels 0 to {scores - 1}",
            "number the labels from 0, or give the names of all classes in the order of the scores with `classes`",
        )
    return () if numbers == tuple(range(len(numbers))) else numbers
