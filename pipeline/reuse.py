"""Reuse: the finished artifact of equal inputs, whether a recipe, a command or a script made it."""

from __future__ import annotations

from pathlib import Path

from ..core.artifact import Artifact, is_finished, load_artifact
from ..core.console import SILENT, Console
from ..core.context import Place


def find_finished(place: Place, *folders: Path, console: Console = SILENT) -> Artifact | None:
    """The finished artifact with the key of a place, or None; its path is printed.

    Args:
        place: where the artifact is to be made. It is looked for there first.
        folders: folders of runs, in which recipes number their artifacts, such as ``03-prune-0123456789ab``.
        console: where the path is printed.

    Raises:
        ArtifactError: the artifact is truncated or altered.
    """
    numbered = (path for folder in folders for path in sorted(folder.glob(f"[0-9][0-9]-*-{place.key[:12]}")))
    for path in (place.directory, *numbered):
        found = load_artifact(path) if is_finished(path) else None
        if found is not None and found.key == place.key:
            console.say(f"reused {path}")
            return found
    return None
