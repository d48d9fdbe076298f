"""Freed memory goes back to the system: what a stage no longer needs does not count against the next step."""

from __future__ import annotations

import ctypes
import gc
import sys


def give_back() -> None:
    """Collect what refers to itself (graphs do, and hold their weights), and return free pages of the heap.

    The C library keeps freed blocks for later; after a step that held a copy of a model they are worth returning.
    """
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:  # glibc alone has it
        trim(0)
