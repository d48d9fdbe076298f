"""Refusal of results whose figures do not follow from their raw times, because somebody edited the file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ...core.counts import counted
from ...core.errors import ArtifactError


def invalid(path: Path, faults: Sequence[str]) -> str:
    """One sentence that a result is INVALID, with the first of its faults; empty without any."""
    if not faults:
        return ""
    first, more = faults[0], len(faults) - 1
    told = f"; and {counted(more, 'fault')} more" if more else ""
    return f"{path} is INVALID, so no decision can be based on it: {first}{told}"


def require_unedited(path: Path, faults: Sequence[str]) -> None:
    """Fail if a result was edited.

    Args:
        faults: figures that do not follow from what the result keeps.

    Raises:
        ArtifactError: there are any.
    """
    if told := invalid(path, faults):
        raise ArtifactError(told, "measure again; `retort bench validate` lists every such figure")
