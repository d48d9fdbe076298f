"""Assertions of tests: a value that may be None by its type, and a split that is in memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeVar

from retort.core.artifact import Artifact
from retort.core.data.splits import ArraySplit, Split
from retort.core.facts.record import Record

T = TypeVar("T")
Found = TypeVar("Found", bound=Record)


def known(value: T | None) -> T:
    """The value; the test fails if it is None."""
    assert value is not None
    return value


def in_memory(split: Split) -> ArraySplit:
    """The split with its arrays; the test fails if it is of another kind."""
    assert isinstance(split, ArraySplit)
    return split


def typed(artifact: Artifact, kind: type[Found]) -> Found:
    """The facts of a stage's artifact; the test fails where the class lacks a field or gives other JSON back."""
    found = artifact.facts_as(kind)
    assert found.to_json() == artifact.facts
    assert sorted(unknown(found)) == []
    return found


def unknown(value: Any, where: str = "") -> Iterator[str]:
    """Paths of the keys for which the classes of a record have no field."""
    if isinstance(value, Record):
        yield from (f"{where}.{name}" for name in value.model_extra or ())
        value = {name: getattr(value, name) for name in type(value).model_fields}
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from unknown(inner, f"{where}.{name}")
    elif isinstance(value, tuple):
        for inner in value:
            yield from unknown(inner, where)
