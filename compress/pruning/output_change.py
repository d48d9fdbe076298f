"""How much the outputs of a cut program differ from those of the original, and when they count as ruined."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ...core.console import SILENT, Console
from ...core.context import Context
from ...core.data.splits import Split, Subset
from ...core.errors import UserError
from ...core.facts.quantize_facts import Fidelity
from ...core.metrics.all_outputs import (
    agreement_of_all,
    defined,
    equal_share,
    floating,
    smallest,
    sqnr_of_all_db,
    sqnr_per_output_db,
)
from ...core.metrics.quality_floor import QualityFloor
from ...core.options.stage_options import PruneOptions, Task
from ...core.tensors import Array
from ..graph.decisions import comparable, with_scores
from ..program import Program, predict

SAMPLES = 128
LEAST_AGREEMENT = 0.9
LEAST_DB = 10.0
LEAST_KAPPA = 0.5
"""Smallest share of what a constant class would get wrong that must be right (Cohen's kappa against that class)."""
MOST_OF_ONE_CLASS = 0.95
"""Where more samples have one class, equal classes say nothing, and the ratio decides."""
_BATCH = 32
_UNDEFINED_DB = -200.0


class OutputChange:
    """Compares the floating-point outputs of programs with those of the original on held-out samples.

    Args:
        original: the program before the cut.
        split: samples, of which at most 128, evenly spread, are used.
        task: classes are compared only for classification.
    """

    def __init__(self, original: Program, split: Split, task: Task, console: Console = SILENT) -> None:
        places = np.unique(np.linspace(0, len(split) - 1, min(len(split), SAMPLES)).astype(np.int64))
        self.split, self.task, self.console = Subset(split, places), task, console
        self.wanted = predict(with_scores(original), self.split, _BATCH, console)

    def of(self, program: Program) -> Fidelity:
        """Signal-to-noise ratio of all outputs and, for classification, the share of samples with the same class.

        Integers and truth values are compared by what decides them, and by the share of equal values.
        """
        measured: dict[str, Any] = {"samples": len(self.split)}
        found = comparable(self.wanted, predict(with_scores(program), self.split, _BATCH, self.console))
        wanted = {name: self.wanted[name] for name in found}
        before, after = floating(wanted), floating(found)
        if before:
            measured["sqnr_db"] = _finite(sqnr_of_all_db(before, after, centred=False))
            measured["sqnr_centred_db"] = _finite(sqnr_of_all_db(before, after))
        classes = agreement_of_all(before, after) if self.task == "classification" else None
        agreement = smallest(classes, equal_share(wanted, found))
        if agreement is not None:
            measured["agreement"] = agreement
        if len(before) > 1:
            ratios = sqnr_per_output_db(wanted, found)
            measured["per_output_db"] = {name: _finite(ratio) for name, ratio in ratios.items()}
        return Fidelity(**measured, shortfall=self._shortfall(wanted, found))

    def _shortfall(self, wanted: Mapping[str, Array], found: Mapping[str, Array]) -> str:
        """What is ruined, in words: classes that are not the same, or outputs that have little in common."""
        for name, before in wanted.items():
            after, where = found[name], f" of '{name}'" if len(wanted) > 1 else ""
            if before.dtype.kind != "f":
                same = equal_share({name: before}, {name: after})
                if same is not None and same < LEAST_AGREEMENT:
                    return f"{same:.1%} of the values{where} are the same"
                continue
            if self.task == "classification" and (usual := usual_class(before)) is not None:
                same = agreement_of_all([before], [after]) or 0.0
                if same < LEAST_AGREEMENT or same - usual < LEAST_KAPPA * (1 - usual):
                    return f"{same:.1%} of the classes{where} are the same ({usual:.0%} have the most frequent one)"
                continue
            short = QualityFloor(LEAST_DB).shortfall([before], [after], None)
            if short:
                return f"output '{name}': {short}" if len(wanted) > 1 else short
        return ""


def outputs_changed(original: Callable[[], Program], program: Program, context: Context) -> Fidelity | None:
    """The outputs of a finished program, compared with those of the original; None if that is not possible."""
    split = context.data.judging
    if not len(split):
        return None
    try:
        return OutputChange(original(), split, context.task, context.console).of(program)
    except UserError as error:  # no samples that fit the program
        context.console.say(f"the outputs are not compared with those before the cut: {error.message}")
        return None


def usual_class(scores: Array) -> float | None:
    """The share of the most frequent class, if an output ``[N, C]`` gives several classes; None for other outputs."""
    if scores.ndim != 2 or scores.shape[1] < 2 or not len(scores):
        return None
    share = float(np.bincount(defined(scores).argmax(1)).max() / len(scores))
    return share if share <= MOST_OF_ONE_CLASS else None


def _finite(value: float) -> float | None:
    """Rounded; None for equal outputs, and a very small number where one of the outputs is undefined."""
    return None if value == np.inf else round(max(value, _UNDEFINED_DB), 2)


def quality(found: Fidelity) -> tuple[float, float]:
    """A number that is higher the more similar the outputs are: the agreement, if there are classes, then the ratio."""
    ratio = found.sqnr_centred_db
    return found.agreement if found.agreement is not None else 0.0, np.inf if ratio is None else ratio


def is_ruined(found: Fidelity | None) -> bool:
    """Whether the outputs have little in common: see :meth:`OutputChange.of`; older facts have two figures alone."""
    if found is None:
        return False
    if found.shortfall is not None:
        return bool(found.shortfall)
    if "sqnr_centred_db" not in found.model_fields_set:
        return False
    if found.agreement is not None:
        return found.agreement < LEAST_AGREEMENT
    return found.sqnr_centred_db is not None and found.sqnr_centred_db < LEAST_DB


def shown(found: Fidelity) -> str:
    """The figures in words: ``61.2 % of the classes are the same, centred SQNR 5.3 dB``."""
    ratio = "equal outputs" if found.sqnr_centred_db is None else f"centred SQNR {found.sqnr_centred_db:.1f} dB"
    return ratio if found.agreement is None else f"{found.agreement:.1%} of the classes are the same, {ratio}"


def ruined_words(found: Fidelity) -> str:
    """The figures of a ruined program and what is ruined; what both say stands once."""
    figures, short = shown(found), found.shortfall or ""
    first = figures.partition(", ")[0]
    if short.startswith(first):
        return short + figures.removeprefix(first)
    return figures if not short or short.startswith("the centred SQNR is") else f"{figures} ({short})"


def remedy(options: PruneOptions) -> str:
    """What recovers a ruined program."""
    smaller = "or keep more, such as a share of 0.8" if options.budgets else "or keep wider layers"
    if options.recover is not None:
        return f"train longer (recover.epochs={4 * options.recover.epochs}), {smaller}"
    reconstruct = "" if options.reconstruct != "off" else "reconstruct the weights (reconstruct=auto), "
    return (
        f"{reconstruct}train after the cut (recover.epochs=5; no labels are needed with recover.alpha=1.0), {smaller}"
    )
