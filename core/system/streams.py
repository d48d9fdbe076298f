"""Streams for writers that crash when the disk is full."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import IO, Any, cast


class _Steady(io.RawIOBase):
    """A stream for writers that crash when the disk is full: it stores the first error and ignores later writes.

    Attributes:
        error: the error of the underlying file, to be raised when the writer has finished.
    """

    def __init__(self, stream: IO[bytes]) -> None:
        super().__init__()
        self.stream = stream
        self.error: OSError | None = None

    def writable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Accept a seek and do nothing: writers only go back to the start after they have finished."""
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        """Nothing."""
        return 0

    def write(self, data: Any) -> int:
        """Write bytes to the file, unless an error has occurred."""
        if self.error is None:
            try:
                self.stream.write(data)
            except OSError as error:
                self.error = error
        return len(data)


def write_steadily(stream: IO[bytes], write: Callable[[IO[bytes]], None]) -> None:
    """Let a writer fill a stream once and in order. An error of the disk is raised after the writer has finished.

    PyTorch's archive writer aborts the whole process if a write fails.

    Raises:
        OSError: the disk is full or not writable.
    """
    steady = _Steady(stream)
    write(cast(IO[bytes], steady))
    if steady.error is not None:
        raise steady.error
