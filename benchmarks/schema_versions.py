"""Files by the schema that they name: one of another schema, or of a later version, is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..core.errors import ArtifactError, MissingFileError


def raise_if_newer(raw: Any, where: str, known: str) -> None:
    """Raise if a file has a later version of its schema than this Retort reads.

    Args:
        where: the file, for the message.
        known: name and latest known version, such as ``retort.result/2``.

    Raises:
        ArtifactError: it has.
    """
    name, _, latest = known.partition("/")
    said = str(raw.get("schema", "")) if isinstance(raw, dict) else ""
    kind, _, version = said.partition("/")
    if kind == name and version.isdecimal() and int(version) > int(latest):
        raise ArtifactError(f"{where} has the schema {said:.40}, and this Retort reads up to {known}", "update Retort")


def read_schema(path: Path, known: str, what: str, command: str) -> dict[str, Any]:
    """The JSON of a file that names a schema.

    Args:
        known: name and version of the schema, such as ``retort.load/1``.
        what: such a file in words, such as ``result of a load``.
        command: what writes such files.

    Raises:
        MissingFileError: the file does not exist.
        ArtifactError: it is no JSON, or has another schema or a later version of it.
    """
    if not path.is_file():
        raise MissingFileError(f"no such result: {path}", f"make one with `{command}`")
    try:
        raw = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"{path.name} is not JSON: {error}", f"make it again with `{command}`") from error
    raise_if_newer(raw, path.name, known)
    if not isinstance(raw, dict) or raw.get("schema") != known:
        raise ArtifactError(f"{path.name} is no {what} ({known})", f"give a file of `{command}`")
    return raw
