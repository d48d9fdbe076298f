"""The lock of a run's folder: one run at a time; who only looks asks for an instant, and does not stop a run."""

from __future__ import annotations

import fcntl
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from ...core.errors import MachineError
from .run_names import is_leftover

LOCK = ".lock"
PATIENCE_S = 0.5
"""A run waits this long for its lock, because :func:`is_active` has it for an instant."""


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Lock a run's folder for this process, and delete incomplete artifacts of a killed run.

    Raises:
        MachineError: another process has the lock.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("w") as lock:
        if not _locked(lock):
            raise MachineError(
                f"another `retort run`, or `retort clean`, uses {folder}",
                "wait until it ends, or choose another folder with --runs",
            )
        for leftover in folder.iterdir():
            if is_leftover(leftover):
                shutil.rmtree(leftover, ignore_errors=True)
        yield


def _locked(lock: IO[str]) -> bool:
    until = time.monotonic() + PATIENCE_S
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > until:
                return False
            time.sleep(0.02)
        else:
            return True


def is_active(folder: Path) -> bool:
    """Whether a run is active in a folder; the shared lock by which this is asked is given back at once.

    Raises:
        OSError: the folder or its lock cannot be read.
    """
    try:
        with (folder / LOCK).open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


@contextmanager
def unless_active(folder: Path) -> Iterator[bool]:
    """Lock a run's folder within this context, to change it; yields False if another process runs there.

    Raises:
        OSError: the lock cannot be written.
    """
    with (folder / LOCK).open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True
