"""The column of a table that names the split of each row."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..splits import ALIASES, NAMES
from .columns import Table

SPLIT_NAMES = ("split", "subset")
OTHERS = {"training": "train", "testing": "test"}


def split_name(text: str) -> str:
    """The name of a split for one of its usual spellings; other texts are returned in lower case."""
    lower = text.strip().lower()
    return ALIASES.get(lower, OTHERS.get(lower, lower))


def split_column(table: Table, wanted: str | int | None = None) -> str | None:
    """The given column, or one called split or subset all of whose texts are splits; None without one.

    Raises:
        UserError: there is no such column.
    """
    if wanted is not None:
        return table.name(wanted, "split")
    for name, column in table.columns.items():
        if name.lower() not in SPLIT_NAMES or column.kind != "text" or column.fault is not None:
            continue
        if {split_name(str(value)) for value in column.values} <= set(NAMES):
            return name
    return None


def rows_by_split(table: Table, name: str) -> dict[str, NDArray[np.integer[Any]]]:
    """The rows of every split according to a column.

    Raises:
        DataError: a value is not the name of a split.
    """
    found = np.array([split_name(str(value)) for value in table.used(name).values])
    wrong = np.flatnonzero(~np.isin(found, NAMES))
    if len(wrong):
        row = int(wrong[0])
        table.refuse(row, name, f"'{found[row]}' is no split", f"name one of {', '.join(NAMES)}")
    return {split: np.flatnonzero(found == split) for split in NAMES if (found == split).any()}
