"""How long the stages of earlier runs took."""

from __future__ import annotations

import math
from contextlib import suppress
from pathlib import Path

from ...core.artifact import MANIFEST, Artifact, is_finished, load_artifact
from ...core.errors import RetortError

KEY_LENGTH = 12
"""Characters of a key in the name of an artifact's folder."""


def seconds_of(artifact: Artifact) -> float | None:
    """How long an artifact took, with the measurements beside it, such as ``03-quantize-0123456789ab-speed``.

    An artifact may be stored before or after those measurements, so the time in which any of them was made counts once.
    """
    if artifact.manifest.seconds is None:
        return None
    folders = (artifact.path, *artifact.path.parent.glob(f"{artifact.path.name}-*"))
    beside = [load_artifact(folder, verify=False) for folder in folders if is_finished(folder)]
    ends = [(item.path / MANIFEST).stat().st_mtime for item in beside]
    spans = sorted((end - (item.manifest.seconds or 0), end) for item, end in zip(beside, ends))
    total, until = 0.0, -math.inf
    for start, end in spans:
        total += max(end - max(start, until), 0)
        until = max(until, end)
    return artifact.manifest.seconds if len(spans) == 1 else round(total, 3)


def last_seconds(folder: Path, label: str) -> float | None:
    """How long a stage took that was finished last in a run's folder; None if there is none that is readable."""
    found: list[tuple[float, float]] = []
    for path in folder.glob(f"[0-9][0-9]-{label}-{'[0-9a-f]' * KEY_LENGTH}"):
        with suppress(RetortError, OSError):  # a damaged artifact of another run is no reason to stop this one
            if is_finished(path) and (seconds := load_artifact(path, verify=False).manifest.seconds) is not None:
                found.append(((path / MANIFEST).stat().st_mtime, seconds))
    return max(found)[1] if found else None
