"""Memory of the process: freed memory goes back to the operating system, and errors that mean "out of memory"."""

from __future__ import annotations

import ctypes
import gc
import sys
from contextlib import suppress
from pathlib import Path

import psutil

_SIGNS = ("not enough memory", "can't allocate memory", "out of memory", "bad_alloc", "failed to allocate memory")


def give_back() -> None:
    """Collect reference cycles (graphs with their weights are cycles), and return free pages of the heap.

    The C library keeps freed blocks for later use. After a step that held a copy of a model they are large.
    """
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:  # only glibc has this function
        trim(0)


def ran_out(error: BaseException) -> bool:
    """Whether an exception means that memory ran out: Python's own class, and what the runtimes raise instead."""
    if isinstance(error, MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error).lower() for sign in _SIGNS)


def available_bytes(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Memory that new processes can use without swapping: the machine's, within the limit of this container."""
    free = int(psutil.virtual_memory().available)
    with suppress(OSError, ValueError):  # no cgroup of version 2, or "max" instead of a number
        limit, used = (int((cgroup / name).read_text()) for name in ("memory.max", "memory.current"))
        free = min(free, max(0, limit - used))
    return free
