"""What a preflight looks at: the recipe, the stages that are to be made, and what is there already."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ...core.artifact import Artifact
from ...core.data.splits import Splits
from ...core.errors import RetortError
from ...core.faults import first_line, raise_if_defect
from ...core.options.recipe import Recipe
from ...core.options.recipe_faults import Fault
from ...core.options.stage_options import CaptureOptions, Options


@dataclass(frozen=True)
class Subject:
    """A recipe in its folder.

    Attributes:
        base: folder in which relative paths and modules are looked up.
        folder: folder of the run, which may not exist yet.
        data: loads the data, or returns those that were loaded before.
        made: names of the stages that have to be made; all others are reused.
        finished: the artifacts that are reused, by stage.
    """

    recipe: Recipe
    base: Path
    folder: Path
    data: Callable[[], Splits]
    made: frozenset[str]
    finished: Mapping[str, Artifact] = field(default_factory=dict)

    def key(self, stage: str, option: str = "") -> str:
        """The key path of a stage or of one of its options; empty for a capture that the recipe does not list."""
        names = [item.name for item in self.recipe.stages]
        if stage not in names:
            return "model" if stage == "capture" else ""
        path = f"stages.{names.index(stage)}.{stage}"
        return f"{path}.{option}" if option else path

    def options(self, stage: str) -> Options | None:
        """The options of a stage that has to be made; None if it is reused, or if the recipe does not have it."""
        if stage not in self.made:
            return None
        given = next((item.options for item in self.recipe.stages if item.name == stage), None)
        return CaptureOptions() if given is None and stage == "capture" else given


def fault_of(key: str, error: BaseException) -> Fault:
    """An exception as a fault; a defect of Retort is raised again.

    Raises:
        BaseException: ``error`` is a defect of Retort.
    """
    if isinstance(error, RetortError):
        return Fault(key, error.message, error.remedy)
    raise_if_defect(error)
    return Fault(key, f"{type(error).__name__}: {first_line(error, 300)}", "correct it in your code")
