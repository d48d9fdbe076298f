"""Mixed precision: which layers stay in floating point to meet the accuracy bound, and the plan that lists them."""

from __future__ import annotations

import difflib
import glob
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import yaml

from ....core.console import SILENT, Console
from ....core.counts import counted
from ....core.data.splits import Split, Subset
from ....core.errors import MissingFileError, UserError
from ....core.facts.quantize_facts import Sensitivity
from ....core.metrics.all_outputs import Outputs, floating, sqnr_of_all_db, undefined_alike
from ....core.metrics.quality_floor import QualityFloor
from ....core.metrics.task_metrics import evaluate, higher_is_better, is_labelled
from ....core.metrics.tasks.judged_outputs import judged_outputs
from ....core.metrics.tasks.user_metrics import Judged
from ....core.options.metric_names import DEFAULT_METRICS
from ....core.options.stage_options import MetricName, QuantizeOptions, Task
from ....core.options.yaml_text import parse_yaml, read_text, yaml_fault
from ....core.tensors import Array
from ...graph.decisions import comparable, with_scores
from ...program import Program, predict
from ..correction.layerwise import small_feeds
from .partial_quantization import Partial, Unit

_SAMPLES = 256
_MACS_PER_VALUE = 64
"""What a value that is only moved or rounded costs, in multiply-accumulates: used where no times were measured."""
_HEADER = """# Which layers are INT8 and which stay in floating point. Change `int8` to `float` or back, and use it with
# `retort quantize PROGRAM --data … --plan THIS_FILE`, or `plan: THIS_FILE` in a recipe.
"""


class Bound(Protocol):
    """A demand on the outputs of a quantized model."""

    def describe(self) -> str:
        """The demand in words."""
        ...

    def passes(self, wanted: Outputs, found: Outputs, targets: Array | None) -> bool:
        """Whether the outputs ``found`` meet it, compared with the FP32 outputs ``wanted``."""
        ...


@dataclass(frozen=True)
class AccuracyBound:
    """The accuracy bound of a quantized model.

    Attributes:
        max_drop: largest loss of the metric, or increase of an error, in its unit.
        min_sqnr: smallest centred SQNR, in dB.
        metric: one that needs targets.
    """

    max_drop: float | None
    min_sqnr: float | None
    task: Task = "classification"
    metric: MetricName = "accuracy"

    def describe(self) -> str:
        """The bound in words."""
        return f"a drop of at most {self.max_drop:g}" if self.max_drop is not None else f"{self.min_sqnr:g} dB of SQNR"

    def passes(self, wanted: Outputs, found: Outputs, targets: Array | None) -> bool:
        """Whether the outputs ``found`` meet the bound, compared with the FP32 outputs ``wanted``.

        A loss of accuracy is that of the first output, which the labels belong to; all others must be above the floor
        of quality. SQNR is that of all outputs.
        """
        if not undefined_alike(wanted, found):
            return False
        if self.max_drop is None:
            return sqnr_of_all_db(wanted, found) >= (self.min_sqnr or 0.0)
        assert targets is not None
        if QualityFloor().shortfall(wanted, found, None, noisy=True):
            return False
        if self.task == "multilabel":
            targets = targets.astype(np.int64)  # rows with a single 1.0 are no scores of classes
        sign = -1.0 if higher_is_better(self.metric) else 1.0
        before, after = (evaluate(self.metric, self._judged(outputs), targets) for outputs in (wanted, found))
        return sign * (after - before) <= self.max_drop + 1e-12

    def _judged(self, outputs: Outputs) -> Judged:
        named = {f"output{place}": value for place, value in enumerate(outputs)}
        return judged_outputs(self.metric, named, outputs[0])


def bound_of(options: QuantizeOptions, split: Split, task: Task, metric: MetricName | None = None) -> AccuracyBound:
    """The bound that the options set.

    Args:
        metric: the recipe's; that of the task if it is None or compares with a reference.

    Raises:
        UserError: there is no bound, or ``max_drop`` is given and the samples have no labels.
    """
    if options.max_drop is None and options.min_sqnr is None:
        raise UserError(
            "`mixed: auto` needs a bound", "give `max_drop: 0.01`, or `min_sqnr: 25` if there are no labels"
        )
    if options.max_drop is not None and (len(split) == 0 or split.read([0])[1] is None):
        raise UserError("`max_drop` needs labelled validation samples", "give `min_sqnr`, which needs no labels")
    judged = metric if metric is not None and is_labelled(metric) else DEFAULT_METRICS[task]
    return AccuracyBound(options.max_drop, None if options.max_drop is not None else options.min_sqnr, task, judged)


