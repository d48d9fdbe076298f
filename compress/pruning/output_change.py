"""How much the outputs of a cut program differ from those of the original, and when they count as ruined."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ...core.console import SILENT, Console
from ...core.context import Context
from ...core.data.splits import Split, Subset
from ...core.errors import UserError
from ...core.facts.quantize_facts import Fidelity
from ...core.metrics.all_outputs import agreement_of_all, floating, sqnr_of_all_db
from ...core.options.stage_options import PruneOptions, Task
from ..program import Program, predict

SAMPLES = 128
LEAST_AGREEMENT = 0.9
LEAST_DB = 10.0
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
        self.wanted = floating(predict(original, self.split, _BATCH, console))

    def of(self, program: Program) -> Fidelity:
        """Signal-to-noise ratio of all outputs and, for classification, the share of samples with the same class."""
        measured: dict[str, Any] = {"samples": len(self.split)}
        if not self.wanted:
            return Fidelity(**measured)
        found = floating(predict(program, self.split, _BATCH, self.console))
        measured["sqnr_db"] = _finite(sqnr_of_all_db(self.wanted, found, centred=False))
        measured["sqnr_centred_db"] = _finite(sqnr_of_all_db(self.wanted, found))
        agreement = agreement_of_all(self.wanted, found) if self.task == "classification" else None
        if agreement is not None:
            measured["agreement"] = agreement
        return Fidelity(**measured)


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


def _finite(value: float) -> float | None:
    """Rounded; None for equal outputs, and a very small number where one of the outputs is undefined."""
    return None if value == np.inf else round(max(value, _UNDEFINED_DB), 2)


def quality(found: Fidelity) -> tuple[float, float]:
    """A number that is higher the more similar the outputs are: the agreement, if there are classes, then the ratio."""
    ratio = found.sqnr_centred_db
    return found.agreement if found.agreement is not None else 0.0, np.inf if ratio is None else ratio


def is_ruined(found: Fidelity | None) -> bool:
    """Whether fewer than 90 % of the classes are the same or, without classes, the centred ratio is below 10 dB."""
    if found is None or "sqnr_centred_db" not in found.model_fields_set:
        return False
    if found.agreement is not None:
        return found.agreement < LEAST_AGREEMENT
    return found.sqnr_centred_db is not None and found.sqnr_centred_db < LEAST_DB


def shown(found: Fidelity) -> str:
    """The figures in words: ``61.2 % of the classes are the same, centred SQNR 5.3 dB``."""
    ratio = "equal outputs" if found.sqnr_centred_db is None else f"centred SQNR {found.sqnr_centred_db:.1f} dB"
    return ratio if found.agreement is None else f"{found.agreement:.1%} of the classes are the same, {ratio}"


def remedy(options: PruneOptions) -> str:
    """What recovers a ruined program."""
    smaller = "or keep more, such as a share of 0.8" if options.budgets else "or keep wider layers"
    if options.recover is not None:
        return f"train longer (--set recover.epochs={4 * options.recover.epochs}), {smaller}"
    reconstruct = "" if options.reconstruct != "off" else "reconstruct the weights (--reconstruct auto), "
    return (
        f"{reconstruct}train after the cut (--set recover.epochs=5; no labels are needed with recover.alpha=1.0), "
        f"{smaller}"
    )
