"""Remedies for an INT8 program below the floor of quality: layers that break stay in floating point, by measurement.

The layers are found by their effect on the outputs, not by their names: signal front ends, logarithms, normalisations
and huge ranges break in INT8 in one model and not in the next.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np

from ...core.context import Context
from ...core.errors import RetortError, VerificationError
from ...core.facts.quantize_facts import FloorFacts, RemedyTrial, Sensitivity
from ...core.metrics.quality_floor import QualityFloor
from ...core.options.stage_options import QuantizeOptions
from ..program import Program
from .correction.correct import FEWEST
from .fidelity import Comparison, HeldOut
from .int8_program import leave_in_float, quantize_with
from .memory_budget import budget_of, judged_within
from .mixed_precision.plan import choose
from .mixed_precision.sensitivity import sensitivity
from .post_training import Quantized

FLOOR = QualityFloor()
AIM = QualityFloor(15.0, 6.0, 0.95)
"""What a remedy aims at: a program that is barely above the floor is not worth shipping."""
_LOOKED_AT = 64
ENOUGH = 0.5
"""Share of the integer multiply-accumulates that a remedy may not fall below if there is another one to try."""


@dataclass
class Rescue:
    """A quantized program, its comparison with FP32, and the remedies that were tried on the way to it."""

    found: Quantized
    against: Comparison
    floor: QualityFloor
    shortfall: str = ""
    worst: Sensitivity | None = None
    tried: list[RemedyTrial] = field(default_factory=list)

    def facts(self, options: QuantizeOptions) -> FloorFacts:
        """The facts of the check."""
        met = not self.against.shortfall
        return FloorFacts(
            sqnr_db=self.floor.sqnr_db,
            agreement=self.floor.agreement,
            met=met,
            accepted=options.accept and not met,
            shortfall=self.shortfall or None,
            worst_layer=_described(self.worst) if self.worst is not None else None,
            tried=tuple(self.tried),
        )


def floor_of(options: QuantizeOptions) -> QualityFloor:
    """The floor of quality; a bound of the user's that is lower replaces it."""
    low = options.min_sqnr if options.mixed == "auto" and options.max_drop is None else None
    return FLOOR if low is None else QualityFloor(min(low, FLOOR.sqnr_db), min(low, FLOOR.column_db), FLOOR.agreement)


def above_floor(reference: Program, found: Quantized, options: QuantizeOptions, context: Context) -> Rescue:
    """Compare a quantized program with FP32 on held-out samples; below the floor of quality, try remedies.

    A plan, a bound of the user's, a training and ``accept`` are decisions of the user's: with them nothing is tried.
    A training is never thrown away: its result is written, with a warning.

    Args:
        reference: the FP32 program.
        found: the quantized program.
        options: of the stage.
        context: its validation split, or else its calibration split, is used to compare.

    Returns:
        The program, or the one with the best remedy.

    Raises:
        VerificationError: no remedy helps, and the options do not accept this.
    """
    floor = floor_of(options)
    # a training, or a bound of accuracy, may change outputs on purpose
    noisy = options.qat is not None or (options.mixed == "auto" and options.max_drop is not None)
    some = judged_within(reference, context.data.judging, budget_of(reference, options).room_bytes)
    held = HeldOut(reference, some, options.batch_size, context.console, context.task)
    result = Rescue(found, held.compare(found.program, floor, noisy), floor)
    result.shortfall = result.against.shortfall
    _warn_of_samples(held, result.against, context)
    if not result.shortfall:
        return result
    decided = options.plan is not None or options.mixed == "auto" or options.qat is not None
    if not (decided or options.accept):
        _try_remedies(result, reference, options, context, held)
    if result.against.shortfall:
        problem = _ruined(result, options)
        if not options.accept and options.qat is None:
            raise problem
        context.console.warn(problem.message)
    return result


def _warn_of_samples(held: HeldOut, found: Comparison, context: Context) -> None:
    """Say where the samples prove little: if all of them are equal, or if classes differ that no label confirms."""
    inputs, _ = held.split.read(range(min(len(held.split), _LOOKED_AT)))
    rows = [np.asarray(value) for value in inputs.values() if np.ndim(value)]
    if rows and all(len(value) > 1 and bool((value == value[:1]).all()) for value in rows):
        context.console.warn(
            f"all {len(held.split)} samples are equal, so neither the ranges nor the figures hold for others: give "
            "samples as the model will see them"
        )
    same = found.facts.agreement
    if context.task == "classification" and held.targets is None and same is not None and same < FLOOR.agreement:
        context.console.warn(
            f"{same:.0%} of the samples keep their largest output at the same place: if outputs are classes, this is "
            "below the floor of 90 %, which is only held where the data have labels (or set `min_sqnr`)"
        )


