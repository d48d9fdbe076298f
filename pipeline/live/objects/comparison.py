"""A measured result as a live object: a table for the terminal or a notebook, and JSON or HTML files."""

from __future__ import annotations

import io
from pathlib import Path

from rich.console import Console as RichConsole
from rich.table import Table
from rich.text import Text

from ....benchmarks.result import Result as MeasuredResult
from ....core.counts import counted
from . import notebook

WIDTH = 200


class Result(MeasuredResult):
    """Models compared with a reference: accuracy, drop, size, and latency with its ratio, each with its interval.

    ``print(result)`` shows the table; a notebook shows it automatically.
    """

    def table(self) -> tuple[list[str], list[list[str]]]:
        """The columns and the rows of the table, as text."""
        from ....benchmarks.report.table import table_rows

        return table_rows(self)

    def save(self, path: str | Path) -> Path:
        """Write the result as ``.json``, which ``retort.load`` opens, or as one ``.html`` report with plots.

        Raises:
            UserError: the suffix is wrong.
            StorageError: the disk is full or not writable.
        """
        from ....benchmarks.report.result_files import write_result

        write_result(self, Path(path))
        return Path(path)

    def __str__(self) -> str:
        from ....benchmarks.report.verdict import verdict

        columns, rows = self.table()
        table = Table(title=Text(self.title), title_justify="left", pad_edge=False)
        for index, column in enumerate(columns):
            table.add_column(Text(column), justify="right" if index else "left", no_wrap=True)
        for row in rows:
            table.add_row(*(Text(cell) for cell in row))
        out = io.StringIO()
        RichConsole(file=out, width=WIDTH, highlight=False, color_system=None).print(table, soft_wrap=False)
        lines = [line.rstrip() for line in out.getvalue().splitlines()]
        return "\n".join([*lines, *verdict(self)])

    def __repr__(self) -> str:
        return f"Result '{self.title}': {counted(self.stages, 'model')}, reference {self.reference}\n{self}"

    def _repr_html_(self) -> str:
        from ....benchmarks.report.verdict import verdict

        columns, rows = self.table()
        notes = "".join(f"<p>{sentence}</p>" for sentence in map(notebook.text, [*verdict(self), *self.notes]))
        return notebook.table(rows, self.title, columns) + notes

    @staticmethod
    def of(found: MeasuredResult) -> Result:
        """Convert a result to a live object."""
        return Result.model_validate(found.model_dump(by_alias=True))
