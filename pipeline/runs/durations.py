"""How long the stages of earlier runs took."""

from __future__ import annotations

import math

from ...core.artifact import MANIFEST, Artifact, is_finished, load_artifact


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
