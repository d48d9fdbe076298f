"""Faults that the text of a recipe shows: gates that cannot be decided, metrics and losses that do not fit the task."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from ...core.metrics.tasks.metric_table import fits, metrics_for, unfit_to_keep
from ...core.options.distill_options import SoftTargetOptions
from ...core.options.recipe import Recipe
from ...core.options.recipe_faults import Fault
from ...core.options.serving_options import PackOptions
from ...core.options.stage_options import BenchOptions, Gate
from ...core.options.stage_table import reference_among
from .augment_trial import trainings


def text_faults(recipe: Recipe) -> Iterator[Fault]:
    """All faults that need nothing but the recipe."""
    if recipe.metric is not None and not fits(recipe.metric, recipe.task):
        yield Fault(
            "metric",
            f"{recipe.metric} does not fit `task: {recipe.task}`",
            f"choose one of {', '.join(metrics_for(recipe.task))}, or another `task`",
        )
    yield from _training_faults(recipe)
    yield from _serving_faults(recipe)
    order = list(dict.fromkeys(["capture", *(stage.name for stage in recipe.stages)]))
    bench = next((stage.options for stage in recipe.stages if isinstance(stage.options, BenchOptions)), None)
    for index, gate in enumerate(recipe.gates):
        yield from _gate_faults(f"gates.{index}", gate, recipe, order, bench)


def _training_faults(recipe: Recipe) -> Iterator[Fault]:
    """Trainings whose metric or losses are for other tasks."""
    for index, stage in enumerate(recipe.stages):
        for path, options in trainings(stage.options):
            key = ".".join(part for part in (f"stages.{index}.{stage.name}", path) if part)
            wrong = unfit_to_keep(options.keep, recipe.task) if options.keep is not None else None
            if wrong is not None:
                yield Fault(f"{key}.keep", *wrong)
            wrong = options.misfit(recipe.task) if isinstance(options, SoftTargetOptions) else None
            if wrong is not None:
                yield Fault(f"{key}.losses", *wrong)


def _serving_faults(recipe: Recipe) -> Iterator[Fault]:
    """The stage `serve` starts TorchServe, so what is packed for another server cannot be served by it."""
    names = [stage.name for stage in recipe.stages]
    pack = next((stage.options for stage in recipe.stages if isinstance(stage.options, PackOptions)), None)
    if pack is not None and pack.target != "torchserve" and "serve" in names:
        yield Fault(
            f"stages.{names.index('serve')}",
            f"`serve` starts TorchServe, but `pack` has `target: {pack.target}`",
            "leave out `serve`, or the target",
        )


def _gate_faults(key: str, gate: Gate, recipe: Recipe, order: list[str], bench: BenchOptions | None) -> Iterator[Fault]:
    against = gate.against or reference_among(order)
    where = f"{key}.against" if gate.against else f"{key}.after"
    if against == gate.after:
        yield Fault(where, f"the gate after `{gate.after}` compares it with itself", "name another stage as `against`")
    elif order.index(against) > order.index(gate.after):
        yield Fault(
            where,
            f"the gate after `{gate.after}` compares with `{against}`, which runs later",
            "name a stage as `against` that runs before",
        )
    if gate.accuracy_drop is not None and recipe.metric == "sqnr":
        yield Fault(
            f"{key}.accuracy_drop", "the metric sqnr has no drop that a gate can bound", "choose another `metric`"
        )
    if gate.speedup is not None and bench is not None:
        yield from batch_size_faults(key, gate.batch_size, bench.batch_sizes)


def batch_size_faults(key: str, size: Any, measured: Sequence[Any]) -> Iterator[Fault]:
    """The fault of a gate of speed at a batch size that `bench` does not measure.

    Args:
        key: the key of the gate.
    """
    if size not in measured:
        text = f"`bench` does not measure the batch size {size}"
        remedy = f"give one of {', '.join(map(str, measured))}, or add it to `batch_sizes` of `bench`"
        yield Fault(f"{key}.batch_size", text, remedy)
