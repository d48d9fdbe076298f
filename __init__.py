"""Retort makes a trained PyTorch model smaller and faster, and verifies the result.

``retort.capture``, ``train``, ``distill``, ``prune``, ``sparsify``, ``quantize``, ``export``, ``engine``, ``bundle``,
``pack``, ``compare``, ``explain``, ``open_session`` and ``load`` work on live objects; see ``help(retort.prune)`` for
an example. Importing this package loads nothing: the names are imported from ``retort.api`` when they are first used.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    __version__: str
    from .api import (
        Archive,
        Bundle,
        Deployment,
        Engine,
        Explanations,
        Facts,
        Graph,
        Program,
        Result,
        Run,
        bundle,
        capture,
        compare,
        distill,
        engine,
        explain,
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
    "Archive", "Bundle", "Deployment", "Engine", "Explanations", "Facts", "Graph", "Program", "Result", "Run",
    "bundle", "capture", "compare", "distill", "engine", "explain", "export", "load", "open_session", "pack", "prune",
    "quantize", "sparsify", "train",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return import_module(f"{__name__}.core.system.installation").version()
    if name not in __all__:
        raise AttributeError(f"module 'retort' has no attribute '{name}'")
    # by a computed name, because the key of every artifact follows the imports of the code that makes it
    found = getattr(import_module(f"{__name__}.api"), name)
    room = sys.modules.get(f"{__name__}.{name}")
    if room is not None:  # so that `retort.export.stage` is found as an attribute of the function, too
        vars(found).update({key: value for key, value in vars(room).items() if isinstance(value, ModuleType)})
    return found


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])


class _Root(ModuleType):
    """This package, in which a subpackage does not hide the function of the same name: ``retort.export``.

    Python sets every subpackage as an attribute of its parent when it is imported. Imports such as
    ``from retort.export import stage`` do not need this attribute.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in __all__ or not isinstance(value, ModuleType):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Root
