"""Telling a defect of Retort's own code from what a model, a file or a library raises.

Where foreign code raises a zoo of classes, a handler has to be broad. :func:`is_own_fault` keeps it from turning a
defect of ours into a verdict about somebody's model.
"""

from __future__ import annotations

from pathlib import Path

OWN = (AssertionError, AttributeError, IndexError, KeyError, NameError, TypeError)
"""What a mistake in code raises, and no library of ours raises on purpose from a frame of this package."""
ROOMS = frozenset(("core", "compress", "export", "serve", "handlers", "benchmarks", "pipeline", "cli"))
ROOT = Path(__file__).parents[1]


def is_own_fault(error: BaseException) -> bool:
    """Whether an exception is a defect of Retort: of a class that mistakes raise, and raised by a line of this package.

    What a model, a data function or a library raises comes from a frame of theirs, and is none of it.
    """
    if not isinstance(error, OWN) or type(error).__module__ != "builtins" or error.__traceback__ is None:
        return False
    trace = error.__traceback__
    while trace.tb_next is not None:
        trace = trace.tb_next
    path = Path(trace.tb_frame.f_code.co_filename)
    if not path.is_relative_to(ROOT):
        return False
    inside = path.relative_to(ROOT).parts
    return len(inside) == 1 or inside[0] in ROOMS


def raise_own_fault(error: BaseException) -> None:
    """Raise an exception again that is a defect of Retort; do nothing with any other."""
    if is_own_fault(error):
        raise error


def first_line(error: BaseException, limit: int = 200) -> str:
    """The first line of an exception's message; its class where it has none."""
    lines = str(error).splitlines()
    return lines[0][:limit] if lines and lines[0] else type(error).__name__
