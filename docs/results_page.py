"""The reference of results: every field of the published JSON Schemas, in tables."""

from __future__ import annotations

from typing import Any

from ..benchmarks.result import json_schema
from ..benchmarks.validation.device_schema import device_json_schema
from .markdown import sentence, table

NAMES = {"string": "text", "integer": "whole number", "number": "number", "boolean": "true or false", "null": "null"}


def results() -> dict[str, str]:
    """The parts of the page by name: the fields of a result, and those of what a device writes."""
    return {"result": _page("Result", json_schema()), "device": _page("DeviceResult", device_json_schema())}


def _page(name: str, schema: dict[str, Any]) -> str:
    """The fields of a schema, and after them those of each of its parts in the order in which they are named."""
    inner = schema.get("$defs", {})
    return "\n\n".join(_fields(part, inner[part] if part != name else schema) for part in (name, *inner))


def _fields(name: str, schema: dict[str, Any]) -> str:
    required = set(schema.get("required", ()))
    rows = [
        (f"`{key}`", _type(field), "yes" if key in required else "no", sentence(field.get("description", "")))
        for key, field in schema["properties"].items()
    ]
    about = sentence((schema.get("description") or "").partition("\n\n")[0])
    return f"### {name}\n\n{about}\n\n{table(('key', 'type', 'required', 'what it holds'), rows)}"


def _type(field: dict[str, Any]) -> str:
    if "$ref" in field:
        name = field["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "const" in field:
        return f"`{field['const']}`"
    if "enum" in field:
        return f"one of {', '.join(f'`{value}`' for value in field['enum'])}"
    if "anyOf" in field:
        return " or ".join(_type(one) for one in field["anyOf"])
    if field.get("type") == "array":
        return f"list of {_type(field.get('items', {}))}"
    if field.get("type") == "object":
        return f"keys with {_type(field['additionalProperties'])}" if _is_typed(field) else "keys with values"
    return NAMES.get(str(field.get("type")), "any")


def _is_typed(field: dict[str, Any]) -> bool:
    return isinstance(field.get("additionalProperties"), dict)
