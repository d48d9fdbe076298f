"""Data with the names and the layout of a model's inputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..errors import DataError, InputError
from ..tensors import BATCH, Array, Signature, TensorSpec
from .input_parts import JoinedSplit, LoadedPart
from .splits import NAMES, TRAIN, Split, Splits, Subset


@dataclass(frozen=True)
class Renamed:
    """A split whose inputs have the names and the layout of a model's signature.

    Attributes:
        names: for each input of the model, the input of the parent.
        signature: where the model's batch axis is not axis 0, the rows are moved there; of an input without a batch
            axis, which all samples share, the first row is taken.
    """

    parent: Split
    names: dict[str, str] = field(default_factory=dict)
    signature: Signature = field(default=Signature((), ()))

    def __len__(self) -> int:
        return len(self.parent)

    def read(self, indices: Any) -> tuple[dict[str, Array], Array | None]:
        """See :meth:`retort.core.data.splits.Split.read`."""
        inputs, targets = self.parent.read(indices)
        specs = {spec.name: spec for spec in self.signature.inputs}
        return {wanted: laid_out(inputs[given], specs.get(wanted)) for wanted, given in self.names.items()}, targets

    def fingerprint(self) -> str:
        """The fingerprint of the parent split."""
        return self.parent.fingerprint()


def _rows_first(split: Split) -> Split:
    """A split before it was laid out for another model, so that no axis is moved twice."""
    if isinstance(split, Renamed):
        return Renamed(split.parent, split.names)
    if isinstance(split, Subset) and isinstance(split.parent, Renamed):
        return Subset(_rows_first(split.parent), split.indices)
    return split


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

    Raises:
        DataError: the number of inputs differs, or a sample does not fit the signature.
    """
    _require_one_order(splits.classes, signature.classes)
    sources = {key: _rows_first(getattr(splits, key)) for key in NAMES}
    inputs = sources[TRAIN].read([0])[0]
    given, wanted = list(inputs), [spec.name for spec in signature.inputs]
    names = matched(given, wanted)
    if names is None:
        raise DataError(
            f"the data have the inputs {', '.join(given)}; the model takes {signature.describe_inputs()}",
            "give the inputs of the data the names of the model's inputs",
        )
    parts = [Renamed(source, names, signature) for source in sources.values()]
    try:
        signature.validate(signature.whole_batch(parts[0].read([0])[0]))
    except InputError as error:
        spec = next((spec for spec in signature.inputs if spec.name == error.facts.get("input")), None)
        arguments = image_arguments(sources[TRAIN], spec)
        if not arguments:
            raise
        raise InputError(error.message, f"{error.remedy}; {arguments}", **error.facts) from error
    return Splits(parts[0], parts[1], parts[2], parts[3], splits.classes or signature.classes)


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


def _require_one_order(data: Sequence[str], model: Sequence[str]) -> None:
    """Refuse data that number the model's classes in another order, because every label would be wrong."""
    ours, theirs = [name.casefold() for name in data], [name.casefold() for name in model]
    if ours != theirs and sorted(ours) == sorted(theirs):
        raise DataError(
            f"the data number the classes as {', '.join(data)}, and the model as {', '.join(model)}",
            f"give the data the model's order: `classes: [{', '.join(model)}]`",
        )
