"""Difference between a quantized program and its FP32 program, on samples that calibration has not used."""

from __future__ import annotations

import numpy as np

from ...core.console import SILENT, Console
from ...core.data.splits import Split, Subset
from ...core.facts.quantize_facts import Fidelity
from ...core.metrics.task_metrics import evaluate, sqnr_db
from ..program import Program, predict

SAMPLES = 256


def compare(
    reference: Program, quantized: Program, split: Split, batch_size: int = 32, console: Console = SILENT
) -> Fidelity:
    """Signal-to-noise ratio of the first floating-point output, and the agreement of its classes if it has classes.

    Args:
        reference: the FP32 program.
        quantized: the program made from it.
        split: held-out samples, of which at most 256, evenly spread, are used.
        batch_size: samples run at a time.
        console: shows progress bars.

    Returns:
        ``agreement`` is the share of samples with equal argmax, for outputs ``[N, C]`` with at least two columns.
        Infinite values become None, because JSON has no infinity.
    """
    chosen = Subset(split, np.unique(np.linspace(0, len(split) - 1, min(len(split), SAMPLES)).astype(np.int64)))
    wanted = predict(reference, chosen, batch_size, console)
    found = predict(quantized, chosen, batch_size, console)
    name = next((key for key, value in wanted.items() if value.dtype.kind == "f"), None)
    if name is None:
        return Fidelity(samples=len(chosen))
    measured = Fidelity(
        samples=len(chosen),
        sqnr_db=_finite(sqnr_db(wanted[name], found[name], centred=False)),
        sqnr_centred_db=_finite(sqnr_db(wanted[name], found[name])),
    )
    if wanted[name].ndim == 2 and wanted[name].shape[1] > 1:
        return measured.model_copy(update={"agreement": evaluate("agreement", found[name], wanted[name])})
    return measured


def _finite(value: float) -> float | None:
    return round(value, 2) if np.isfinite(value) else None
