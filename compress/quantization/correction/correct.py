"""Corrections after calibration: each is tried, measured on held-out samples, and kept only if it helps."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch import fx

from ....core.console import SILENT, Console
from ....core.data.splits import Split, Subset
from ....core.errors import DataError
from ....core.facts.quantize_facts import CorrectionFacts
from ....core.metrics.all_outputs import agreement_of_all, floating, sqnr_of_all_db
from ....core.options.stage_options import QuantizeOptions
from ...graph.module_edit import fetch, readers_of
from ...program import Program, clone, cost, predict
from ..operator_classes import is_qdq
from .equalization import equalise
from .layer_matrices import QuantizedLayer, channel_axis, is_matrix, quantized_layers
from .layerwise import Chunks, Output, feeds_of, visit_layers
from .learned_ranges import learn_ranges
from .rounding import gram_of, improve

AUTO = ("equalise", "hessian", "bias")
FULL = ("equalise", "ranges", "hessian", "adaround", "bias")
FEWEST = 16
_FILLS = ("hessian", "adaround")
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
        detail: what it changed.
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


class Judge:
    """Compares the floating-point outputs of a program with those of the FP32 program on held-out samples."""

    def __init__(self, reference: Program, split: Split, batch_size: int) -> None:
        self.split, self.batch_size = split, batch_size
        self.wanted = floating(predict(reference, split, batch_size))

    def score(self, program: Program) -> tuple[float, float | None]:
        """Centred SQNR over all outputs in dB and, if outputs contain classes, the smallest agreement."""
        if not self.wanted:
            return float("inf"), None
        found = floating(predict(program, self.split, self.batch_size))
        return sqnr_of_all_db(self.wanted, found), agreement_of_all(self.wanted, found)


def corrections_of(options: QuantizeOptions) -> tuple[str, ...]:
    """The corrections that the options select, in the order in which they are applied."""
    asked: set[str] = set(options.correction)
    if "full" in asked:
        return FULL
    if "auto" in asked:
        asked |= set(AUTO)
    return tuple(name for name in FULL if name in asked)


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
    base = clone(folded)
    best = build(clone(base))
    exact = clone(best)
    score, _ = judge.score(best)
    done: list[CorrectionResult] = []
    for name in corrections_of(options):
        if not quantized_layers(best.module):
            break
        if name in _FILLS and "sparsity" in original.meta:
            continue  # they change every weight of a layer, including its zeros
        started = time.perf_counter()
        form = clone(base)
        if name == "equalise":
            detail, found = _equalised(form, build, split, options, console)
        else:
            detail, found = _corrected(name, best, exact, original, split, options, console)
        after, agreement = judge.score(found) if found is not None else (score, None)
        done.append(new_result(name, score, (after, agreement), detail, time.perf_counter() - started))
        if done[-1].kept and found is not None:
            best, score = found, after
            if name == "equalise":
                base, exact = form, clone(found)
    return best, exact, done


def new_result(
    name: str, before: float, after: tuple[float, float | None], detail: str, seconds: float
) -> CorrectionResult:
    """The result of a correction from scores of :class:`Judge`; it is kept if it gains at least 0.05 dB."""
    kept = after[0] > before + _LEAST_GAIN_DB
    return CorrectionResult(name, _db(before), _db(after[0]), after[1], kept, detail, seconds)


def _equalised(
    form: Program, build: Build, split: Split, options: QuantizeOptions, console: Console
) -> tuple[str, Program | None]:
    pairs, clamps = equalise(form, split, options.samples, options.batch_size, console)
    detail = f"{pairs} pairs of layers" + (f", {clamps} clamps without effect replaced by ReLU" if clamps else "")
    return (detail, build(clone(form))) if pairs else ("no suitable pair of layers", None)


def _corrected(
    name: str,
    best: Program,
    exact: Program,
    original: Program,
    split: Split,
    options: QuantizeOptions,
    console: Console,
) -> tuple[str, Program | None]:
    found = clone(best)
    if name == "ranges":
        steps = _range_steps(original)
        learn_ranges(found, original, split, options.samples, steps, console)
        return f"{steps} steps", found
    feeds = feeds_of(exact, split, options.samples)
    visitor = _Bias(found) if name == "bias" else _Rounding(found, exact, name)
    visit_layers(found, exact, feeds, visitor, name, console)
    return visitor.detail, found


def _range_steps(program: Program) -> int:
    return int(max(20, min(_RANGE_STEPS, _RANGE_MACS / max(1, cost(program).macs * 8 * 3))))


def _is_shared(graph: fx.Graph, path: str) -> bool:
    """Whether several nodes read a weight or its quantized form: layers, or a layer and an embedding."""
    readers = readers_of(graph, path)
    return len(readers) > 1 or any(is_qdq(node) and len(node.users) > 1 for node in readers)


class _Rounding:
    """Improves the rounding of the weights, one layer after the other."""

    def __init__(self, program: Program, exact: Program, method: str) -> None:
        self.module, self.exact, self.method = program.module, exact.module, method
        paths = [layer.weight for layer in quantized_layers(program.module)]
        self.shared = {path for path in paths if _is_shared(program.module.graph, path)}
        self.shares: list[float] = []

    def __call__(self, layer: QuantizedLayer, data: Chunks, wanted: Chunks, output: Output) -> None:
        if layer.weight in self.shared or not is_matrix(layer):
            return
        gram = gram_of(layer, self.module, data, wanted)
        self.shares.append(improve(layer, self.module, fetch(self.exact, layer.weight), gram, self.method))

    @property
    def detail(self) -> str:
        """What was done."""
        share = 100 * float(np.mean(self.shares)) if self.shares else 0.0
        return f"{len(self.shares)} layers, {share:.0f} % of their channels"


class _Bias:
    """Corrects the bias by the mean error of each channel (Nagel et al., 2019, section 4.2, empirical form)."""

    def __init__(self, program: Program) -> None:
        self.module = program.module
        self.count = 0

    def __call__(self, layer: QuantizedLayer, data: Chunks, wanted: Chunks, output: Output) -> None:
        if layer.bias is None or fetch(self.module, layer.bias).dim() != 1:
            return
        shift, count = torch.zeros(()), 0
        for left, right in zip(output(), wanted):
            error = right - left
            axis = channel_axis(layer, error.dim())
            dims = [dim for dim in range(error.dim()) if dim != axis]
            shift = shift + error.sum(dims)
            count += error.numel() // error.shape[axis]
        bias = fetch(self.module, layer.bias)
        bias.data.add_((shift / count).to(bias.dtype))
        self.count += 1

    @property
    def detail(self) -> str:
        """What was done."""
        return f"{self.count} biases"


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
    names = ", ".join(corrections_of(options))
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
