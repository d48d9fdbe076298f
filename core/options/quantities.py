"""Parsing of quantities with units, such as `0.5x`, `50%`, `2 MB` and `1.5 ms`, into plain numbers."""

from __future__ import annotations

import math
import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, WithJsonSchema

UNIT_TEXT = "unit-text"
"""Marks a number that the command line reads as text, because it may have a unit."""

_NUMBER = re.compile(r"\s*([0-9]*\.?[0-9]+(?:[eE][+-]?[0-9]+)?)\s*([a-zA-Z%×]*)\s*")
_SHARES = {"": 1.0, "x": 1.0, "×": 1.0, "%": 0.01}
_BYTES = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}
_MILLISECONDS = {"": 1.0, "ms": 1.0, "us": 1e-3, "s": 1e3}


def _read(value: Any, units: dict[str, Any], example: str) -> Any:
    if not isinstance(value, str):
        return value
    match = _NUMBER.fullmatch(value)
    if match is None or match[2].lower() not in units:
        raise ValueError(f"'{value}' does not have the form {example}")
    return float(match[1]) * units[match[2].lower()]


def as_share(value: Any) -> Any:
    """Read ``0.5``, ``"0.5x"`` or ``"50%"`` as 0.5."""
    return _read(value, _SHARES, "0.5, 0.5x or 50%")


def as_bytes(value: Any) -> Any:
    """Read ``2_000_000`` or ``"2 MB"`` as bytes; ``KiB``, ``MiB`` and ``GiB`` are powers of 1024."""
    read = _read(value, _BYTES, "2000000, 2 MB or 500 kB")
    return int(read) if isinstance(read, float) and 1 <= read < math.inf else read


def as_milliseconds(value: Any) -> Any:
    """Read ``2``, ``"2 ms"``, ``"800 us"`` or ``"0.1 s"`` as milliseconds."""
    return _read(value, _MILLISECONDS, "2, 2 ms or 800 us")


def as_step(value: Any) -> Any:
    """Read text as a whole number, or as the word ``auto``."""
    return int(value) if isinstance(value, str) and value.isdigit() else value


def as_workers(value: Any) -> Any:
    """Read text as a whole number, or as the word ``auto``."""
    return as_step(value)


def _schema(kind: str) -> WithJsonSchema:
    return WithJsonSchema({"anyOf": [{"type": kind}, {"type": "string"}]})


Share = Annotated[float, BeforeValidator(as_share), Field(gt=0, le=1), _schema("number"), UNIT_TEXT]
Bytes = Annotated[int, BeforeValidator(as_bytes), Field(ge=1), _schema("integer"), UNIT_TEXT]
Milliseconds = Annotated[float, BeforeValidator(as_milliseconds), Field(gt=0), _schema("number"), UNIT_TEXT]
Step = Annotated[Literal["auto"] | Annotated[int, Field(ge=1)], BeforeValidator(as_step), _schema("integer"), UNIT_TEXT]
"""A channel step: a whole number, or ``auto``."""
Workers = Annotated[
    Literal["auto"] | Annotated[int, Field(ge=0, le=256)], BeforeValidator(as_workers), _schema("integer"), UNIT_TEXT
]
"""A number of processes, or ``auto``."""
