"""Transfer: the weights of another model of which only a part fits, and names that differ between the two."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ...core.counts import counted
from ...core.errors import ModelError, UserError
from ...core.options.recipe import nearest

SHOWN = 6
State = dict[str, Any]


def renamed(state: State, names: Mapping[str, str]) -> State:
    """A state dict whose names are replaced by patterns; the same object without patterns.

    Args:
        names: new names by pattern. Both may have one ``*``, which stands for the same text: ``encoder.*`` to
            ``backbone.*``. The first pattern that fits a name is used; an empty new name leaves the weight out.

    Raises:
        UserError: a pattern fits no name, has several ``*``, or its new name has one that the pattern does not have.
    """
    if not names:
        return state
    for pattern, new in names.items():
        if pattern.count("*") > 1 or new.count("*") > pattern.count("*"):
            raise UserError(f"weights_names: '{pattern}: {new}' is unclear", "give at most one `*` on each side")
        if not any(fnmatchcase(name, pattern) for name in state):
            near = nearest(pattern.rstrip("*."), sorted({name.rpartition(".")[0] for name in state}))
            raise UserError(f"weights_names: the file has no weight '{pattern}'{near}", "correct or remove the pattern")
    found: State = {}
    for name, value in state.items():
        chosen = next((item for item in names if fnmatchcase(name, item)), None)
        new = name if chosen is None else _new_name(name, chosen, names[chosen])
        if new:
            found[new] = value
    return found


def _new_name(name: str, pattern: str, new: str) -> str:
    before, star, after = pattern.partition("*")
    return new.replace("*", name[len(before) : len(name) - len(after)]) if star else new


def fitting(model: nn.Module, state: State) -> list[str]:
    """The names of a state dict that the model has, with the same shape."""
    own = model.state_dict()
    return [name for name, value in state.items() if name in own and own[name].shape == getattr(value, "shape", None)]


def load_matching(model: nn.Module, state: State, file: Path) -> list[str]:
    """Load the weights that fit, and say what does not.

    Returns:
        Notes: how many were loaded, which have another shape, which start anew, and which are not used.

    Raises:
        ModelError: none fits.
    """
    own, fits = model.state_dict(), fitting(model, state)
    if not fits:
        raise ModelError(
            f"no weight in {file} has the name and the shape of one of the model",
            f"give `weights_names`; the file has {_listed(list(state))}, the model {_listed(list(own))}",
        )
    with torch.no_grad():
        model.load_state_dict({name: state[name] for name in fits}, strict=False)
    other = [name for name in own if name in state and name not in fits]
    missing = [name for name in own if name not in state]
    unused = [name for name in state if name not in own]
    notes = [f"{len(fits)} of {counted(own, 'weight')} of the model were loaded"]
    if other:
        shapes = [
            f"{name} {list(state[name].shape)} in the file, {list(own[name].shape)} in the model" for name in other
        ]
        notes.append(f"another shape, so they start anew: {_listed(shapes)}")
    if missing:
        notes.append(f"not in the file, so they start anew: {_listed(missing)}")
    if unused:
        notes.append(f"not used of the file: {_listed(unused)}")
    return notes


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
