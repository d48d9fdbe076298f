"""The raw samples of a split: what a server that reads images, texts or recordings is sent, instead of arrays."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..preprocessing.sample_reader import Raw
from .input_parts import Indices, JoinedSplit, LoadedPart
from .model_inputs import Renamed
from .splits import Split, Subset
from .text_encoding import TextPart

TEXT_FIELDS = ("text", "text_pair")


def raw_values(split: Split, indices: Indices) -> dict[str, list[Raw]] | None:
    """The files and texts of samples, by the fields of a request; None if an input comes from nothing of the kind.

    Raises:
        OSError: a file cannot be read.
    """
    if isinstance(split, Subset):
        return raw_values(split.parent, split.indices[np.asarray(indices)])
    if isinstance(split, Renamed):
        found = raw_values(split.parent, indices)
        names = {given: wanted for wanted, given in split.names.items()}
        return None if found is None else {names.get(field, field): values for field, values in found.items()}
    if not isinstance(split, JoinedSplit):
        return None
    made: dict[str, list[Raw]] = {}
    for part in split.parts:
        own = _of_part(part, [int(index) for index in indices])
        if own is None:
            return None
        made |= own
    return made


def _of_part(part: Any, indices: list[int]) -> dict[str, list[Raw]] | None:
    if isinstance(part, LoadedPart) and part.content is not None:
        return {part.name: [part.content(part.items[index]) for index in indices]}
    if isinstance(part, TextPart):
        return {
            field: [column[index] for index in indices] for field, column in zip(TEXT_FIELDS, part.texts, strict=False)
        }
    return None
