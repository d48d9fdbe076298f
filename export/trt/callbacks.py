"""Callbacks of TensorRT during a build: the logger and the progress monitor."""

from __future__ import annotations

import re
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any

Emit = Callable[[dict[str, Any]], None]
_WEIGHTS = re.compile(r"Total Weights Memory: (\d+) bytes")


class Journal:
    """Log of TensorRT: errors are stored for messages, warnings are forwarded.

    Args:
        quiet_about: warnings with this text are known and suppressed.
    """

    def __init__(self, emit: Emit, quiet_about: str = "") -> None:
        self.emit = emit
        self.quiet_about = quiet_about
        self.errors: deque[str] = deque(maxlen=20)
        self.weights_bytes: int | None = None

    def note(self, severity: str, text: str) -> None:
        """Take one line of the log."""
        if severity in ("ERROR", "INTERNAL_ERROR"):
            self.errors.append(text)
        elif severity == "WARNING" and not (self.quiet_about and self.quiet_about in text):
            self.emit({"event": "log", "text": text})
        found = _WEIGHTS.search(text)
        if found:
            self.weights_bytes = int(found.group(1))

    def last(self) -> str:
        """The error to quote: the last one that contains more than the statement that something failed."""
        return next((text for text in reversed(self.errors) if len(text) > 20), "TensorRT gave no reason")


def new_logger(trt: Any, journal: Journal) -> Any:
    """A logger that writes into the journal. One per process: a second one is ignored while a builder lives."""

    class Forward(trt.ILogger):  # type: ignore[misc]
        """Forwards every line; an exception must not reach TensorRT."""

        def __init__(self) -> None:
            super().__init__()

        def log(self, severity: Any, text: str) -> None:
            """Take one line."""
            with suppress(Exception):
                journal.note(severity.name, text)

    return Forward()


def new_monitor(trt: Any, emit: Emit, cancelled: threading.Event) -> Any:
    """A progress monitor that reports every step, and cancels the build once ``cancelled`` is set."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        """Reports the progress of the build, and stops it on request."""

        def __init__(self) -> None:
            super().__init__()
            self.root = ""

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            """A phase begins."""
            if not parent_phase:
                self.root = phase_name
                emit({"event": "progress", "total": num_steps, "done": 0, "note": phase_name})

        def step_complete(self, phase_name: str, step: int) -> bool:
            """A step is done; False stops the build."""
            done = {"done": step + 1} if phase_name == self.root else {}
            emit({"event": "progress", "note": phase_name, **done})
            return not cancelled.is_set()

        def phase_finish(self, phase_name: str) -> None:
            """A phase ends; its last step has already been reported."""

    return Monitor()
