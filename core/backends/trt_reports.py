"""What TensorRT reports besides return values: lines of its log, and errors of runs that went on.

Part of the runtime half: standard library only.
"""

from __future__ import annotations

import functools
import threading
from collections import deque
from contextlib import suppress
from typing import Any

_LOG: deque[str] = deque(maxlen=20)
_MOST = 16
"""Errors that are kept until they are read; the recorder says that there were more."""


@functools.cache
def logger(module: Any) -> Any:
    """One logger per process: TensorRT ignores a second one while objects created with the first exist."""

    class Keep(module.ILogger):  # type: ignore[misc]
        """Stores the last errors for error messages."""

        def __init__(self) -> None:
            super().__init__()

        def log(self, severity: Any, text: str) -> None:
            """Store one line."""
            with suppress(Exception):
                if severity.name in ("ERROR", "INTERNAL_ERROR"):
                    _LOG.append(text)

    return Keep()


def last() -> str:
    """The last error in the log."""
    return _LOG[-1] if _LOG else "it gave no reason"


def error_recorder(module: Any) -> Any:
    """An object that collects the errors of an engine and its contexts; ``taken`` gives them and forgets them.

    A run can return as if it had succeeded and still have reported an error, such as one of a kernel, so it is read
    after every run (serve.md H19). Its method names are TensorRT's.
    """

    class Recorder(module.IErrorRecorder):  # type: ignore[misc]
        """The errors since the last clearing; TensorRT may report them from several threads."""

        def __init__(self) -> None:
            super().__init__()
            self._errors: list[tuple[Any, str]] = []
            self._lock = threading.Lock()

        def num_errors(self) -> int:
            """How many errors are kept."""
            return len(self._errors)

        def get_error_code(self, index: int) -> Any:
            """The code of an error."""
            return self._errors[index][0]

        def get_error_desc(self, index: int) -> str:
            """The words of an error."""
            return self._errors[index][1]

        def has_overflowed(self) -> bool:
            """Whether there may have been more errors than are kept."""
            return len(self._errors) >= _MOST

        def clear(self) -> None:
            """Forget all errors."""
            with self._lock:
                self._errors.clear()

        def report_error(self, code: Any, text: str) -> bool:
            """Keep an error; the run ends, because nothing here could repair it."""
            with self._lock:
                if len(self._errors) < _MOST:
                    self._errors.append((code, str(text)))
            return True

        def taken(self) -> list[str]:
            """The words of all errors, which are forgotten."""
            with self._lock:
                found = [text for _, text in self._errors]
                self._errors.clear()
            return found

    return Recorder()
