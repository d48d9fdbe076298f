"""A table: named columns of numbers, text, lists or files, with the place of every value for messages."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NoReturn

import numpy as np
from numpy.typing import NDArray

from ...errors import DataError, UserError
from ...options.recipe import nearest
from ...tensors import Array

Kind = Literal["numbers", "text", "lists", "image", "audio"]
MISSING = frozenset(("", "na", "n/a", "nan", "null", "none", "?", "#n/a"))
"""Cells, in lower case, that mean a missing value."""


@dataclass(frozen=True)
class Fault:
    """The first value that a column cannot have: its row, what it is, and what to do about it.

    Attributes:
        place: where it stands, if the rows of the column are only some of those that the row counts.
    """

    row: int
    what: str
    remedy: str
    place: str = ""


@dataclass(frozen=True)
class Column:
    """One column.

    Attributes:
        values: ``[N]`` numbers or objects (text, lists); ``[N, …]`` for lists of equal length. Files are
            as they are stored, see :mod:`retort.core.data.tables.arrow_table`.
        kind: what it holds.
        fault: the first value that cannot be used; it matters only if the column is.
        classes: names of the classes if the numbers are indices with names.
    """

    values: Any
    kind: Kind
    fault: Fault | None = None
    classes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Table:
    """The columns of a file.

    Attributes:
        path: the file.
        columns: by name, in order.
        count: number of rows.
        place: where a row stands, as the user counts: ``flowers.csv, line 7``.
        digest: hash of the content of the file.
        remarks: what was found while it was read.
    """

    path: Path
    columns: Mapping[str, Column]
    count: int
    place: Callable[[int], str]
    digest: str
    remarks: tuple[str, ...] = ()

    def name(self, wanted: str | int, option: str) -> str:
        """The name of a column that is given by its name or by its number from 1.

        Raises:
            UserError: there is no such column; the message has the nearest name.
        """
        names = list(self.columns)
        if isinstance(wanted, str) and wanted in self.columns:
            return wanted
        if isinstance(wanted, int) and wanted != 0 and -len(names) <= wanted <= len(names):
            return names[wanted - 1 if wanted > 0 else wanted]
        if str(wanted) in self.columns:  # a name such as 2020
            return str(wanted)
        raise UserError(
            f"{self.path} has no column '{wanted}'{nearest(str(wanted), names)}",
            f"`{option}` takes one of {', '.join(names)}",
        )

    def used(self, name: str, remedy: str | None = None) -> Column:
        """A column all of whose values can be used.

        Args:
            remedy: what to do about a value that is missing, where columns cannot be left out.

        Raises:
            DataError: the column is missing, or a value is; the message has its place.
        """
        if name not in self.columns:
            raise DataError(
                f"{self.path} has no column '{name}'{nearest(name, list(self.columns))}",
                "give all splits the same columns",
            )
        column = self.columns[name]
        if column.fault is not None:
            raise _refusal(self._of(column.fault), name, column.fault.what, remedy or column.fault.remedy)
        return column

    def refuse(self, row: int, name: str, what: str, remedy: str) -> NoReturn:
        """Raise the error about one value."""
        raise _refusal(self.place(row), name, what, remedy)

    def rows(self, chosen: NDArray[np.integer[Any]]) -> Table:
        """The table with some of its rows; a fault in any row of a column stays one, with its place."""
        columns = {
            name: replace(
                column,
                values=_taken(column.values, chosen),
                fault=None if column.fault is None else replace(column.fault, place=self._of(column.fault)),
            )
            for name, column in self.columns.items()
        }
        place = self.place
        return replace(self, columns=columns, count=len(chosen), place=lambda row: place(int(chosen[row])))

    def _of(self, fault: Fault) -> str:
        return fault.place or self.place(fault.row)


def _refusal(place: str, name: str, what: str, remedy: str) -> DataError:
    return DataError(f"{place}, column '{name}': {what}", remedy.replace("`ignore`", f"`ignore: [{name}]`"))


def _taken(values: Any, chosen: NDArray[np.integer[Any]]) -> Any:
    return values[chosen] if isinstance(values, np.ndarray) else [values[int(index)] for index in chosen]


def stacked(tables: Sequence[Table], path: Path) -> Table:
    """One table of the rows of several files of one split.

    Raises:
        DataError: the files have different columns.
    """
    first = tables[0]
    if len(tables) == 1:
        return first
    for other in tables[1:]:
        if list(other.columns) != list(first.columns):
            raise DataError(
                f"{other.path} has the columns {', '.join(other.columns)}, and {first.path} has "
                f"{', '.join(first.columns)}",
                "give all files of a split the same columns",
            )
    ends = np.cumsum([table.count for table in tables])
    columns = {name: _joined([table.columns[name] for table in tables], ends) for name in first.columns}

    def _place(row: int) -> str:
        part = int(np.searchsorted(ends, row, side="right"))
        return tables[part].place(row - int(ends[part] - tables[part].count))

    return Table(path, columns, int(ends[-1]), _place, "|".join(table.digest for table in tables), first.remarks)


def _joined(columns: Sequence[Column], ends: NDArray[np.integer[Any]]) -> Column:
    starts = [0, *ends[:-1].tolist()]
    faults = [
        replace(column.fault, row=column.fault.row + start)
        for column, start in zip(columns, starts, strict=True)
        if column.fault is not None
    ]
    kinds = {column.kind for column in columns}
    if all(isinstance(column.values, np.ndarray) for column in columns):
        same = len(kinds) == 1 and len({column.values.shape[1:] for column in columns}) == 1
        values: Any = np.concatenate([column.values if same else _objects(column.values) for column in columns])
    else:
        values = [value for column in columns for value in column.values]
    kind = columns[0].kind if len(kinds) == 1 else "text" if "text" in kinds else "lists"
    return Column(values, kind, faults[0] if faults else None, columns[0].classes)


def _objects(values: Array) -> Array:
    made = np.empty(len(values), object)
    for index, value in enumerate(values):
        made[index] = value.item() if isinstance(value, np.generic) else value
    return made
