"""Retort takes a trained PyTorch model and gives back a smaller, faster one with the proof beside it.

``retort.capture``, ``train``, ``distill``, ``prune``, ``sparsify``, ``quantize``, ``export``, ``engine``, ``pack``,
``compare``, ``open_session`` and ``load`` work on live objects; ``help(retort.prune)`` and so on tell more. Importing
this package loads nothing: the names come from ``retort.api`` when they are first used.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .api import (
        Archive,
        Engine,
        Facts,
        Graph,
        Program,
        Result,
        Run,
        capture,
        compare,
        distill,
        engine,
        export,
        load,
        open_session,
        pack,
        prune,
        quantize,
        sparsify,
        train,
    )

__all__ = [
    "Archive", "Engine", "Facts", "Graph", "Program", "Result", "Run",
    "capture", "compare", "distill", "engine", "export", "load", "open_session", "pack", "prune", "quantize",
    "sparsify", "train",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'retort' has no attribute '{name}'")
    return getattr(_face(), name)


def _face() -> ModuleType:
    # by a computed name, because the key of every artifact follows the imports of the code that makes it
    return import_module(f"{__name__}.api")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])


class _Verb(ModuleType):
    """A room that bears the name of a verb: ``retort.export`` is both the folder and the call."""

    def __call__(self, *values: Any, **named: Any) -> Any:
        return getattr(_face(), self.__name__.rpartition(".")[2])(*values, **named)


class _Root(ModuleType):
    """This package; Python sets a room as its attribute when the room is imported, which must not hide a verb."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name in __all__ and isinstance(value, ModuleType):
            value.__class__ = _Verb
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Root
