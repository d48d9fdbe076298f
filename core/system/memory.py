"""Return of freed memory to the operating system, so that the next step can use it."""

from __future__ import annotations

import ctypes
import gc
import sys


def give_back() -> None:
    """Collect reference cycles (graphs with their weights are cycles), and return free pages of the heap.

    The C library keeps freed blocks for later use. After a step that held a copy of a model they are large.
    """
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:  # only glibc has this function
        trim(0)