def choose(
    quantized: Program,
    exact: Program,
    split: Split,
    lines: Sequence[Sensitivity],
    bound: Bound,
    console: Console = SILENT,
    gains: Mapping[str, float] | None = None,
) -> list[str]:
    """The layers that must stay in floating point; none if the bound is met without them.

    Layers are ranked by their noise divided by their cost in FP32 (measured milliseconds, or else multiply-accumulates;
    a greedy solution of the knapsack problem). Bisection finds the shortest prefix of that list that meets the bound.
    Then each of its layers, the most expensive first, returns to INT8 if the bound is still met.

    Args:
        quantized: an INT8 program, corrected.
        exact: the same graph with the FP32 weights.
        split: samples on which the bound is checked.
        lines: results of the sensitivity analysis.
        gains: milliseconds that INT8 saves in each layer; layers without a saving come first.

    Returns:
        Names of layers and operators, in graph order.
    """
    feeds = small_feeds(exact, split, _SAMPLES)
    partial = Partial(quantized, exact, feeds)
    count = sum(len(feed[0]) for feed in feeds)
    targets = split.read(range(count))[1]
    wanted = partial.predict([])
    meets = _checker(partial, bound, wanted, targets)
    if meets(partial.units):
        return []
    prices = _prices(partial.units, gains or {})
    ranked = _ranked(partial.units, lines, prices)
    few, many = 0, len(ranked)
    with console.progress("mixed", len(ranked).bit_length() + 1) as bar:
        while few + 1 < many:
            middle = min((few + many) // 2, max(1, 2 * few + 1))
            few, many = (few, middle) if meets(_without(partial.units, ranked[:middle])) else (middle, many)
            bar.advance(note=counted(many, "layer"))
    kept = list(ranked[:many])
    for unit in sorted(kept, key=lambda item: -prices[item.name]):
        fewer = [item for item in kept if item is not unit]
        if meets(_without(partial.units, fewer)):
            kept = fewer
    return [unit.name for unit in partial.units if unit in kept]


def met(bound: Bound, reference: Program, quantized: Program, split: Split, batch_size: int) -> bool:
    """Whether a program that was quantized again meets the bound on the same samples."""
    chosen = Subset(split, np.arange(min(len(split), _SAMPLES)))
    before, after = (predict(with_scores(program), chosen, batch_size) for program in (reference, quantized))
    after = comparable(before, after)
    wanted, found = floating({name: before[name] for name in after}), floating(after)
    return bound.passes(wanted, found, chosen.read(range(len(chosen)))[1])


def _checker(
    partial: Partial, bound: Bound, wanted: Outputs, targets: Array | None
) -> Callable[[Sequence[Unit]], bool]:
    def _meets(chosen: Sequence[Unit]) -> bool:
        return bound.passes(wanted, partial.predict(chosen), targets)

    return _meets


def _ranked(units: Sequence[Unit], lines: Sequence[Sensitivity], prices: Mapping[str, float]) -> list[Unit]:
    noise = {line.layer: 0.0 if line.sqnr_db is None else 10 ** (-line.sqnr_db / 10) for line in lines}
    return sorted(units, key=lambda unit: -noise.get(unit.name, 0.0) / prices[unit.name])


def _prices(units: Sequence[Unit], gains: Mapping[str, float]) -> dict[str, float]:
    """The cost of each unit in floating point: measured if its layer was timed, and above 0 for the division."""
    if not gains:
        return {unit.name: _price(unit) for unit in units}
    total = sum(_price(unit) for unit in units)
    rate = max(sum(max(gain, 0.0) for gain in gains.values()), 1e-9) / max(total, 1)
    least = 1e-3 * rate * total / len(units)
    return {unit.name: max(gains.get(unit.name, rate * _price(unit)), least) for unit in units}


def _price(unit: Unit) -> int:
    """Cost of a unit in FP32; without weights, the cost of converting its values from integers to FP32 and back."""
    return max(1, unit.cost if unit.layer is not None else _MACS_PER_VALUE * unit.cost)


def _without(units: Sequence[Unit], out: Sequence[Unit]) -> list[Unit]:
    return [unit for unit in units if unit not in out]


def patterns(names: Sequence[str]) -> tuple[str, ...]:
    """Exclusion patterns that match exactly these names."""
    return tuple(glob.escape(name) for name in names)


def write_plan(path: Path, program: Program, units: Sequence[Unit], floats: Sequence[str], why: str) -> None:
    """Write the plan of a quantized program: every layer with ``int8`` or ``float``, ready to be edited."""
    scheme = program.meta["quantization"]
    layers = {unit.name: "int8" for unit in units} | dict.fromkeys(floats, "float")
    body = {"target": scheme["target"], "gate": why, "layers": layers}
    path.write_text(_HEADER + yaml.safe_dump(body, sort_keys=False))


def read_plan(path: Path, names: Sequence[str]) -> list[str]:
    """The layers that stay in floating point according to a plan.

    Args:
        names: names of all layers of the model.

    Raises:
        MissingFileError: the file does not exist.
        UserError: the file is not a plan, or names layers that do not exist.
    """
    if not path.is_file():
        raise MissingFileError(f"no such plan: {path}", "check the path of `plan`")
    try:
        body: Any = parse_yaml(read_text(path))
    except yaml.YAMLError as error:
        raise UserError(
            f"{path} is not valid YAML: {yaml_fault(error)}", "create it again with `mixed: auto`"
        ) from error
    layers = body.get("layers") if isinstance(body, Mapping) else None
    if not isinstance(layers, Mapping) or not set(layers.values()) <= {"int8", "float"}:
        raise UserError(f"{path} is not a quantization plan", "it needs `layers:`, each with `int8` or `float`")
    unknown = [name for name in layers if name not in names]
    if unknown:
        listed = "; ".join(f"'{name}'{_close(str(name), names)}" for name in unknown[:5])
        raise UserError(f"{path}: the model has no layer {listed}", "`retort quantize … --sensitivity` lists the names")
    return [str(name) for name, form in layers.items() if form == "float"]


def _close(name: str, names: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, names, n=2, cutoff=0.3)
    return f" (closest: {', '.join(close)})" if close else ""