def _try_remedies(
    result: Rescue, reference: Program, options: QuantizeOptions, context: Context, held: HeldOut
) -> None:
    """Replace the result by the first remedy that is above the floor and leaves enough in INT8, or else by the best."""
    console = context.console
    console.warn(f"INT8 ruins this model: {result.shortfall}; remedies are tried")
    whole = _integer_percent(result.found)
    best: int | None = None
    for remedy, make in _remedies(result, reference, options, context):
        try:
            made = make()
        except RetortError as error:  # a remedy that cannot be made leaves the others
            console.warn(f"{remedy} could not be tried: {error.message}")
            continue
        against = held.compare(made.program, result.floor)
        left = _integer_percent(made)
        result.tried.append(
            RemedyTrial(
                remedy=remedy,
                against_fp32=against.facts,
                integer_macs_percent=left,
                floating=tuple(made.floats),
                kept=False,
            )
        )
        console.say(f"            {remedy}: {against.facts.describe()}; {left:.0f} % of the work in INT8")
        if against.shortfall or left <= 0:
            continue
        if best is None or left > result.tried[best].integer_macs_percent:
            best, result.found, result.against = len(result.tried) - 1, made, against
        if left >= ENOUGH * whole:
            break
    if best is not None:
        result.tried[best] = result.tried[best].model_copy(update={"kept": True})


Make = Callable[[], Quantized]


def _remedies(
    result: Rescue, reference: Program, options: QuantizeOptions, context: Context
) -> Iterator[tuple[str, Make]]:
    """The remedies, the cheapest first: fewer integer layers, then all corrections, then tables in floating point."""
    broken = result.found
    # corrections that were fitted behind a ruined layer make the layers after it look ruined, too
    plain = dataclasses.replace(broken, program=broken.exact)
    yield "the layers that break in floating point", lambda: _mixed(result, reference, plain, options, context)
    enough = min(len(context.data.calibration), options.samples) >= FEWEST
    full = options.model_copy(update={"correction": ("full",)})
    if "auto" in options.correction and enough:
        corrected = functools.cache(lambda: quantize_with(reference, full, context))
        yield "all corrections", corrected
        yield (
            "all corrections, and the layers that still break in floating point",
            lambda: _mixed(result, reference, corrected(), full, context),
        )
    if options.embeddings == "int8":
        tables = options.model_copy(update={"embeddings": "float"})
        yield (
            "embedding tables and the layers that break in floating point",
            lambda: _mixed(result, reference, quantize_with(reference, tables, context), tables, context),
        )


def _mixed(
    result: Rescue, reference: Program, found: Quantized, options: QuantizeOptions, context: Context
) -> Quantized:
    """The same with the smallest number of layers in floating point that brings the outputs to the aim."""
    split, console = context.data.judging, context.console
    lines = sensitivity(found.program, found.exact, split, console=console)
    if result.worst is None and lines:
        result.worst = lines[0]
    floats = choose(found.program, found.exact, split, lines, AIM, console)
    made = leave_in_float(reference, found, options, context, AIM, floats)
    made.lines = lines
    return made


def _integer_percent(found: Quantized) -> float:
    return float(found.program.meta["quantization"]["integer_macs_percent"])


def _described(line: Sensitivity) -> str:
    detail = f"{line.cause}{': ' + line.detail if line.detail else ''}"
    alone = "" if line.sqnr_db is None else f", {line.sqnr_db:.1f} dB with only this layer in INT8"
    return f"{line.layer} ({detail}{alone})"


def _ruined(result: Rescue, options: QuantizeOptions) -> VerificationError:
    """The error, with the layer that breaks and the remedies that were tried."""
    where = f". INT8 harms {_described(result.worst)} most" if result.worst is not None else ""
    tried = "; ".join(
        f"{item.remedy}: {item.against_fp32.describe()}, {item.integer_macs_percent:.0f} % of the work in INT8"
        for item in result.tried
    )
    remedy = "train it with `qat`, or ship the FP32 model"
    if options.plan is not None or options.mixed == "auto":
        remedy = "leave more layers in floating point, or remove the plan or the bound so that Retort chooses them"
    elif options.qat is not None:
        remedy = "train longer, or quantize without `qat` first, so that Retort finds the layers that break"
    return VerificationError(
        f"INT8 ruins this model: {result.shortfall}{where}" + (f". Tried without success: {tried}" if tried else ""),
        f"{remedy}; `--accept` (`quantize.accept: true`) writes it all the same",
    )
