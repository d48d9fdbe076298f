"""The artifact of one stage of a run: which function makes it, and from what."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from ..core.artifact import Artifact
from ..core.options.stage_options import Options
from ..core.options.stage_table import STAGES
from . import measure, stages
from .dispatch import run_stage
from .outcome import run_results

if TYPE_CHECKING:
    from .line import Line

MEASURED: dict[str, Callable[[Any, Any], Artifact]] = {
    "serve": measure.serve,
    "bench": run_results.bench,
    "report": run_results.report,
}


def artifact_of(line: Line, name: str, options: Options) -> Artifact:
    """The artifact of a stage, reused or made from those of the stages before it."""
    entry = STAGES[name]
    if entry.takes == "model":
        return line.make(name, options, [line.recipe.model], stages.capture)
    if entry.makes == "program":
        return line.program(name, options)
    if entry.makes == "graph":
        return line.graph(line.shipped())
    if entry.takes == "graph":
        return line.make(name, options, [line.outcome.artifacts["export"]], partial(run_stage, name))
    return MEASURED[name](line, options)
