"""Runs a recipe: the stages in order, and the gates after each stage."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from ..core.console import SILENT, Console
from ..core.counts import listed
from ..core.data.references import importable
from ..core.errors import RetortError, UserError
from ..core.options.recipe import nearest, read_recipe
from ..core.options.recipe_faults import KeyLines
from ..core.options.stage_options import Gate, Options, QuantizeOptions
from ..core.system.owned_folders import RUNS
from ..core.terminal.interruption import noting_what_is_kept
from . import measure
from .line import Line, Outcome
from .outcome import run_summary
from .outcome.missed_gate import missed
from .outcome.recommendation import recommended
from .preflight.preflight import prepare
from .runs.forecast import Forecast, Step, forecast
from .runs.run_lock import exclusive
from .runs.run_record import recorded
from .steps import artifact_of
from .tuning.int8_speed import is_faster, speed_of


def run(recipe_path: Path, runs: Path = RUNS, console: Console = SILENT, until: str | None = None) -> Outcome:
    """Run the stages of a recipe; artifacts that are already finished are reused.

    Before the first stage, everything that the unfinished stages need is checked.

    Args:
        runs: folder that contains one folder per recipe.
        until: the last stage to run; by default all stages run.

    Raises:
        RecipeError: the recipe has faults, or cannot run; nothing was run.
        UserError: the recipe has no stage ``until``.
        GateError: a gate was missed; what is finished was measured, printed and reported, and is kept.
        MachineError: another run of the same recipe is active in ``runs``.
    """
    line, lines = planned(recipe_path, runs, console, until)
    with console.working("check"):
        prepare(line, recipe_path, lines, until)
    with exclusive(line.folder), recorded(line, recipe_path, until):
        return run_line(line, until)


def plan(recipe_path: Path, runs: Path = RUNS, until: str | None = None) -> list[Step]:
    """What :func:`run` would do, stage by stage: nothing is made, and no runtime is loaded.

    Raises:
        RecipeError: the recipe has faults.
        UserError: the recipe has no stage ``until``, or its data cannot be read.
    """
    line, _ = planned(recipe_path, runs, SILENT, until)
    return forecast(Forecast(line.recipe, line.base, line.folder, line.text), until)


def planned(recipe_path: Path, runs: Path, console: Console, until: str | None) -> tuple[Line, KeyLines]:
    """The run of a recipe, of which nothing is done yet, and the lines of the recipe's keys.

    Raises:
        RecipeError: the recipe has faults.
        UserError: the recipe has no stage ``until``.
    """
    recipe, lines = read_recipe(recipe_path)
    names = ["capture", *(stage.name for stage in recipe.stages)]
    if until is not None and until not in names:
        raise UserError(
            f"the recipe has no stage '{until}'{nearest(until, names)}",
            f"its stages are {', '.join(dict.fromkeys(names))}",
        )
    text = recipe_path.read_text(encoding="utf-8", errors="replace")
    return Line(recipe, recipe_path.resolve().parent, runs / recipe.name, console, text), lines


def run_line(line: Line, until: str | None = None) -> Outcome:
    """Run or reuse every stage in order, and check the gates after each stage.

    Raises:
        GateError: a gate was missed; what is finished was measured, printed and reported, and is kept.
    """
    with importable(line.base):  # a metric may be a function beside the recipe
        for name, options in line.plan:
            with noting_what_is_kept(partial(_kept, line, name)):
                _finish(line, name, options)
            if name == until:
                break
    line.outcome.ship = recommended(line, line.outcome.result)
    return line.outcome


def _finish(line: Line, name: str, options: Options) -> None:
    """Run a stage and check its gates."""
    try:
        _step(line, name, options)
    except RetortError as error:
        if line.outcome.result is not None:
            run_summary.show(line.outcome, line.console)
        line.console.say(f"{name:>10}  failed; {_kept(line, name)}; another run goes on from there")
        error.facts.update(stage=name, folder=str(line.folder), finished=list(line.outcome.artifacts))
        raise
    for gate in line.recipe.gates:
        if gate.after == name:
            _check(line, gate)


def _kept(line: Line, stage: str) -> str:
    """``the finished stages are kept in runs/digits: capture and train``."""
    made = list(line.outcome.artifacts)
    if not made:
        return f"no stage before `{stage}` was finished"
    stages, are = ("stage", "is") if len(made) == 1 else ("stages", "are")
    return f"the finished {stages} before `{stage}` {are} kept in {line.folder}: {listed(made)}"


def _step(line: Line, name: str, options: Options) -> None:
    artifact = artifact_of(line, name, options)
    before = line.last_program() if isinstance(options, QuantizeOptions) else ""
    line.outcome.artifacts[name] = artifact
    if isinstance(options, QuantizeOptions):
        _report_speed(line, options, before)


def _report_speed(line: Line, options: QuantizeOptions, before: str) -> None:
    """Report the speed of INT8 against the program before it; with `prefer: fastest`, skip INT8 if it is not faster."""
    fastest = line.recipe.prefer == "fastest"
    if not (options.timed or fastest):
        return
    made = line.outcome.artifacts
    faster = is_faster(speed_of(options, made[before], made["quantize"], line.context))
    line.left_out = "quantize" if fastest and not faster else None
    if line.left_out:
        line.console.warn("the FP32 program is shipped, because it is faster and the recipe has `prefer: fastest`")


def _check(line: Line, gate: Gate) -> None:
    result = measure.check_gate(line, gate)
    line.outcome.gates.append(result)
    line.console.stage("gate", result.sentence)
    if not result.passed:
        error = missed(line, gate, result)
        run_summary.show(line.outcome, line.console)
        raise error
