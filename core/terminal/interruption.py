"""What is kept when the user interrupts a command; the code that keeps something notes it on the exception."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager


@contextmanager
def noting_what_is_kept(what: Callable[[], str]) -> Iterator[None]:
    """Note what is kept if the work inside is interrupted by Ctrl-C or a signal to stop.

    Args:
        what: called at the interruption; returns a clause, such as ``the checkpoint of epoch 4 is kept``.
    """
    try:
        yield
    except KeyboardInterrupt as stop:
        stop.add_note(what())
        raise


def kept_by(stop: BaseException) -> Sequence[str]:
    """The clauses that were noted, the innermost work first."""
    return tuple(getattr(stop, "__notes__", ()))
