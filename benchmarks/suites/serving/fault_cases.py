"""A fault of a provider, a runtime or an engine, and whether its error has the cause."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

REAL, GPU_BUILD, PLAN, WORKER = "this machine", "GPU build (double)", "TensorRT and driver (double)", "real worker"


@dataclass(frozen=True)
class Case:
    """One fault.

    Attributes:
        where: what is real about it.
        cause: pattern that the error must have.
        load: opens the model.
    """

    what: str
    where: str
    cause: str
    load: Callable[[], object]


@dataclass(frozen=True)
class Told:
    """What became of a case.

    Attributes:
        error: class and message of the error; empty if the model was opened.
        right: whether the error has the cause.
    """

    what: str
    where: str
    error: str
    right: bool


def told(case: Case) -> Told:
    """Load the model of a case."""
    try:
        case.load()
    except Exception as error:  # whatever class, its text must have the cause
        text = " ".join(f"{type(error).__name__}: {error}".split())
        return Told(case.what, case.where, text, re.search(case.cause, text) is not None)
    return Told(case.what, case.where, "", False)


def flip(path: Path) -> None:
    """Flip the last bit of a file."""
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
