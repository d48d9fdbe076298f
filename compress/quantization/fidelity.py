"""Difference between a quantized program and its FP32 program, on samples that calibration has not used."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ...core.console import SILENT, Console
from ...core.data.splits import Split, Subset
from ...core.facts.quantize_facts import Fidelity
from ...core.metrics.all_outputs import (
    agreement_of_all,
    equal_share,
    floating,
    smallest,
    sqnr_of_all_db,
    sqnr_per_output_db,
)
from ...core.metrics.quality_floor import QualityFloor
from ...core.options.stage_options import Task
from ...core.tensors import Array
from ..graph.decisions import comparable, with_scores
from ..program import Program, predict

SAMPLES = 256
_RUINED_DB = -999.0


@dataclass(frozen=True)
class Comparison:
    """The difference of one quantized program from FP32.

    Attributes:
        facts: the figures.
        shortfall: what is below the floor of quality, in words; empty if nothing is.
    """

    facts: Fidelity
    shortfall: str


class HeldOut:
    """Outputs of the FP32 program on held-out samples, with which quantized programs are compared.

    Args:
        reference: the FP32 program.
        split: held-out samples, of which at most 256, evenly spread, are used.
        batch_size: samples run at a time.
        console: shows progress bars.
        task: only for classification do the targets say whether outputs are classes.
    """

    def __init__(
        self,
        reference: Program,
        split: Split,
        batch_size: int = 32,
        console: Console = SILENT,
        task: Task = "classification",
    ) -> None:
        rows = np.unique(np.linspace(0, len(split) - 1, min(len(split), SAMPLES)).astype(np.int64))
        self.split, self.batch_size, self.console = Subset(split, rows), batch_size, console
        self.wanted = predict(with_scores(reference), self.split, batch_size, console)
        targets = self.split.read(range(len(self.split)))[1]
        self.targets: Array | None = targets if task == "classification" else None  # other labels are no classes

    def compare(self, quantized: Program, floor: QualityFloor, noisy: bool = False) -> Comparison:
        """Signal-to-noise ratio of all floating-point outputs, and the agreement of their classes if they have classes.

        Args:
            quantized: the program made from the reference.
            floor: what its outputs must reach.
            noisy: judge it without the signal-to-noise ratio of the first output; see :meth:`.QualityFloor.shortfall`.

        Returns:
            ``agreement`` is the smallest share of samples with equal argmax, over outputs ``[N, C]`` with at least two
            columns, and of equal values in outputs of integers and truth values; the floating-point numbers that decide
            these are judged like outputs. Several outputs also have a ratio each. Equal outputs have the ratio None,
            because JSON has no infinity, and outputs that are NaN or infinite in other places have -999 dB.
        """
        found = comparable(self.wanted, predict(with_scores(quantized), self.split, self.batch_size, self.console))
        wanted = {name: self.wanted[name] for name in found}
        floats, others = floating(wanted), floating(found)
        measured: dict[str, Any] = {"samples": len(self.split)}
        if floats:
            measured["sqnr_db"] = _finite(sqnr_of_all_db(floats, others, centred=False))
            measured["sqnr_centred_db"] = _finite(sqnr_of_all_db(floats, others))
        agreement = smallest(agreement_of_all(floats, others), equal_share(wanted, found))
        if agreement is not None:
            measured["agreement"] = agreement
        if len(floats) > 1:
            ratios = sqnr_per_output_db(wanted, found)
            measured["per_output_db"] = {name: _finite(db) for name, db in ratios.items()}
        names = [name for name, value in wanted.items() if value.dtype.kind == "f"]
        shortfall = floor.shortfall(floats, others, self.targets, names, noisy)
        if not floats and agreement is not None and agreement < floor.agreement:
            shortfall = f"{agreement:.0%} of the values are equal, less than {floor.agreement:.0%}"
        return Comparison(Fidelity(**measured), shortfall)


def _finite(value: float) -> float | None:
    return round(value, 2) if np.isfinite(value) else (None if value > 0 else _RUINED_DB)
