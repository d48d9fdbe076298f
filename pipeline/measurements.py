"""Measured values as artifacts: ratios and facts that a later run or another command can reuse."""

from __future__ import annotations

import json
from collections.abc import Mapping

from ..core.artifact import Artifact, load_artifact, new_artifact
from ..core.context import Place
from ..core.facts.measurement_facts import RatioFacts
from ..core.facts.record import Record
from ..core.metrics.ratio import Ratio
from ..core.system.owned_folders import remove_artifact


def save_facts(place: Place, facts: Record) -> Artifact:
    """Write facts as a measurement artifact."""
    with new_artifact(place, "measurement", "gate") as draft:
        draft.facts = facts
        (draft.folder / "measurement.json").write_text(json.dumps(facts.to_json(), allow_nan=False))
    return load_artifact(place.directory)


def save_ratios(place: Place, ratios: Mapping[str, Ratio]) -> Artifact:
    """Write ratios as a measurement artifact."""
    return save_facts(place, RatioFacts.model_validate(ratios))


def ratios_in(artifact: Artifact) -> dict[str, Ratio]:
    """Inverse of :func:`save_ratios`; a NOISY measurement is deleted after it is read, so the next run repeats it."""
    found = dict(artifact.facts_as(RatioFacts).ratios)
    if any(ratio.doubts for ratio in found.values()):
        remove_artifact(artifact.path)
    return found
