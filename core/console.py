"""Terminal output: progress bars, messages of stages, tables and results, with a JSON mode and a silent mode."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, TypeVar

from rich.console import Console as RichConsole
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

Mode = Literal["text", "json", "silent"]
T = TypeVar("T")
PIPE_WIDTH = 200

LINE_EVERY_S = 30.0
"""Time between two lines of progress where there is no terminal."""


class Console:
    """Messages and progress go to stderr, results to stdout.

    Args:
        mode: ``text`` for people; ``json`` prints only :meth:`result`, as one JSON line; ``silent`` prints nothing.
    """

    def __init__(self, mode: Mode = "text") -> None:
        self.mode = mode
        self._err = RichConsole(stderr=True, quiet=mode != "text", highlight=False)
        wide = None if sys.stdout.isatty() else PIPE_WIDTH
        self._out = RichConsole(quiet=mode != "text", highlight=False, soft_wrap=True, width=wide)
        self._progress: Progress | None = None

    def say(self, text: str) -> None:
        """Print one line about the current work."""
        self._err.print(text, markup=False, soft_wrap=True)

    def stage(self, name: str, text: str) -> None:
        """Print one line about a stage: its name in bold, then ``text``."""
        self._err.print(Text(f"{name:>10}  ", "bold cyan"), end="")
        self._err.print(text, markup=False, soft_wrap=True)

    def warn(self, text: str) -> None:
        """Print a warning; the work continues."""
        self._err.print(Text("   warning  ", "bold yellow"), end="")
        self._err.print(text, markup=False, soft_wrap=True)

    def table(self, title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], words: bool = False) -> None:
        """Print a table on stdout. The first column is left-aligned, the others right-aligned unless ``words``."""
        # as Text, because Rich takes brackets in strings for markup
        table = Table(title=Text(title), title_justify="left", title_style="bold", pad_edge=False)
        for index, column in enumerate(columns):
            table.add_column(Text(column), justify="left" if words or index == 0 else "right", no_wrap=not words)
        for row in rows:
            table.add_row(*(Text(cell) for cell in row))
        self._out.print(table, soft_wrap=False)

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
        try:
            yield Bar(self._progress, task, None if self._progress.disable is False else Lines(self, label, total))
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


class Lines:
    """Progress in lines for logs: one every :data:`LINE_EVERY_S` seconds."""

    def __init__(self, console: Console, label: str, total: int) -> None:
        self._console, self._label, self.total = console, label, total
        self._done, self._started = 0, time.monotonic()
        self._told = self._started

    def advance(self, steps: int) -> None:
        """Count steps, and print a line if the last one is long ago."""
        self._done += steps
        now = time.monotonic()
        if now - self._told < LINE_EVERY_S or self._done >= self.total:
            return
        self._told = now
        left = (now - self._started) / max(self._done, 1) * (self.total - self._done)
        self._console.say(f"{self._label:>10}  {self._done} of {self.total}, about {_duration(left)} left")


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"


class Bar:
    """One running progress bar."""

    def __init__(self, progress: Progress, task: Any, lines: Lines | None = None) -> None:
        self._progress = progress
        self._task = task
        self._lines = lines

    def advance(self, steps: int = 1, note: str | None = None) -> None:
        """Advance by ``steps``; ``note`` replaces the text next to the bar."""
        self._progress.advance(self._task, steps)
        if self._lines is not None:
            self._lines.advance(steps)
        if note is not None:
            self._progress.update(self._task, note=note)

    def resize(self, total: int) -> None:
        """Correct the total number of steps."""
        if self._lines is not None:
            self._lines.total = total
        self._progress.update(self._task, total=total)


SILENT = Console("silent")
