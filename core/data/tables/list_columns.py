"""Columns of lists as arrays: lists of equal shape, or lists of different lengths that are padded."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...options.data_options import TableOptions
from ...tensors import Array
from ..input_parts import as_float32
from .columns import Column, Table


def list_arrays(table: Table, name: str, options: TableOptions) -> tuple[Array, Array | None]:
    """A column of lists as ``[N, …]``, and their lengths if they were padded.

    Raises:
        DataError: lists differ in shape and are not padded, or contain something else than numbers.
    """
    column = table.used(name)
    values = column.values
    if column.kind == "numbers":
        return _typed(values, options), None
    rows = [_row(table, name, index, value) for index, value in enumerate(values)]
    shapes = {row.shape for row in rows}
    if len(shapes) == 1 and not options.pad:
        return _typed(np.stack(rows), options), None
    return _padded(table, name, rows, options)


def _row(table: Table, name: str, index: int, value: Any) -> Array:
    try:
        row = np.asarray(value)
    except ValueError:
        table.refuse(index, name, "its inner lists differ in length", "give them one length")
    if row.dtype.kind not in "biuf" and row.size:
        table.refuse(
            index, name, "the list contains something else than numbers", "give numbers, or `ignore` the field"
        )
    if row.dtype.kind == "f" and not np.isfinite(row).all():
        table.refuse(index, name, "the list contains NaN or infinite values", "clean the data, or drop the row")
    return row


def _padded(table: Table, name: str, rows: list[Array], options: TableOptions) -> tuple[Array, Array]:
    first = rows[0]
    odd = next((i for i, row in enumerate(rows) if row.shape[1:] != first.shape[1:] and row.size), None)
    if odd is not None or not options.pad:
        odd = odd if odd is not None else next(i for i, row in enumerate(rows) if row.shape != first.shape)
        remedy = (
            "give all lists one shape but for their first axis"
            if options.pad
            else "give them one length, or pad them with zeros: `pad: true` (and `lengths: true` for their lengths)"
        )
        table.refuse(
            odd, name, f"the list has shape {list(rows[odd].shape)}, the first has {list(first.shape)}", remedy
        )
    longest = options.max_length or max(len(row) for row in rows)
    inner = next(row.shape[1:] for row in rows if row.size or row is rows[-1])
    kind = np.float64 if any(row.dtype.kind == "f" and row.size for row in rows) else np.int64
    made = np.zeros((len(rows), longest, *inner), kind)
    for index, row in enumerate(rows):
        kept = row[:longest]
        made[index, : len(kept)] = kept
    return _typed(made, options), np.array([min(len(row), longest) for row in rows], np.int64)


def _typed(values: Array, options: TableOptions) -> Array:
    """In the type that the options name; else whole numbers as int64 and others as float32."""
    if options.dtype is not None:
        return as_float32(values) if options.dtype == "float32" else values.astype(options.dtype)
    return as_float32(values) if values.dtype.kind == "f" else values.astype(np.int64)


def numbers_of(table: Table, name: str) -> Array:
    """A column of one number per row.

    Raises:
        DataError: it holds something else.
    """
    column: Column = table.used(name)
    if column.kind != "numbers" or np.ndim(column.values) != 1:
        table.refuse(0, name, f"the column holds {column.kind}, not one number per row", "choose a column of numbers")
    values: Array = column.values
    return values
