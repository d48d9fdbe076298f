"""JSON Lines files and JSON arrays of objects as tables: the fields of the objects are the columns."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import DataError
from ...options.data_options import JsonOptions
from ...tensors import Array
from .columns import Column, Fault, Kind, Table
from .csv_table import read_text_file

REMEDY = "give every object the field, or leave it out (`ignore`, or `features` with the fields to use)"


def read_json(path: Path, options: JsonOptions) -> Table:
    """Read a file of one object per line, or one array of objects.

    Raises:
        DataError: the file is empty or not JSON, or contains something else than objects.
    """
    text, digest = read_text_file(path, options.encoding)
    records, places = _array(path, text) if text.lstrip().startswith("[") else _lines(path, text)
    if not records:
        raise DataError(f"{path} contains no object", "give at least one sample")
    names = list(dict.fromkeys(name for record in records for name in record))
    if not names:
        raise DataError(f"{path}: the objects have no fields", 'write {"text": …, "label": …}')
    columns = {name: column_of([record.get(name) for record in records]) for name in names}
    return Table(path, columns, len(records), places.__getitem__, digest)


def _array(path: Path, text: str) -> tuple[list[dict[str, Any]], list[str]]:
    try:
        found = json.loads(text)
    except ValueError as error:
        raise DataError(f"{path} is not valid JSON: {error}", "correct it, or write it with json.dump") from error
    records = [_record(item, f"{path}, object {number}") for number, item in enumerate(found, 1)]
    return records, [f"{path}, object {number + 1}" for number in range(len(records))]


def _lines(path: Path, text: str) -> tuple[list[dict[str, Any]], list[str]]:
    records, places = [], []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        place = f"{path}, line {number}"
        try:
            item = json.loads(line)
        except ValueError as error:
            raise DataError(
                f"{place} is not valid JSON: {getattr(error, 'msg', error)}",
                "write one object per line, or one array of objects in square brackets",
            ) from error
        records.append(_record(item, place))
        places.append(place)
    return records, places


def _record(item: Any, place: str) -> dict[str, Any]:
    if not isinstance(item, dict):
        raise DataError(f"{place} is {_article(item)}, not an object", 'write {"text": …, "label": …}')
    return item


def _article(value: Any) -> str:
    names = {list: "a list", str: "a text", dict: "an object", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


def column_of(values: Sequence[Any]) -> Column:
    """A column of values as JSON and Arrow have them: numbers, texts or lists, whichever most are."""
    kinds = [_kind(value) for value in values]
    counted = [kind for kind in kinds if kind is not None]
    usual: Kind | str = max(sorted(set(counted)), key=counted.count, default="numbers")
    fault = next((_fault(row, values[row], usual) for row, kind in enumerate(kinds) if kind != usual), None)
    if usual == "numbers":
        numbers = [value if kind == "numbers" else math.nan for value, kind in zip(values, kinds, strict=True)]
        made = np.array(numbers)
        if made.dtype.kind not in "biuf":  # integers beyond 64 bits
            made = made.astype(np.float64)
        return Column(made, "numbers", fault or infinite_in(made))
    objects = np.empty(len(values), object)
    for row, (value, kind) in enumerate(zip(values, kinds, strict=True)):
        objects[row] = value if kind == usual else ("" if usual == "text" else [])
    if usual == "objects":
        first = counted.index("objects")
        what = Fault(
            first, "the value is an object", "give each of its fields a field of its own, or leave it out (`ignore`)"
        )
        return Column(objects, "lists", what)
    return Column(objects, "text" if usual == "text" else "lists", fault)


def infinite_in(numbers: Array) -> Fault | None:
    """The first number that is NaN or infinite."""
    wrong = np.flatnonzero(~np.isfinite(numbers)) if numbers.dtype.kind == "f" else np.empty(0, np.int64)
    return Fault(int(wrong[0]), f"the value is {numbers[wrong[0]]}", REMEDY) if len(wrong) else None


def _kind(value: Any) -> str | None:
    if value is None:
        return None
    if isinstance(value, bool | int | float):
        return "numbers"
    return "text" if isinstance(value, str) else "lists" if isinstance(value, list | np.ndarray) else "objects"


def _fault(row: int, value: Any, usual: str) -> Fault:
    if value is None:
        return Fault(row, "the value is missing", REMEDY)
    words = {"numbers": "numbers", "text": "texts", "lists": "lists", "objects": "objects"}
    return Fault(
        row,
        f"the value is {_article(value)}, and most others are {words[usual]}",
        "correct it, or leave it out (`ignore`)",
    )
