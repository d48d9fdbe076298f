"""Markdown for the reference: tables, docstrings, types and defaults in words."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from ..core.options.distill_options import LOSS_NAME

BOUNDS: dict[type, str] = {Ge: "≥", Gt: ">", Le: "≤", Lt: "<"}
PLAIN = {int: "whole number", float: "number", str: "text", bool: "true or false", Path: "path", Any: "any"}
UNITS = {
    "as_share": "share, such as `0.5`, `0.5x` or `50%`",
    "as_bytes": "bytes, such as `2 MB`",
    "as_milliseconds": "milliseconds, such as `2` or `800 us`",
    "as_step": "`auto` or a whole number ≥ 1",
    "as_workers": "`auto` or a whole number ≥ 0",
    "as_transform": "[transforms](#augmentation)",
}
"""What a person may write where the validator of this name reads it."""


def table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """A Markdown table; a bar inside a cell is escaped."""
    cells = [[cell.replace("|", "\\|").replace("\n", " ") or " " for cell in row] for row in rows]
    lines = [list(header), ["---"] * len(header), *cells]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def as_markdown(text: str) -> str:
    """A docstring or description as Markdown: RST roles and double backticks become code."""
    return re.sub(r":[a-z]+:`~?([^`]+)`", r"`\1`", inspect.cleandoc(text)).replace("``", "`").strip()


def sentence(text: str) -> str:
    """A description as one cell of a table."""
    return " ".join(as_markdown(text).split())


def type_name(kind: Any, metadata: tuple[Any, ...] | list[Any] = ()) -> str:
    """What a value may be, in words: `whole number ≥ 1`, `one of cpu, tensorrt`, `list of text`."""
    origin, args = get_origin(kind), get_args(kind)
    unit = [UNITS[name] for item in metadata if (name := _validator(item)) in UNITS]
    if unit:
        return unit[0]
    if LOSS_NAME in metadata:
        return "list of [losses](#losses)"
    if origin is Annotated:
        return type_name(args[0], [*metadata, *args[1:]])
    if origin in (Union, UnionType):
        parts = [type_name(arg, metadata) for arg in args if arg is not type(None)]
        return "stages" if all("Stage](" in part for part in parts) else " or ".join(dict.fromkeys(parts))
    if origin is Literal:
        return f"one of {', '.join(f'`{arg}`' for arg in args)}" if len(args) > 1 else f"`{args[0]}`"
    if origin is tuple:
        return f"list of {type_name(args[0])}" if args[-1] is ... else "list"
    if origin is list:
        return f"list of {type_name(args[0])}"
    if origin is dict or origin is Mapping:
        return f"mapping from {type_name(args[0])} to {type_name(args[1])}"
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return f"[{kind.__name__}](#{kind.__name__.lower()})"
    return PLAIN.get(kind, getattr(kind, "__name__", str(kind))) + _bounds(metadata)


def _validator(item: Any) -> str:
    return str(getattr(getattr(item, "func", None), "__name__", ""))


def _bounds(metadata: tuple[Any, ...] | list[Any]) -> str:
    found = []
    for item in metadata:
        for part in getattr(item, "metadata", None) or [item]:
            if type(part) in BOUNDS:
                found.append(f"{BOUNDS[type(part)]} {getattr(part, type(part).__name__.lower()):g}")
    return f" {', '.join(found)}" if found else ""


def default(field: FieldInfo) -> str:
    """The default of an option as it is written in a recipe."""
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if value is PydanticUndefined or isinstance(value, BaseModel):
        return "its defaults"
    return shown(value)


def shown(value: Any) -> str:
    """A default value in YAML's spelling."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, list | tuple):
        return f"`[{', '.join(map(str, value))}]`"
    return f"`{value}`" if value != "" else "–"
