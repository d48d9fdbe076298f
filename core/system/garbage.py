"""Python's garbage collector, which is paused where it would disturb a measurement or take time for nothing.

Part of the runtime half: standard library only.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def no_collections(collect_first: bool = False) -> Iterator[None]:
    """Pause the garbage collector within this context.

    Args:
        collect_first: whether to collect once before, so that nothing is left to collect from earlier work.
    """
    enabled = gc.isenabled()
    if collect_first:
        gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
