"""Streams for writers that cannot bear a full disk."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import IO, Any, cast


class _Steady(io.RawIOBase):
    """A stream for writers that cannot bear a full disk: it keeps the first error and swallows what follows.

    Attributes:
        error: of the file behind it, to be raised when the writer is done.
    """

    def __init__(self, stream: IO[bytes]) -> None:
        super().__init__()
        self.stream = stream
        self.error: OSError | None = None

    def writable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Said to be, for writers that ask; nothing moves, for they only go back to the start when they are done."""
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        """Nothing."""
        return 0

    def write(self, data: Any) -> int:
        """Pass bytes on, as long as there was no error."""
        if self.error is None:
            try:
                self.stream.write(data)
            except OSError as error:
                self.error = error
        return len(data)


def write_steadily(stream: IO[bytes], write: Callable[[IO[bytes]], None]) -> None:
    """Let a writer fill a stream once and in order; it sees no error of the disk, which is raised when it is done.

    PyTorch's archive writer aborts the whole process when a write fails under it.

    Raises:
        OSError: the disk is full or not writable.
    """
    steady = _Steady(stream)
    write(cast(IO[bytes], steady))
    if steady.error is not None:
        raise steady.error
