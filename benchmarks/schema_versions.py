"""Versions of the schemas of files: a later one than this Retort knows is refused."""

from __future__ import annotations

from typing import Any

from ..core.errors import ArtifactError


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
