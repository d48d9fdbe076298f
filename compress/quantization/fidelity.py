"""Difference between a quantized program and its FP32 program, on samples that calibration has not used."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...core.console import SILENT, Console
from ...core.data.splits import Split, Subset
from ...core.facts.quantize_facts import Fidelity
from ...core.metrics.all_outputs import agreement_of_all, floating, sqnr_of_all_db, sqnr_per_output_db
from ..program import Program, predict

SAMPLES = 256


def compare(
    reference: Program, quantized: Program, split: Split, batch_size: int = 32, console: Console = SILENT
) -> Fidelity:
    """Signal-to-noise ratio of all floating-point outputs, and the agreement of their classes if they have classes.

    Args:
        reference: the FP32 program.
        quantized: the program made from it.
        split: held-out samples, of which at most 256, evenly spread, are used.
        batch_size: samples run at a time.
        console: shows progress bars.

    Returns:
        ``agreement`` is the smallest share of samples with equal argmax, over outputs ``[N, C]`` with at least two
        columns. Several outputs also have a ratio each.
        Infinite values become None, because JSON has no infinity.
    """
    chosen = Subset(split, np.unique(np.linspace(0, len(split) - 1, min(len(split), SAMPLES)).astype(np.int64)))
    wanted = predict(reference, chosen, batch_size, console)
    found = predict(quantized, chosen, batch_size, console)
    floats, others = floating(wanted), floating(found)
    if not floats:
        return Fidelity(samples=len(chosen))
    measured: dict[str, Any] = {
        "samples": len(chosen),
        "sqnr_db": _finite(sqnr_of_all_db(floats, others, centred=False)),
        "sqnr_centred_db": _finite(sqnr_of_all_db(floats, others)),
    }
    agreement = agreement_of_all(floats, others)
    if agreement is not None:
        measured["agreement"] = agreement
    if len(floats) > 1:
        measured["per_output_db"] = {name: _finite(db) for name, db in sqnr_per_output_db(wanted, found).items()}
    return Fidelity(**measured)


def _finite(value: float) -> float | None:
    return round(value, 2) if np.isfinite(value) else None
