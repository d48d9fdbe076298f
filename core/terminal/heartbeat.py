"""Signs of life in a log: a line about the current work whenever nothing was printed for some time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

LINE_EVERY_S = 30.0
"""Longest time without a line while work is going on."""


@dataclass
class Work:
    """Work in progress.

    Attributes:
        label: its name.
        total: number of its steps, if it has steps.
        done: number of finished steps.
        skipped: number of those that an interrupted run had finished.
        last_s: how long the same work took the last time, if it is known.
        started: reading of the monotonic clock at its beginning, in seconds.
    """

    label: str
    total: int | None = None
    done: int = 0
    skipped: int = 0
    last_s: float | None = None
    started: float = field(default_factory=lambda: time.monotonic())

    @property
    def finished(self) -> bool:
        """Whether all of its steps are done."""
        return self.total is not None and self.done >= self.total

    def describe(self, now: float) -> str:
        """``3 of 10, about 84 s left``, or the time that it has taken so far and what is left by its last run."""
        fresh = self.done - self.skipped
        if self.total is None or self.finished:
            return f"running for {duration_text(now - self.started)}{self._by_the_last_run(now)}"
        if fresh <= 0:
            return f"{self.done} of {self.total}, running for {duration_text(now - self.started)}"
        left = (now - self.started) / fresh * (self.total - self.done)
        return f"{self.done} of {self.total}, about {duration_text(left)} left"

    def _by_the_last_run(self, now: float) -> str:
        if self.last_s is None:
            return ""
        left = self.started + self.last_s - now
        if left < 1:
            return f", last time it took {duration_text(self.last_s)}"
        return f", about {duration_text(left)} left if it takes as long as last time"


class Heartbeat:
    """Prints a line when the last one is :data:`LINE_EVERY_S` seconds ago, as long as there is work.

    A thread sleeps until the next line is due, so that one long step is reported, too. It ends with the work.

    Args:
        say: prints a line, and calls :meth:`told`.
        shown: whether a progress bar is visible, which makes lines superfluous.
    """

    def __init__(self, say: Callable[[str], None], shown: Callable[[], bool]) -> None:
        self._say, self._shown = say, shown
        self._works: list[Work] = []
        self._last = 0.0
        self._lock = threading.RLock()

    def told(self) -> None:
        """Note that something was printed."""
        self._last = time.monotonic()

    @contextmanager
    def during(self, work: Work) -> Iterator[None]:
        """Report ``work`` within this context; contexts may be nested, and the innermost work is reported."""
        ended = None if self._works else self._start()
        with self._lock:
            self._works.append(work)
        try:
            yield
        finally:
            with self._lock:
                self._works.remove(work)
            if ended is not None:
                ended.set()

    def _start(self) -> threading.Event:
        self.told()
        ended = threading.Event()
        threading.Thread(target=self._watch, args=(ended,), name="heartbeat", daemon=True).start()
        return ended

    def beat(self) -> None:
        """Print a line if one is due."""
        now = time.monotonic()
        if now - self._last < LINE_EVERY_S:
            return
        with self._lock:
            if self._works and now - self._last >= LINE_EVERY_S and not self._shown():
                self._say(self._text(now))
            self.told()

    def _text(self, now: float) -> str:
        first, last = self._works[0], self._works[-1]
        if last.total is None and last.label == first.label:
            last = first
        inner = f"{last.label}: " if last.label != first.label else ""
        return f"{first.label:>10}  {inner}{last.describe(now)}"

    def _watch(self, ended: threading.Event) -> None:
        while not ended.wait(max(self._last + LINE_EVERY_S - time.monotonic(), 0.01)):
            self.beat()


def duration_text(seconds: float) -> str:
    """``84 s``, ``12 min`` or ``2.5 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"
