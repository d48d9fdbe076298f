"""Corrections after calibration: each is tried, measured on held-out samples, and kept only if it helps."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch

from ....core.console import SILENT, Console
from ....core.counts import counted
from ....core.data.splits import Split, Subset
from ....core.errors import DataError
from ....core.facts.quantize_facts import CorrectionFacts
from ....core.options.stage_options import QuantizeOptions
from ....core.system.memory import give_back
from ...program import Program, cost
from ..copy_on_write import fork
from ..memory_budget import budget_of, left_out
from .accurate_layers import keep_accurate
from .equalization import equalise
from .judge import Judge
from .layer_corrections import Bias, Rounding
from .layer_matrices import quantized_layers
from .layerwise import feeds_of, visit_layers
from .learned_ranges import learn_ranges
from .recurrent_rounding import round_recurrent, sublayers

AUTO = ("equalise", "hessian", "bias")
FULL = ("equalise", "ranges", "hessian", "adaround", "bias")
FEWEST = 16
_FILLS = ("recurrent", "hessian", "adaround")
_RECURRENT = "recurrent"
"""Part of ``hessian`` that comes first, so that later layers are corrected for the recurrent layers as they will be."""
_HELD_OUT_EVERY = 4
_LEAST_GAIN_DB = 0.05
_RANGE_STEPS, _RANGE_MACS = 120, 2e11

Build = Callable[[Program], Program]
"""Makes an INT8 program from a folded FP32 program."""


@dataclass(frozen=True)
class CorrectionResult:
    """The result of one correction on the held-out samples.

    Attributes:
        name: the correction, as the option ``correction`` names it.
        before_db: centred SQNR before it, in dB; None if infinite.
        after_db: centred SQNR after it, in dB.
        agreement: share of samples with the same class as FP32; None for outputs that are not classes.
        kept: whether the program keeps the correction.
        detail: what it changed, or why it was left out.
        seconds: its duration, in seconds.
    """

    name: str
    before_db: float | None
    after_db: float | None
    agreement: float | None
    kept: bool
    detail: str
    seconds: float

    def facts(self) -> CorrectionFacts:
        """All fields except the duration; the key of the name is ``rung``."""
        fields = {key: value for key, value in asdict(self).items() if key not in ("name", "seconds")}
        return CorrectionFacts(rung=self.name, **fields)


def corrections_of(options: QuantizeOptions) -> tuple[str, ...]:
    """The corrections that the options select, in the order in which they are applied."""
    asked: set[str] = set(options.correction)
    if "full" in asked:
        return FULL
    if "auto" in asked:
        asked |= set(AUTO)
    names = [name for name in FULL if name in asked]
    if "hessian" in asked:
        names.insert(names.index("hessian"), _RECURRENT)
    return tuple(names)


def divide(split: Split, samples: int) -> tuple[Split, Split]:
    """Divide the calibration samples: every fourth is held out to judge corrections, the others are used to fit."""
    chosen = np.arange(min(samples, len(split)))
    held = chosen % _HELD_OUT_EVERY == _HELD_OUT_EVERY - 1
    return Subset(split, chosen[~held]), Subset(split, chosen[held])


def apply_corrections(
    original: Program,
    folded: Program,
    build: Build,
    split: Split,
    judge: Judge,
    options: QuantizeOptions,
    console: Console = SILENT,
) -> tuple[Program, Program, list[CorrectionResult]]:
    """Apply the corrections one after the other, and keep those that help.

    Args:
        original: the FP32 program, which is the reference.
        folded: the same with BatchNorm folded; it is not changed.
        build: makes the INT8 program of a folded one, calibrated on ``split``.
        split: calibration samples that corrections use.
        judge: computes scores on held-out samples.

    Returns:
        The best INT8 program, the same graph with FP32 weights, and the result of each correction.
    """
    best = build(fork(folded))
    state, setup = _State(folded, best, fork(best)), _Setup(original, build, split, judge, options, console)
    score, _ = judge.score(best)
    done: list[CorrectionResult] = []
    for name in corrections_of(options):
        if not quantized_layers(state.best.module) and not sublayers(state.best.module):
            break
        if name == _RECURRENT and not sublayers(state.best.module):
            continue
        if name in _FILLS and "sparsity" in original.meta:
            continue  # they change every weight of a layer, including its zeros
        started = time.perf_counter()
        found: _State | None = None
        try:
            detail, found = _tried(name, state, setup)
            after, agreement = judge.score(found.best) if found is not None else (score, None)
        except (MemoryError, RuntimeError) as error:
            detail, found, after, agreement = left_out(error, name), None, score, None
        if found is None and detail.startswith("left out"):
            console.warn(f"the correction {name} is {detail}")
        done.append(new_result(name, score, (after, agreement), detail, time.perf_counter() - started))
        if done[-1].kept and found is not None:
            state, score = found, after
        del found
        give_back()
    return state.best, state.exact, done


@dataclass(frozen=True)
class _State:
    """The programs between two corrections: folded, INT8, and the same graph as INT8 with FP32 weights."""

    base: Program
    best: Program
    exact: Program


def new_result(
    name: str, before: float, after: tuple[float, float | None], detail: str, seconds: float
) -> CorrectionResult:
    """The result of a correction from scores of :class:`Judge`; it is kept if it gains at least 0.05 dB."""
    kept = after[0] > before + _LEAST_GAIN_DB
    return CorrectionResult(name, _db(before), _db(after[0]), after[1], kept, detail, seconds)


@dataclass(frozen=True)
class _Setup:
    """What all corrections use: see :func:`apply_corrections`."""

    original: Program
    build: Build
    split: Split
    judge: Judge
    options: QuantizeOptions
    console: Console


def _tried(name: str, state: _State, setup: _Setup) -> tuple[str, _State | None]:
    """What a correction does, in words, and the programs after it; None if there is nothing to correct."""
    options, split, console = setup.options, setup.split, setup.console
    if name == "equalise":
        form = fork(state.base)
        pairs, clamps = equalise(form, split, options.samples, options.batch_size, console)
        detail = counted(pairs, "pair") + " of layers"
        if clamps:
            detail += f", {counted(clamps, 'clamp')} without effect replaced by ReLU"
        if not pairs:
            return "no suitable pair of layers", None
        made = setup.build(fork(form))
        return detail, _State(form, made, fork(made))
    budget = budget_of(setup.original, options)
    if name in _FILLS and not budget.allows_trials:
        return "left out: `memory` does not allow a third copy of the weights", None
    found = fork(state.best)
    if name == "ranges" and not any(spec.dtype.startswith("float") for spec in setup.original.signature.outputs):
        return "no floating-point output to fit", None
    if name == "ranges":
        steps = _range_steps(setup.original)
        learn_ranges(found, setup.original, split, options.samples, steps, console, budget.room_bytes)
        return counted(steps, "step"), replace(state, best=found)
    feeds = feeds_of(state.exact, split, options.samples, budget.room_bytes // 2)
    if name == _RECURRENT:
        return _recurrent(replace(state, best=found), state.best, feeds, setup.judge, console)
    room = budget.room_bytes // 2
    visitor = Bias(found) if name == "bias" else Rounding(found, state.exact, name, room, console)
    visit_layers(found, state.exact, feeds, visitor, name, console)
    return visitor.detail, replace(state, best=found)


def _recurrent(
    state: _State, before: Program, feeds: list[list[torch.Tensor]], judge: Judge, console: Console
) -> tuple[str, _State]:
    """Round recurrent weights if that helps, and leave harmful recurrent layers in FP32."""
    count = round_recurrent(state.best, state.exact, feeds, console)
    better = judge.score(state.best)[0] > judge.score(before)[0]
    best, exact, floats = keep_accurate(state.best if better else before, state.exact, judge)
    rounded = counted(count, "layer") if better else "no layer"
    detail = rounded + (f"; in FP32: {', '.join(floats)}" if floats else "")
    return detail, replace(state, best=best, exact=exact)


def _range_steps(program: Program) -> int:
    return int(max(20, min(_RANGE_STEPS, _RANGE_MACS / max(1, cost(program).macs * 8 * 3))))


def check_samples(split: Split, options: QuantizeOptions) -> bool:
    """Whether there are enough samples to judge corrections.

    Raises:
        DataError: there are too few for the corrections that the options name.
    """
    count = min(len(split), options.samples)
    if count >= FEWEST:
        return bool(corrections_of(options))
    if set(options.correction) <= {"auto", "none"}:
        return False
    names = ", ".join(name for name in corrections_of(options) if name != _RECURRENT)
    raise DataError(
        f"{count} calibration samples are too few for {names}, because some are held out to judge the result",
        f"give at least {FEWEST} samples (`data.calibration`, `quantize.samples`), or set `correction: none`",
    )


def show(results: Sequence[CorrectionResult], console: Console) -> None:
    """Print the gain and the duration of each correction."""
    for result in results:
        step = f"{_shown(result.before_db)} -> {_shown(result.after_db)} dB"
        verdict = "kept" if result.kept else "dropped"
        console.say(f"            {result.name:<9} {step:<22} {verdict:<8} {result.seconds:6.1f} s  {result.detail}")


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _db(value: float) -> float | None:
    return round(value, 2) if np.isfinite(value) else None
