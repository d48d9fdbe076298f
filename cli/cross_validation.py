"""`retort train --folds 5`: cross-validation in place of a training."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Annotated, Any

import typer

from ..core.artifact import load_artifact, stable_hash
from ..core.console import Console
from ..core.context import Place
from ..core.facts.fold_facts import FoldsFacts
from ..core.metrics.task_metrics import unit_of
from ..core.options.stage_options import TrainOptions
from ..core.system.owned_folders import scratch_of
from . import describe
from .app import console, context_of, given_options, place_of, reused
from .flags import build_options

HELP = (
    "Train once for each of this number of folds of the training split instead, judge each training on the fold that "
    "it did not see, and write a measurement. At least 2."
)


def with_folds(command: Callable[..., None]) -> Callable[..., None]:
    """Add `--folds` to the command `train`."""

    def folded(*, folds: int | None = None, **values: Any) -> None:
        if folds is None:
            command(**values)
        else:
            cross_validate_command(folds, values)

    flag = Annotated[int | None, typer.Option("--folds", min=2, help=HELP)]
    own = inspect.Parameter("folds", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=flag)
    parameters = [*inspect.signature(command).parameters.values(), own]
    folded.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    folded.__annotations__ = {item.name: item.annotation for item in parameters}
    folded.__doc__, folded.__name__ = command.__doc__, command.__name__
    return folded


def cross_validate_command(folds: int, values: Mapping[str, Any]) -> None:
    """Cross-validate the program that the arguments of `retort train` name."""
    from ..pipeline.stages import cross_validate

    given = dict(values)
    source, screen = given.pop("source"), console(given.pop("json"))
    data, data_arg, task, target, seed = (given.pop(name) for name in ("data", "data_arg", "task", "target", "seed"))
    set_, out, force = (given.pop(name) for name in ("set_", "out", "force"))
    given.pop("debug")
    parent = load_artifact(source)
    options = build_options(TrainOptions, given_options(given), set_)
    context = context_of(data, data_arg, task, target, seed, screen, "all")
    plain = place_of("train", options, parent, context, None, force)
    key = stable_hash([plain.key, folds])
    directory = out or plain.directory.with_name(f"train-{folds}-folds-{key[:12]}")
    place = Place(directory, key, plain.parents, plain.inputs)
    found = reused(place, screen, parent, out)
    made = found or cross_validate(options, parent, place, replace(context, scratch=scratch_of(directory)), folds)
    facts = made.facts_as(FoldsFacts)
    _show(facts, screen)
    scale, unit = (100, " %") if unit_of(facts.metric) == "percent" else (1, "")
    low, high, value = (scale * end for end in (facts.low, facts.high, facts.value))
    text = f"{facts.metric} {value:.4g}{unit} ({low:.4g} to {high:.4g}, {facts.confidence:.0%} over {folds} folds)"
    screen.result(describe.described(made), f"{text}\n{made.path}")


def _show(facts: FoldsFacts, screen: Console) -> None:
    rows = [
        [str(one.fold), str(one.samples), f"{one.value:.4f}", f"{one.best_epoch} of {one.epochs}"]
        for one in facts.folds
    ]
    screen.table("cross-validation", ["fold", "samples", facts.metric, "epoch kept"], rows)
