"""CSV and TSV files as tables: delimiter and header are looked for, and every fault has its line."""

from __future__ import annotations

import codecs
import csv
import hashlib
import io
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ...counts import counted
from ...errors import DataError, UserError
from ...options.data_options import CsvOptions
from ...tensors import Array
from ..input_parts import readable
from .columns import MISSING, Column, Fault, Table

DELIMITERS = ",;\t|"
CHUNK = 4096
LOOKED_AT = 200
"""Number of lines in which the delimiter and the header are looked for."""
FILL = "fill it, delete the row, or leave the column out (`ignore`, or `features` with the columns to use)"
POINT = "write numbers with a decimal point"


def read_csv(path: Path, options: CsvOptions) -> Table:
    """Read a file into memory.

    Raises:
        DataError: the file is empty, has another encoding, or its rows differ in their number of cells.
    """
    text, digest = read_text_file(path, options.encoding)
    delimiter = options.delimiter or _delimiter(path, text)
    rows = _rows(path, text, delimiter)
    head = [row for _, row in zip(range(LOOKED_AT), rows)]
    if not head:
        raise DataError(f"{path} is empty", "give at least one line")
    has_header = _has_header([cells for _, cells in head]) if options.header is None else options.header
    names = _names(path, head[0][1]) if has_header else [str(number + 1) for number in range(len(head[0][1]))]
    builders = [Builder() for _ in names]
    lines: list[int] = []
    body = head[1:] if has_header else head
    for chunk in _chunks(path, names, _chain(body, rows), has_header):
        for builder, cells in zip(builders, zip(*(cells for _, cells in chunk), strict=True), strict=True):
            builder.add(cells)
        lines += [line for line, _ in chunk]
    if not lines:
        raise DataError(f"{path} has a header and no rows", "give at least one row, or set `header: false`")
    columns = {name: builder.column() for name, builder in zip(names, builders, strict=True)}
    remarks = () if has_header else ("the file has no header, so columns have numbers from 1",)
    numbers = np.array(lines)
    table = Table(path, columns, len(lines), lambda row: f"{path}, line {numbers[row]}", digest, remarks)
    return _without_index(table)


def read_text_file(path: Path, encoding: str) -> tuple[str, str]:
    """The text of a file and the hash of its bytes.

    Raises:
        DataError: the file is empty, may not be read, or has another encoding.
        UserError: there is no such encoding.
    """
    with readable(path):
        content = path.read_bytes()
    if not content.strip():
        raise DataError(f"{path} is empty", "give at least one line")
    try:
        known = codecs.lookup(encoding).name
    except LookupError as error:
        raise UserError(f"there is no encoding '{encoding}'", "give `encoding: utf-8`, latin-1 or utf-16") from error
    if known == "utf-8" and content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise DataError(f"{path} is encoded as UTF-16", "give `encoding: utf-16`, or save it as UTF-8")
    if known == "utf-8" and b"\x00" in content[:4096]:
        raise DataError(f"{path} is not a text file: it has zero bytes", "check the file")
    try:
        return content.decode("utf-8-sig" if known == "utf-8" else encoding), hashlib.sha256(content).hexdigest()
    except UnicodeError as error:
        start = getattr(error, "start", 0)
        line = content[:start].count(b"\n") + 1
        raise DataError(
            f"{path}, line {line} is not {encoding.upper()}: byte 0x{content[start]:02x}",
            "save it as UTF-8, or name its encoding, such as `encoding: latin-1` or `cp1252`",
        ) from error


def _delimiter(path: Path, text: str) -> str:
    """The delimiter that divides the first lines into the most cells, equally many in each."""
    if path.suffix.lower() == ".tsv":
        return "\t"
    start = io.StringIO(text)
    sample = [line for _, line in zip(range(LOOKED_AT), start)]
    scores = {}
    for mark in DELIMITERS:
        try:
            counts = [len(row) for row in csv.reader(sample, delimiter=mark) if row]
        except csv.Error:
            continue
        usual = max(set(counts), key=counts.count, default=1)
        scores[mark] = (counts.count(usual) / len(counts), usual) if usual > 1 else (0.0, 1)
    best = max(scores, key=lambda mark: scores[mark], default=",")
    return best if scores.get(best, (0.0, 1))[1] > 1 else ","


