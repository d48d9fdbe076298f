"""Faults of single values in plain words: the messages of pydantic name its own types and are no sentences."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ValidationError

from ..counts import counted

_KINDS = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "string": "text",
    "tuple": "a list",
    "list": "a list",
    "dict": "keys with values",
    "model": "keys with values",
    "path": "a path",
}
_ALLOWED = {
    r"^[A-Za-z0-9_-]+$": "letters A to Z, digits, _ and -",
    r"^[A-Za-z0-9_.-]+$": "letters A to Z, digits, _, . and -",
    r"^[A-Za-z0-9_-][A-Za-z0-9_.-]*$": "letters A to Z, digits, _, . and -, and not begin with a dot",
}
"""Patterns of names in words."""
_FORMS = {
    r"^[a-z0-9][a-zA-Z0-9._:/@-]*$": "the name of an image, such as registry.example.com/digits:1.0",
    r"^edge:.": "a device, such as edge:pi@raspberrypi.local",
    r"^[a-z0-9+-]+://\S*[^\s/]$": "the address of a storage, such as s3://models/digits or pvc://claim/digits",
}
"""Patterns of addresses and devices in words."""
_BOUNDS = {
    "greater_than_equal": ("ge", "at least"),
    "greater_than": ("gt", "more than"),
    "less_than_equal": ("le", "at most"),
    "less_than": ("lt", "less than"),
}


def faults_in(model: type[BaseModel], raw: Any) -> list[str]:
    """Every fault of a result as ``key.path: message``; empty if it has the form of the model."""
    try:
        model.model_validate(raw)
    except ValidationError as error:
        return faults_told(error)
    return []


def faults_told(error: ValidationError, where: str = "") -> list[str]:
    """The faults of a result that pydantic found as ``key.path: message``.

    Args:
        where: what stands before each path.
    """
    return [
        f"{where}{'.'.join(map(str, fault['loc'])) or 'result'}: {in_words(fault) or fault['msg']}"
        for fault in error.errors()
    ]


def in_words(item: Any) -> str | None:
    """A fault that pydantic found, as ``must be at least 1, not 0``; None for a kind of fault without own words.

    Args:
        item: one entry of ``ValidationError.errors()``.
    """
    kind, value, context = item["type"], item.get("input"), item.get("ctx", {})
    if kind in _BOUNDS:
        key, words = _BOUNDS[kind]
        return f"must be {words} {_number(context[key])}, not {value}"
    if kind == "too_short":
        wanted = counted(int(context["min_length"]), "value")
        return f"needs at least {wanted}, and has {context['actual_length'] or 'none'}"
    if kind == "too_long":
        return f"takes at most {counted(int(context['max_length']), 'value')}, and has {context['actual_length']}"
    if kind == "string_pattern_mismatch" and (allowed := _ALLOWED.get(context["pattern"])) is not None:
        return f"must consist of {allowed}, not {value!r}" if value else "must not be empty"
    if kind == "string_pattern_mismatch" and (form := _FORMS.get(context["pattern"])) is not None:
        return f"must be {form}, not {value!r}"
    if kind == "string_too_short":
        return "must not be empty"
    if kind == "missing":
        return "is missing"
    if kind == "finite_number":
        return f"must be a finite number, not {value}"
    if kind == "int_from_float":
        return f"must be a whole number, not {value!r}"
    name, _, rest = kind.partition("_")
    return f"must be {_KINDS[name]}, not {value!r}" if name in _KINDS and rest in ("type", "parsing") else None


def _number(bound: float) -> str:
    """A bound with all its digits."""
    return str(bound) if isinstance(bound, int) else f"{bound:.15g}"
