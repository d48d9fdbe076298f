"""The preflight of a recipe: all of its faults at once, each with its key, its line and its remedy."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...core.data.data_sources import load_data
from ...core.errors import RecipeError, RetortError
from ...core.options.recipe import Recipe, read_recipe
from ...core.options.recipe_faults import Fault, KeyLines, recipe_error
from ...core.options.yaml_text import parse_yaml, read_text
from ..line import Line
from ..runs.forecast import Forecast, forecast
from .machine_needs import machine_faults
from .model_trial import trial_faults
from .named_things import named_faults
from .recipe_parts import part_faults
from .recipe_rules import text_faults
from .subject import Subject

REMEDY = "correct the recipe, or what it names; nothing was run"


def check_recipe(path: Path, runs: Path, fast: bool = False) -> Recipe:
    """Check whether a recipe can run, without running a stage.

    Args:
        runs: folder that would contain the folder of the run.
        fast: read only the recipe; import and open nothing.

    Raises:
        MissingFileError: there is no such recipe.
        RecipeError: it has faults; ``facts["faults"]`` lists all of them.
    """
    try:
        recipe, lines = read_recipe(path)
    except RecipeError as error:
        if not fast:
            raise _with_named_faults(error, path) from error
        raise
    found = list(text_faults(recipe))
    if not fast:
        base = path.resolve().parent
        made = frozenset({"capture", *(stage.name for stage in recipe.stages)})
        folder = runs / recipe.name
        subject = Subject(recipe, base, folder, lambda: load_data(recipe.data, base, recipe.seed, recipe.task), made)
        found += list(faults_of(subject))
    raise_faults(path, found, lines)
    return recipe


def _with_named_faults(error: RecipeError, path: Path) -> RecipeError:
    """The faults of a recipe's text, and those of the model and the data that can be looked for all the same."""
    listed: Any = error.facts.get("faults", [])
    known = [Fault(**fault) for fault in listed]
    if not known:
        return error
    text, blamed = read_text(path, RecipeError), {fault.key for fault in known}
    lines, found = KeyLines(text), part_faults(parse_yaml(text), path.resolve().parent)
    more = [lines.placed(fault) for fault in found if fault.key not in blamed]
    if not more:
        return error
    return recipe_error(str(path), [*known, *more], f"{error.remedy}; nothing was run")


def prepare(line: Line, path: Path, lines: KeyLines, until: str | None) -> None:
    """Check whether the unfinished stages of a run can run, before the first of them.

    A run that reuses all stages is only looked at: no function is imported and no runtime is loaded.

    Args:
        line: gets the data, and the artifacts whose hashes were compared.
        until: the last stage to run.

    Raises:
        RecipeError: the recipe has faults.
        ArtifactError: an artifact that would be reused is damaged.
    """
    found = list(text_faults(line.recipe))
    dry = Forecast(line.recipe, line.base, line.folder, line.text)
    names = [name for name, _ in line.plan]
    made = frozenset(names[: names.index(until) + 1] if until else names)
    try:
        dry.raw_data = line.raw_data
    except (RetortError, SystemExit):  # the preflight lists this fault with the others
        pass
    else:
        made = frozenset(step.stage for step in forecast(dry, until) if step.action == "made")
        line.verified = {folder: artifact for folder, artifact in dry.seen.items() if artifact.manifest.files}
    if made:
        finished = {name: item for name, item in dry.outcome.artifacts.items() if item.manifest.files}
        found += faults_of(Subject(line.recipe, line.base, line.folder, lambda: line.raw_data, made, finished))
    raise_faults(path, found, lines)


def faults_of(subject: Subject) -> Iterator[Fault]:
    """All faults of what a recipe names and needs, for the stages that have to be made."""
    yield from machine_faults(subject)
    named = list(named_faults(subject))
    yield from named
    yield from trial_faults(subject, named)


def raise_faults(path: Path, faults: list[Fault], lines: KeyLines) -> None:
    """Raise the error that lists faults, if there are any.

    Raises:
        RecipeError: there are.
    """
    if faults:
        raise recipe_error(str(path), [lines.placed(fault) for fault in dict.fromkeys(faults)], REMEDY)
