"""The facts of every stage as Markdown, from the classes that the stages fill."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, get_args

from pydantic.fields import FieldInfo

from ..core.facts.facts_table import FACTS
from ..core.facts.record import Record
from ..core.metrics.ratio import Ratio
from .markdown import sentence, table, type_name


def facts() -> str:
    """A section for every stage that has facts, then one for every record inside them."""
    stages = {f"Facts of `{name}`": kind for name, kind in FACTS.items() if kind is not Record}
    inner = {kind.__name__: kind for kind in _inner(list(stages.values()))}
    return "\n\n".join([*(_section(title, kind) for title, kind in (stages | inner).items()), _ratio()])


def _ratio() -> str:
    """The section of the speedup, which is a record of ``core.metrics``."""
    rows = [(f"`{name}`", sentence(text)) for name, text in field_descriptions(Ratio).items()]
    return f"### Ratio\n\n{_first(Ratio)}\n\n{table(('field', 'what it holds'), rows)}"


def _first(kind: type) -> str:
    return sentence((kind.__doc__ or "").partition("Attributes:")[0])


def field_descriptions(kind: Any) -> dict[str, str]:
    """The descriptions of fields in the docstrings of a class and its bases, by name."""
    found: dict[str, str] = {}
    for one in reversed(kind.__mro__):
        found |= dict(re.findall(r"^ +(\w+): (.*(?:\n {12,}.*)*)", one.__dict__.get("__doc__") or "", re.M))
    return found


def _section(title: str, kind: type[Record]) -> str:
    known = field_descriptions(kind)
    rows = [(f"`{name}`", _type(field), sentence(known[name])) for name, field in kind.model_fields.items()]
    first = "" if title.startswith("Facts") else f"{_first(kind)}\n\n"
    return f"### {title}\n\n{first}{table(('fact', 'type', 'what it holds'), rows)}"


def _type(field: FieldInfo) -> str:
    words = type_name(field.annotation).replace("Ratio", "[Ratio](#ratio)")
    if type(None) not in get_args(field.annotation):
        return words
    return f"{words}, or missing" if field.default is None else f"{words}, or null"


def _inner(kinds: list[type[Record]]) -> Iterator[type[Record]]:
    """The records inside records, each once, in the order of their first use."""
    seen: list[type[Record]] = []
    while kinds:
        fields = kinds.pop(0).model_fields.values()
        new = [kind for field in fields for kind in _records(field.annotation) if kind not in seen]
        seen += dict.fromkeys(new)
        kinds += dict.fromkeys(new)
    yield from seen


def _records(annotation: Any) -> Iterator[type[Record]]:
    if isinstance(annotation, type) and issubclass(annotation, Record):
        yield annotation
    for part in get_args(annotation):
        yield from _records(part)
