"""The folder of a server's logs, in which no other server writes."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path

from ...core.system.atomic_files import storage_errors
from ...core.system.folder_locks import alone


@contextmanager
def log_folder(wanted: Path) -> Iterator[Path]:
    """The wanted folder, or ``2``, ``3`` … in it if running servers have it; it is created, and kept afterwards.

    Raises:
        StorageError: it cannot be created.
    """
    with ExitStack() as stack:
        for number in count(1):
            folder = wanted if number == 1 else wanted / str(number)
            with storage_errors(str(folder), errno.EEXIST, errno.ENOENT):  # a file in its place, /proc
                folder.mkdir(parents=True, exist_ok=True)
                free = stack.enter_context(alone(folder))
            if free:
                yield folder.resolve()
                return
