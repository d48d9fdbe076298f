"""Faults that the text of a recipe shows: gates that cannot be decided, and a metric that does not fit the task."""

from __future__ import annotations

from collections.abc import Iterator

from ...core.options.recipe import Recipe
from ...core.options.recipe_faults import Fault
from ...core.options.stage_options import BenchOptions, Gate

METRICS = {
    "classification": ("accuracy", "top5", "precision", "recall", "f1", "agreement", "cosine", "sqnr"),
    "regression": ("mse", "mae", "cosine", "sqnr"),
}


def text_faults(recipe: Recipe) -> Iterator[Fault]:
    """All faults that need nothing but the recipe."""
    known = METRICS[recipe.task]
    if recipe.metric is not None and recipe.metric not in known:
        yield Fault(
            "metric",
            f"{recipe.metric} does not fit `task: {recipe.task}`",
            f"choose one of {', '.join(known)}, or another `task`",
        )
    order = list(dict.fromkeys(["capture", *(stage.name for stage in recipe.stages)]))
    bench = next((stage.options for stage in recipe.stages if isinstance(stage.options, BenchOptions)), None)
    for index, gate in enumerate(recipe.gates):
        yield from _gate_faults(f"gates.{index}", gate, recipe, order, bench)


def _gate_faults(key: str, gate: Gate, recipe: Recipe, order: list[str], bench: BenchOptions | None) -> Iterator[Fault]:
    reference = "train" if "train" in order else "capture"
    against = gate.against or reference
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
    if gate.speedup is not None and bench is not None and gate.batch_size not in bench.batch_sizes:
        yield Fault(
            f"{key}.batch_size",
            f"`bench` does not measure the batch size {gate.batch_size}",
            f"give one of {', '.join(map(str, bench.batch_sizes))}, or add it to `batch_sizes` of `bench`",
        )
