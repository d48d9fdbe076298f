"""Terminal output: progress bars, messages of stages, tables and results, with a JSON mode and a silent mode."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, Literal, TypeVar

from rich.console import Console as RichConsole
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from .terminal.heartbeat import Heartbeat, Work
from .terminal.text_tables import as_blocks, as_columns, natural_widths, table_width, wrapped_widths

Mode = Literal["text", "json", "silent"]
T = TypeVar("T")
PIPE_WIDTH = 200
"""Width of tables of texts without a terminal."""
UNLIMITED = 100_000


class Console:
    """Messages and progress go to stderr, results to stdout.

    Args:
        mode: ``text`` for people; ``json`` prints only :meth:`result`, as one JSON line; ``silent`` prints nothing.
    """

    def __init__(self, mode: Mode = "text") -> None:
        self.mode = mode
        self._err = RichConsole(stderr=True, quiet=mode != "text", highlight=False)
        self._wide = None if sys.stdout.isatty() else UNLIMITED
        self._out = RichConsole(quiet=mode != "text", highlight=False, soft_wrap=True, width=self._wide)
        self._progress: Progress | None = None
        self._heartbeat = Heartbeat(self.say, lambda: self._progress is not None and not self._progress.disable)

    @property
    def width(self) -> int | None:
        """Characters in a line of the terminal; None without a terminal, where tables may have any width."""
        return None if self._wide is not None else self._out.width

    def say(self, text: str) -> None:
        """Print one line about the current work."""
        self._line(text)

    def stage(self, name: str, text: str) -> None:
        """Print one line about a stage: its name in bold, then ``text``."""
        self._line(text, Text(f"{name:>10}  ", "bold cyan"))

    def warn(self, text: str) -> None:
        """Print a warning; the work continues."""
        self._line(text, Text("   warning  ", "bold yellow"))

    def _line(self, text: str, head: Text | None = None) -> None:
        self._heartbeat.told()
        self._err.print(Text.assemble(*([head] if head else []), text), soft_wrap=True)

    @contextmanager
    def working(self, label: str, last_s: float | None = None) -> Iterator[None]:
        """Report the work inside every 30 seconds by a line, unless a progress bar or other lines are shown.

        Args:
            label: name of the stage or of the command.
            last_s: how long the same work took the last time, in seconds, if it is known.
        """
        if self.mode != "text":
            yield
            return
        with self._heartbeat.during(Work(label, last_s=last_s)):
            yield

    def table(self, title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], words: bool = False) -> None:
        """Print a table on stdout that is readable at the width of the terminal.

        The first column is left-aligned, the others right-aligned unless ``words``. Where the columns do not fit, texts
        are wrapped between words, and where that does not help, each row becomes a block of lines.

        Args:
            words: whether the cells are texts that may be wrapped.
        """
        cells = [tuple(row) for row in rows]
        width, widths = self.width, natural_widths(columns, cells)
        if width is None and words:
            width = PIPE_WIDTH
        if width is not None and table_width(columns, cells) > width:
            wrapped = wrapped_widths(columns, cells, width) if words else None
            if wrapped is None:
                self._blocks(title, as_blocks(columns, cells, width))
                return
            widths = wrapped
        table = as_columns(title, columns, cells, widths, words)
        self._out.print(table, soft_wrap=False)

    def _blocks(self, title: str, lines: Iterable[str]) -> None:
        self._out.print(Text(title, "bold"))
        for line in lines:
            self._out.print(Text(line), soft_wrap=True)

    def result(self, value: dict[str, Any], text: str = "") -> None:
        """Print the result of a command: ``text``, or ``value`` as one line of JSON in JSON mode."""
        if self.mode == "json":
            sys.stdout.write(json.dumps(value, default=str) + "\n")
            sys.stdout.flush()
        elif text:
            self._out.print(text, markup=False)

    @contextmanager
    def progress(self, label: str, total: int) -> Iterator[Bar]:
        """Show a progress bar with a time estimate. Bars may be nested.

        Without a terminal, a line is printed every 30 seconds instead, with the step and an estimate of the time left.

        Args:
            total: number of steps.
        """
        owner = self._progress is None
        if self._progress is None:
            self._progress = self._new_progress()
            self._progress.start()
        task = self._progress.add_task(label, total=total, note="")
        work = Work(label, total)
        try:
            with self._heartbeat.during(work) if self.mode == "text" else nullcontext():
                yield Bar(self._progress, task, work, self._heartbeat)
        finally:
            self._progress.remove_task(task)
            if owner:
                self._progress.stop()
                self._progress = None

    def track(self, items: Sequence[T], label: str) -> Iterator[T]:
        """Iterate over ``items`` with a progress bar."""
        with self.progress(label, len(items)) as bar:
            for item in items:
                yield item
                bar.advance()

    def _new_progress(self) -> Progress:
        columns = (
            TextColumn("{task.description:>10}", markup=False),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", markup=False),
        )
        shown = self.mode == "text" and self._err.is_terminal
        return Progress(*columns, console=self._err, transient=True, disable=not shown)


class Bar:
    """One running progress bar."""

    def __init__(self, progress: Progress, task: Any, work: Work, heartbeat: Heartbeat) -> None:
        self._progress = progress
        self._task = task
        self._work, self._heartbeat = work, heartbeat

    def advance(self, steps: int = 1, note: str | None = None) -> None:
        """Advance by ``steps``; ``note`` replaces the text next to the bar."""
        self._progress.advance(self._task, steps)
        self._work.done += steps
        if not self._work.finished:
            self._heartbeat.beat()
        if note is not None:
            self._progress.update(self._task, note=note)

    def skip(self, steps: int) -> None:
        """Advance over steps that an interrupted run has done, which say nothing about the time that is left."""
        self._progress.advance(self._task, steps)
        self._work.done += steps
        self._work.skipped += steps

    def resize(self, total: int) -> None:
        """Correct the total number of steps."""
        self._work.total = total
        self._progress.update(self._task, total=total)


SILENT = Console("silent")