def _rows(path: Path, text: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Rows with the number of the line on which they start; empty lines are left out."""
    csv.field_size_limit(2**31 - 1)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    start = 1
    try:
        for row in reader:
            if row and any(cell.strip() for cell in row):
                yield start, row
            start = reader.line_num + 1
    except csv.Error as error:
        raise DataError(
            f"{path}, line {start}: {error}", "close the quotation mark, and double those inside"
        ) from error


def _chain(*parts: Iterable[tuple[int, list[str]]]) -> Iterator[tuple[int, list[str]]]:
    for part in parts:
        yield from part


def _chunks(
    path: Path, names: Sequence[str], rows: Iterator[tuple[int, list[str]]], has_header: bool
) -> Iterator[list[tuple[int, list[str]]]]:
    chunk: list[tuple[int, list[str]]] = []
    for line, cells in rows:
        if len(cells) != len(names):
            first = "header" if has_header else "first line"
            raise DataError(
                f"{path}, line {line} has {counted(cells, 'cell')}, and the {first} has {len(names)}",
                "put cells that contain the delimiter into quotation marks, or name it with `delimiter`",
            )
        chunk.append((line, cells))
        if len(chunk) == CHUNK:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _names(path: Path, header: Sequence[str]) -> list[str]:
    names = [name.strip() for name in header]
    twice = next((name for name in names if name and names.count(name) > 1), None)
    if twice is not None:
        columns = [str(index + 1) for index, name in enumerate(names) if name == twice]
        raise DataError(
            f"{path}: columns {' and '.join(columns)} are both called '{twice}'", "give every column its own name"
        )
    return [name or f"unnamed {index + 1}" for index, name in enumerate(names)]


def _has_header(rows: Sequence[Sequence[str]]) -> bool:
    """Whether the first row has names: text above numbers, or texts of which none occurs again in its column."""
    first, rest = [cell.strip() for cell in rows[0]], rows[1:]
    if not rest:
        return not any(map(_is_number, first))
    columns = [[row[index].strip() for row in rest if index < len(row)] for index in range(len(first))]
    named = [
        not _is_number(cell) and cell.lower() not in MISSING and _mostly_numbers(column)
        for cell, column in zip(first, columns, strict=True)
    ]
    if any(named):
        return True
    others = [cell for cell in first if not _is_number(cell)]
    numbers = [cell for cell in first if _is_number(cell)]
    counted = numbers == [str(number) for number in range(len(numbers))] and len(numbers) > 1
    fresh = all(cell not in column for cell, column in zip(first, columns, strict=True) if not _is_number(cell))
    return (not numbers or counted) and fresh and len(set(others)) == len(others)


def _mostly_numbers(cells: Sequence[str]) -> bool:
    given = [cell for cell in cells if cell.lower() not in MISSING]
    return bool(given) and sum(map(_is_number, given)) > len(given) / 2


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return "_" not in cell


def _without_index(table: Table) -> Table:
    """Leave out a first column without a name that counts the rows, which pandas writes."""
    name = next(iter(table.columns))
    values = table.columns[name].values
    counts = (
        name == "unnamed 1" and values.dtype.kind == "i" and np.array_equal(values, np.arange(len(values)) + values[0])
    )
    if not counts or len(table.columns) == 1:
        return table
    columns = {key: column for key, column in table.columns.items() if key != name}
    remarks = (*table.remarks, "the first column, which has no name, counts the rows and is left out")
    return Table(table.path, columns, table.count, table.place, table.digest, remarks)


@dataclass
class Builder:
    """One column while its file is read: numbers or text, as the first rows decide."""

    parts: list[Array] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    is_text: bool | None = None
    rows: int = 0
    fault: Fault | None = None
    _known: dict[str, str] = field(default_factory=dict)

    def add(self, cells: Sequence[str]) -> None:
        """Add the cells of further rows."""
        if self.is_text is None:
            stripped = [cell.strip() for cell in cells]
            given = [cell for cell in stripped if cell.lower() not in MISSING]
            self.is_text = bool(given) and not _mostly_numbers(stripped)
        if self.is_text:
            self._add_text(cells)
        else:
            self.parts.append(self._numbers(cells))
        self.rows += len(cells)

    def column(self) -> Column:
        """The finished column."""
        if not self.is_text:
            return Column(np.concatenate(self.parts), "numbers", self.fault)
        values = np.empty(len(self.texts), object)
        values[:] = self.texts
        return Column(values, "text", self.fault)

    def _add_text(self, cells: Sequence[str]) -> None:
        for index, cell in enumerate(cells):
            if not cell.strip():
                self._note(index, "the cell is empty", FILL)
            self.texts.append(self._known.setdefault(cell, cell) if len(self._known) < CHUNK else cell)

    def _numbers(self, cells: Sequence[str]) -> Array:
        try:
            return np.array(list(map(int, cells)), np.int64)
        except (ValueError, OverflowError):
            pass
        try:
            values = np.array(list(map(float, cells)))
            if np.isfinite(values).all():
                return values
        except ValueError:
            pass
        return np.array([self._number(index, cell.strip()) for index, cell in enumerate(cells)])

    def _number(self, index: int, cell: str) -> float:
        if cell.lower() in MISSING:
            self._note(index, f"the cell is {'empty' if not cell else repr(cell)}, which is a missing value", FILL)
            return math.nan
        try:
            value = float(cell)
        except ValueError:
            comma = re.fullmatch(r"[-+]?\d+(\.\d{3})*,\d+", cell)
            remedy = POINT if comma else "correct it, or leave the column out (`ignore`)"
            self._note(index, f"'{cell}' is not a number", remedy)
            return math.nan
        if not math.isfinite(value):
            self._note(index, f"'{cell}' is not finite", FILL)
        return value

    def _note(self, index: int, what: str, remedy: str) -> None:
        self.fault = self.fault or Fault(self.rows + index, what, remedy)
