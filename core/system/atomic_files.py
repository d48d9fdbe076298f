"""Files and folders that are written whole or not at all, and clear errors where a disk is full or read-only."""

from __future__ import annotations

import errno
import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from ..errors import StorageError
from .streams import write_steadily
from .user_paths import remedy_of

_UNWRITABLE = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR}


@contextmanager
def storage_errors(what: str, *more: int) -> Iterator[None]:
    """Turn errors of a full or read-only disk, and the codes ``more``, into a :class:`StorageError` naming the path."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        code = getattr(error, "errno", None)
        text = str(error)
        if code not in {*_UNWRITABLE, *more} and "No space left" not in text:
            raise
        remedy = remedy_of(code)
        if code in (None, errno.ENOSPC, errno.EDQUOT):
            remedy = "free some space or choose another folder with --out or --runs; finished stages are kept"
        raise StorageError(f"cannot write {what}: {os.strerror(code) if code else text}", remedy) from error


def write_atomically(path: Path, content: bytes | Callable[[IO[bytes]], None]) -> None:
    """Write a file atomically: a reader sees the old content or the new content, never a part of it.

    Raises:
        StorageError: the disk is full or not writable.
    """
    scratch = path.parent / f".{path.name}.{uuid.uuid4().hex[:8]}.tmp"
    with storage_errors(str(path)):
        try:
            with scratch.open("wb") as stream:
                stream.write(content) if isinstance(content, bytes) else write_steadily(stream, content)
                stream.flush()
                os.fsync(stream.fileno())
            scratch.replace(path)
        finally:
            scratch.unlink(missing_ok=True)
