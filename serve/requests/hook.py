"""A user's own functions around a served model: what a request means, and what an answer says.

A file given to `retort pack --handler` defines one or both of these functions::

    def decode(request: Incoming) -> Mapping[str, ndarray] | None: ...
    def answer(outputs: dict[str, ndarray], request: Request) -> object | None: ...

``decode`` gives the inputs of the model for one request, with their batch axis, and ``answer`` the value of the JSON
answer, in which arrays may stand. None leaves it to Retort. Both are called for each request by itself, so that an
exception answers only that request. Part of the runtime half: standard library and numpy only.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...core.errors import ArtifactError
from ...core.tensors import Array
from .request import Incoming, Request

HOOK = "hook.py"
"""Name of the file in a bundle and in an archive."""
_FUNCTIONS = ("decode", "answer")


@dataclass(frozen=True)
class Hook:
    """The functions of a file; those that it does not define are None."""

    decode: Callable[[Incoming], Any] | None = None
    answer: Callable[[dict[str, Array], Request], Any] | None = None

    def arrays_of(self, request: Incoming) -> Mapping[str, Array] | None:
        """The inputs for one request, or None if Retort shall decode it.

        Raises:
            RuntimeError: the function returned something else.
        """
        if self.decode is None:
            return None
        found = _called(self.decode, request)
        if found is not None and not isinstance(found, Mapping):
            raise RuntimeError(f"decode returned {type(found).__name__}, not arrays by the names of inputs")
        return found

    def value_of(self, outputs: dict[str, Array], request: Request) -> Any:
        """The value of the answer, or None if Retort shall write it."""
        return None if self.answer is None else _called(self.answer, outputs, request)


def _called(function: Callable[..., Any], *values: Any) -> Any:
    try:
        return function(*values)
    except SystemExit as error:  # it would end the worker, and with it the requests of others
        raise RuntimeError("the hook asked to exit") from error


def load_hook(source: bytes, where: str = HOOK) -> Hook:
    """The functions that the source of a file defines.

    Raises:
        ArtifactError: it cannot be run, or defines neither function.
    """
    module = types.ModuleType("retort_hook")
    module.__file__ = where
    try:
        exec(compile(source, where, "exec"), module.__dict__)
    except Exception as error:  # the user's code may raise anything
        message = f"{Path(where).name} cannot be run: {type(error).__name__}: {str(error)[:200]}"
        raise ArtifactError(message, "correct the file, and pack the model again") from error
    found = {name: getattr(module, name, None) for name in _FUNCTIONS}
    if not any(callable(function) for function in found.values()):
        raise ArtifactError(
            f"{Path(where).name} defines neither `decode` nor `answer`",
            "define decode(request), which gives arrays by the names of inputs, or answer(outputs, request)",
        )
    return Hook(**{name: function for name, function in found.items() if callable(function)})
