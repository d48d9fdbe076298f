"""What speaks against the program of a run: a training that failed, or a cut that ruined the outputs."""

from __future__ import annotations

from collections.abc import Mapping

from ...core.artifact import Artifact
from ...core.facts.program_facts import TrainFacts
from ...core.facts.prune_facts import PruneFacts
from ...core.options.stage_table import PROGRAM_STAGES


def doubts(artifacts: Mapping[str, Artifact], last: str) -> list[str]:
    """What speaks against the program of a stage, by the stages that it comes from; see :func:`doubt_of_stage`.

    Args:
        artifacts: those of a run, in order.
        last: the program stage; what comes after it does not count.
    """
    found: list[str] = []
    for name, artifact in artifacts.items():
        if name not in PROGRAM_STAGES:
            continue
        if name in ("train", "distill"):  # what went wrong before is learned anew
            found = []
        doubt = doubt_of_stage(name, artifact)
        found += [f"`{name}`: {doubt}"] if doubt else []
        if name == last:
            break
    return found


def doubt_of_stage(name: str, artifact: Artifact) -> str:
    """What one stage's facts say against its program; empty if nothing does."""
    if name in ("train", "distill"):
        return artifact.facts_as(TrainFacts).doubt or ""
    if name != "prune":
        return ""
    facts = artifact.facts_as(PruneFacts)
    if not facts.ruined or facts.fidelity is None:
        return ""
    return f"the outputs are ruined: {facts.fidelity.shortfall or 'they have little in common with those before'}"
