"""What a shell offers after Tab: stages of the recipe, sources of data, artifacts, and names of runs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import typer

from ..core.data.built_in import BUILT_IN
from ..core.errors import RetortError
from ..core.options.recipe import load_recipe
from ..core.options.stage_table import STAGES
from ..core.system.owned_folders import MANIFEST, RUNS


def stages(ctx: typer.Context, incomplete: str) -> list[str]:
    """The stages of the recipe that the command line names; all stages if it cannot be read."""
    names = list(STAGES)
    # the line is not complete, so the parser of the command line may not know its arguments yet
    typed = [str(ctx.params.get("recipe") or ""), *os.environ.get("COMP_WORDS", "").split()]
    recipe = next((Path(word) for word in typed if word.endswith((".yaml", ".yml"))), None)
    if recipe is not None:
        with suppress(RetortError, OSError, ValueError):  # a shell shows no messages here
            names = ["capture", *(stage.name for stage in load_recipe(recipe).stages)]
    return [name for name in dict.fromkeys(names) if name.startswith(incomplete)]


def data_sources(incomplete: str) -> list[str]:
    """Built-in sets, files and folders."""
    return [name for name in BUILT_IN if name.startswith(incomplete)] + list(_paths(incomplete))


def artifacts(incomplete: str) -> list[str]:
    """Artifacts in the folder of runs, and files and folders."""
    made = (path.parent for path in RUNS.glob(f"*/**/{MANIFEST}") if len(path.relative_to(RUNS).parts) <= 3)
    shown = [str(path) for path in sorted(made) if str(path).startswith(incomplete)]
    return list(dict.fromkeys([*shown, *_paths(incomplete)]))


def runs(incomplete: str) -> list[str]:
    """Names of runs."""
    if not RUNS.is_dir():
        return []
    names = (path.name for path in RUNS.iterdir() if path.is_dir() and not path.name.startswith("."))
    return sorted(name for name in names if name.startswith(incomplete))


def _paths(incomplete: str) -> Iterator[str]:
    """Files and folders whose path begins with what was typed; folders end with a slash."""
    typed = Path(incomplete)
    folder = typed if incomplete.endswith("/") or not incomplete else typed.parent
    try:
        inside = sorted(folder.iterdir())
    except OSError:
        return
    for path in inside:
        shown = str(path) + ("/" if path.is_dir() else "")
        if shown.startswith(incomplete) and (not path.name.startswith(".") or typed.name.startswith(".")):
            yield shown
