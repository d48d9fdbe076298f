"""Locks of folders in which work is in progress; the system gives a lock back when its process ends, also if killed."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .atomic_files import storage_errors
from .owned_folders import SCRATCH

_TAKEN = {errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES}


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Create a folder for unfinished work, and lock it within this context, so that nobody takes it for abandoned.

    Several processes may hold it. It is deleted afterwards if nothing was written there.

    Raises:
        StorageError: it cannot be created.
    """
    with storage_errors(str(folder), errno.ENOENT):  # a file system such as /proc reports ENOENT
        descriptor = _opened(folder)
    try:
        yield
    finally:
        os.close(descriptor)
        _remove_if_empty(folder)


@contextmanager
def alone(folder: Path) -> Iterator[bool]:
    """Lock a folder within this context; False if another holder has it. Without locks in its file system it is True.

    Raises:
        OSError: it cannot be opened.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield _is_locked(descriptor)
    finally:
        os.close(descriptor)


def _is_locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in _TAKEN
    return True


def _remove_if_empty(folder: Path) -> None:
    for place in (folder, folder.parent) if folder.parent.name == SCRATCH else (folder,):
        with suppress(OSError):  # it has content, or was moved or deleted
            place.rmdir()


def _opened(folder: Path) -> int:
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):  # deleted by `retort clean` since
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            with suppress(OSError):  # a file system without locks: `retort clean` keeps what it cannot lock
                fcntl.flock(descriptor, fcntl.LOCK_SH)
            if folder.exists() and os.path.samestat(os.fstat(descriptor), folder.stat()):
                return descriptor
            os.close(descriptor)


def why_in_use(folder: Path) -> str:
    """Why a folder of unfinished work may not be deleted, in words that follow its path; empty if nobody holds it.

    Nothing is locked for longer than the question takes.
    """
    return _with_lock(folder, lambda: None)


def delete_abandoned(folder: Path) -> None:
    """Delete a folder of unfinished work, unless a process holds it."""
    _with_lock(folder, lambda: shutil.rmtree(folder, ignore_errors=True))  # does not follow links
    _remove_if_empty(folder)


def _with_lock(folder: Path, then: Callable[[], None]) -> str:
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError as error:
        return f"cannot be opened: {error.strerror}"
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        then()
    except OSError as error:
        return "is in use by a command" if error.errno in _TAKEN else f"cannot be locked: {error.strerror}"
    finally:
        os.close(descriptor)
    return ""
