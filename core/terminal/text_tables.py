"""Tables for terminals of any width: columns, wrapped columns, or a block of lines per row where none of them fit."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Sequence

from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

EDGES = 2
"""Characters that the left and the right line of a table take."""
GAP = 3
"""Characters between two columns."""
READABLE = 18
"""Narrowest column in which longer texts are wrapped."""
HARD_SPACE = "\u00a0"
INSEPARABLE = re.compile(
    r"(?<=[\d.∞]) (?=(?:%|pp|dB|ms|µs|s|min|h|B|kB|MB|GB|k|M|G)(?:[\s,;:)\]]|$))|(?<=,) (?=[−+\-\d.]+\])"
)
"""The spaces inside of a number with its unit, and inside of an interval."""


def natural_widths(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[int]:
    """Width of every column if nothing is wrapped; cells may have several lines."""
    return [max(_longest(cell.splitlines()) for cell in cells) for cells in _by_column(columns, rows)]


def table_width(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> int:
    """Width of a table in which nothing is wrapped."""
    return _total(natural_widths(columns, rows))


def wrapped_widths(columns: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> list[int] | None:
    """Widths of columns whose texts are wrapped between words, or None if a word or a readable line does not fit.

    Args:
        width: characters that the whole table may take.
    """
    natural = natural_widths(columns, rows)
    if _total(natural) <= width:
        return natural
    words = [
        _longest(part for cell in cells for part in re.split(r"[ \n]", _joined(cell)))
        for cells in _by_column(columns, rows)
    ]
    least = [max(word, min(wanted, READABLE)) for word, wanted in zip(words, natural, strict=True)]
    left = width - _total(least)
    if left < 0:
        return None
    missing = [wanted - taken for wanted, taken in zip(natural, least, strict=True)]
    shares = [left * lack // max(sum(missing), 1) for lack in missing]
    return [taken + min(share, lack) for taken, share, lack in zip(least, shares, missing, strict=True)]


def as_columns(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], widths: Sequence[int], left: bool
) -> Table:
    """A table with fixed widths of its columns.

    Args:
        left: align all columns to the left; otherwise only the first one.
    """
    # as Text, because Rich takes brackets in strings for markup
    table = Table(title=Text(title), title_justify="left", title_style="bold", pad_edge=False)
    for index, (column, width) in enumerate(zip(columns, widths, strict=True)):
        heading = Text("\n".join(wrapped(column, width)))
        table.add_column(heading, justify="left" if left or index == 0 else "right", width=width)
    cells = [["\n".join(wrapped(cell, width)) for cell, width in zip(row, widths, strict=True)] for row in rows]
    table.show_lines = any("\n" in cell for row in cells for cell in row)
    for row in cells:
        table.add_row(*(Text(cell) for cell in row))
    return table


def as_blocks(columns: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> Iterator[str]:
    """The lines of one block per row: the first cell as its heading, then its other cells that are not empty."""
    names = _longest(columns[1:]) if len(columns) > 1 else 0
    beside = 2 * names <= width
    for row in rows:
        yield from wrapped(row[0], width)
        for column, cell in zip(columns[1:], row[1:], strict=True):
            if not cell:
                continue
            head = f"  {column:<{names}}  " if beside else "    "
            if not beside:
                yield f"  {column}"
            for index, line in enumerate(wrapped(cell, width - len(head))):
                yield f"{head if index == 0 else ' ' * len(head)}{line}".rstrip()
        yield ""


def wrapped(text: str, width: int) -> list[str]:
    """The lines of a text with at most ``width`` characters; words, numbers with units and intervals stay whole."""
    lines = [
        part
        for line in _joined(text).split("\n")
        for part in (textwrap.wrap(line, width, break_long_words=False, break_on_hyphens=False) or [""])
    ]
    return [line.replace(HARD_SPACE, " ") for line in lines]


def _joined(text: str) -> str:
    return INSEPARABLE.sub(HARD_SPACE, text)


def _by_column(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[list[str]]:
    return [[column, *(row[index] for row in rows)] for index, column in enumerate(columns)]


def _longest(texts: Sequence[str] | Iterator[str]) -> int:
    return max((cell_len(text) for text in texts), default=0)


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + GAP * (len(widths) - 1) + EDGES
