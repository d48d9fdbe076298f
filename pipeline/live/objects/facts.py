"""Facts of a stage for scripts: a mapping whose keys are also attributes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ....core.counts import counted
from ....core.options.recipe import nearest

SHOWN = 16
WIDTH = 88


class Facts(Mapping[str, Any]):
    """Read-only facts: ``facts["macs"]`` and ``facts.macs`` are the same; inner mappings are also facts.

    The page "Artifact formats" lists the facts of every stage. For fields that a type checker knows, use the class of
    the stage: ``program.artifact.facts_as(retort.core.facts.prune_facts.PruneFacts)``.

    Args:
        values: JSON-ready facts of an artifact.
    """

    def __init__(self, values: Mapping[str, Any]) -> None:
        object.__setattr__(self, "_values", dict(values))

    def __getitem__(self, key: str) -> Any:
        return wrapped(self._values[key])

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name not in self._values:
            known = list(self._values)
            raise AttributeError(f"no fact '{name}'{nearest(name, known)}; there are {', '.join(known) or 'none'}")
        return self[name]

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError("facts are read-only")

    def __dir__(self) -> list[str]:
        return sorted([*super().__dir__(), *self._values])

    def to_dict(self) -> dict[str, Any]:
        """The facts as plain JSON-ready values."""
        return dict(self._values)

    def __repr__(self) -> str:
        lines = [f"{key}: {brief(value)}" for key, value in list(self._values.items())[:SHOWN]]
        rest = len(self._values) - SHOWN
        return "\n".join([*lines, *[f"and {rest} more: {', '.join(list(self._values)[SHOWN:])}"] * (rest > 0)])

    def _repr_html_(self) -> str:
        from .notebook import table

        return table([(key, brief(value)) for key, value in self._values.items()])


def wrapped(value: Any) -> Any:
    """Convert mappings to facts and lists to tuples."""
    if isinstance(value, Mapping):
        return Facts(value)
    return tuple(map(wrapped, value)) if isinstance(value, list | tuple) else value


def brief(value: Any) -> str:
    """A value in one short line."""
    if isinstance(value, Mapping) and len(value) > 6:
        return f"{counted(value, 'entry')}: {', '.join(map(str, list(value)[:6]))} …"
    if isinstance(value, list | tuple) and len(value) > 4:
        return counted(value, "entry")
    text = f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
    return text if len(text) <= WIDTH else text[: WIDTH - 1] + "…"
