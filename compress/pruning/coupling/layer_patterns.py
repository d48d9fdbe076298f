"""Layers by name: what a pattern matches, and the error if it matches nothing."""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Iterable

from ....core.errors import UserError


def matching(pattern: str, parameters: Iterable[str], option: str) -> list[str]:
    """The parameters for which a shell-style pattern matches their own name or the name of their layer.

    Args:
        parameters: dotted names such as ``layer1.0.conv1.weight``.
        option: the option that contains the pattern, for the error message.

    Raises:
        UserError: nothing matches; the message suggests the closest names.
    """
    names = list(parameters)
    found = [name for name in names if any(fnmatch.fnmatchcase(part, pattern) for part in (name, _layer(name)))]
    if found:
        return found
    layers = list(dict.fromkeys(_layer(name) for name in names))
    near = difflib.get_close_matches(pattern, [*layers, *names], n=3, cutoff=0.3)
    shown = f"the closest names are {', '.join(near)}" if near else f"the model has {', '.join(layers[:5])} …"
    raise UserError(f"prune.{option}: no layer or parameter matches '{pattern}'", shown, pattern=pattern)


def _layer(name: str) -> str:
    return name.rpartition(".")[0] or name
