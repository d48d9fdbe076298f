"""Helpers for tests of defects: exceptions that are raised from a line of the package."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

import pytest

from retort.compress.pruning.coupling import rules

OWN = pytest.mark.parametrize("defect", [KeyError("gone"), AssertionError("never"), IndexError("out"), TypeError("no")])


def raising(defect: Exception) -> Callable[..., NoReturn]:
    """A function of the package that fails: its frame is in the file of a rule."""
    space: dict[str, Any] = {"defect": defect}
    source = "def fails(*args, **kwargs):\n    raise defect\n"
    exec(compile(source, rules.__file__, "exec"), space)
    function: Callable[..., NoReturn] = space["fails"]
    return function
