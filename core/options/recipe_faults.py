"""Faults of a recipe: each with its key, its line and its remedy, and the error that lists all of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import yaml

from ..errors import RecipeError
from .yaml_text import compose_yaml

KeyPath = tuple[str, ...]


@dataclass(frozen=True)
class Fault:
    """One fault of a recipe.

    Attributes:
        key: the key path, such as ``stages.0.train.epochs``; empty for the recipe as a whole.
        message: what is wrong.
        remedy: what to do about it; empty if the message says it.
        line: the line of the recipe, from 1; None if it is not known.
    """

    key: str
    message: str
    remedy: str = ""
    line: int | None = None

    def __str__(self) -> str:
        place = self.key + (f" (line {self.line})" if self.line else "")
        text = f"{place}: {self.message}" if place else self.message
        return f"{text}\n      → {self.remedy}" if self.remedy else text

    def to_dict(self) -> dict[str, Any]:
        """All fields, as JSON-ready values."""
        return asdict(self)


class KeyLines:
    """The lines of all keys of a YAML text.

    Args:
        text: the recipe; with an empty text no line is known.
    """

    def __init__(self, text: str = "") -> None:
        self._found: dict[KeyPath, int] = {}
        self.repeated: list[Fault] = []
        if text:
            self._note(compose_yaml(text), ())

    def of(self, path: Sequence[str]) -> int | None:
        """The line of a key path, or of the nearest key above it."""
        path = tuple(path)
        return next((self._found[path[:n]] for n in range(len(path), 0, -1) if path[:n] in self._found), None)

    def placed(self, fault: Fault) -> Fault:
        """A fault with its line."""
        return fault if fault.line else replace(fault, line=self.of(fault.key.split(".")))

    def _note(self, node: Any, path: KeyPath) -> None:
        for name, marked, value in _children(node):
            line, here = marked.start_mark.line + 1, (*path, name)
            if here in self._found and isinstance(node, yaml.MappingNode):
                text = f"the key is given twice, first in line {self._found[here]}; only the last one would count"
                self.repeated.append(Fault(".".join(here), text, "remove one of them", line))
            self._found[here] = line
            self._note(value, here)


def _children(node: Any) -> Iterator[tuple[str, Any, Any]]:
    """Name, node with the place, and value of everything directly inside a YAML node."""
    if isinstance(node, yaml.MappingNode):
        yield from ((str(key.value), key, value) for key, value in node.value)
    elif isinstance(node, yaml.SequenceNode):
        yield from ((str(index), value, value) for index, value in enumerate(node.value))


def recipe_error(where: str, faults: Sequence[Fault], remedy: str = "`retort schema` lists every key") -> RecipeError:
    """The error that lists faults, in the order of their lines."""
    ordered = sorted(faults, key=lambda fault: fault.line or 0)
    listed = "".join(f"\n  {fault}" for fault in ordered)
    count = "1 fault" if len(faults) == 1 else f"{len(faults)} faults"
    return RecipeError(f"{where} has {count}:{listed}", remedy, faults=[fault.to_dict() for fault in ordered])
