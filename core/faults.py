"""Distinguishes defects of Retort's own code from exceptions of a model, a file or a library.

Other people's code raises many classes of exceptions, so a handler has to be broad. :func:`is_defect` prevents it
from reporting a defect of Retort as a property of the user's model.
"""

from __future__ import annotations

from pathlib import Path

OWN = (AssertionError, AttributeError, IndexError, KeyError, NameError, TypeError)
"""Exceptions that mistakes in code raise, and that this package never raises on purpose."""
ROOMS = frozenset(("core", "compress", "export", "serve", "handlers", "benchmarks", "pipeline", "cli"))
ROOT = Path(__file__).parents[1]


def is_defect(error: BaseException) -> bool:
    """Whether an exception is a defect of Retort: its class is one of ``OWN``, and a line of this package raised it.

    An exception of a model, a data function or a library is raised by a line of their code, and does not count.
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


def raise_if_defect(error: BaseException) -> None:
    """Raise an exception again if it is a defect of Retort, else do nothing."""
    if is_defect(error):
        raise error


def first_line(error: BaseException, limit: int = 200) -> str:
    """The first line of an exception's message, or its class if the message is empty."""
    lines = str(error).splitlines()
    return lines[0][:limit] if lines and lines[0] else type(error).__name__
