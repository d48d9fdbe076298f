"""Quantizes an FP32 program to INT8: folding, placement, calibration, correction, mixed precision and training."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...core.console import SILENT, Console
from ...core.context import Context
from ...core.data.splits import Split
from ...core.errors import DataError, RetortError, UserError
from ...core.facts.quantize_facts import QatFacts, Sensitivity
from ...core.options.stage_options import QuantizeOptions, Target
from ..program import Program, clone, set_training
from .calibration.calibrate import calibrate
from .correction.auto_method import choose_method
from .correction.correct import CorrectionResult, Judge, apply_corrections, check_samples, divide, new_result, show
from .correction.smoothquant import smooth
from .dynamic_quantization import is_wanted
from .mixed_precision.plan import AccuracyBound, bound_of, choose, met, patterns, read_plan
from .mixed_precision.sensitivity import sensitivity, table
from .operator_classes import is_qdq
from .placement.embedding_tables import quantize_tables
from .placement.insert_qdq import apply
from .placement.low_bit_weights import narrow_weights
from .placement.place import place
from .points import name_in_model
from .prepare.attention_masks import soften_masks
from .prepare.batch_norm_folding import fold_batch_norms
from .prepare.constant_weights import store_computed
from .prepare.integer_forms import rewrite
from .qat import train_quantized

Gains = Callable[[Program], Mapping[str, float]]
"""Measures, for a quantized program, the milliseconds that INT8 saves in each layer, by the layer's name."""


@dataclass
class Quantized:
    """A quantized program and the results of its quantization.

    Attributes:
        program: INT8.
        exact: the same graph with FP32 weights, before corrections.
        corrections: results of the corrections.
        lines: results of the sensitivity analysis; empty if it was not requested.
        floats: names of the layers that stay in floating point to meet the bound, for speed, or by the plan.
        gate: the bound of mixed precision in words.
        training: facts about quantization-aware training, if there was one.
    """

    program: Program
    exact: Program
    corrections: Sequence[CorrectionResult] = ()
    lines: Sequence[Sensitivity] = ()
    floats: Sequence[str] = ()
    gate: str = ""
    training: QatFacts | None = None


def is_quantized(program: Program) -> bool:
    """Whether a program has fake-quantize nodes, or its metadata state that it is quantized."""
    return "quantization" in program.meta or any(is_qdq(node) for node in program.module.graph.nodes)


def quantize_program(
    program: Program,
    options: QuantizeOptions,
    calibration: Split,
    target: Target,
    console: Console = SILENT,
    floats: Sequence[str] = (),
) -> Program:
    """Quantize a program to INT8 after training, with fake-quantize nodes.

    Weights stay FP32 parameters, so the result can be trained further; export converts them to INT8. The scheme is
    stored in ``meta["quantization"]``, and the result can be exported to any target. The options that need other splits
    than the calibration split (``mixed``, ``sensitivity``, ``qat``) are used by :func:`quantize_with`.

    Args:
        program: an FP32 program; it is not changed.
        options: method, sample count, exclusions, plan and corrections.
        calibration: samples that are representative of the model's inputs.
        target: its kernels determine what is quantized.
        console: shows progress.
        floats: names of layers and operators that stay in floating point.

    Raises:
        UserError: the program is already quantized, or an exclusion or the plan matches nothing.
        DataError: the calibration split is empty, or it or an activation has NaN or infinite values.
        ModelError: a weight has NaN or infinite values.
        VerificationError: folding BatchNorm changed the outputs.
    """
    return _calibrated(program, options, calibration, target, console, floats).program


def quantize_with(
    program: Program, options: QuantizeOptions, context: Context, gains: Gains | None = None
) -> Quantized:
    """Quantize a program with all options: calibration, corrections, mixed precision, training.

    Args:
        context: its calibration split sets the ranges. Mixed precision is judged on its validation split, or on the
            calibration split if there is none. Its train split and its scratch folder are used by ``qat``.
        gains: measures the time that INT8 saves per layer, for mixed precision; the default is multiply-accumulates.

    Raises:
        RetortError: as :func:`quantize_program`, :func:`.plan.bound_of` and :func:`.qat.train_quantized`.
    """
    data, console = context.data, context.console
    split = data.judging
    bound = bound_of(options, split, context.task) if options.mixed == "auto" else None
    if options.qat is not None and len(data.train) == 0:
        raise DataError("quantization-aware training needs training samples", "give a train split, or remove `qat`")
    slow = options.float_layers
    found = _calibrated(program, options, data.calibration, context.target, console, tuple(slow))
    if options.sensitivity or bound is not None:
        found.lines = sensitivity(found.program, found.exact, split, console=console)
    if bound is not None:
        saved = _saved(found.program, gains, console)
        floats = choose(found.program, found.exact, split, found.lines, bound, console, saved)
        found = _mixed(program, found, options, context, bound, floats)
    _explain(found, slow)
    if options.sensitivity:
        table(found.lines, console)
    if options.qat is not None:
        _, found.training = train_quantized(found.program, program, options.qat, context)
    return found


def _mixed(
    program: Program,
    found: Quantized,
    options: QuantizeOptions,
    context: Context,
    bound: AccuracyBound,
    floats: Sequence[str],
) -> Quantized:
    """Quantize again without the layers that must stay in floating point to meet the bound."""
    why = bound.describe()
    if not floats:
        found.gate = why
        return found
    data, console = context.data, context.console
    held = [*options.float_layers, *floats]
    result = _calibrated(program, options, data.calibration, context.target, console, held)
    for node in result.program.meta["quantization"]["float_nodes"]:
        if node["layer"] in floats or node["node"] in floats:
            node["reason"] = f"INT8 in this layer would miss {why}"
    console.say(f"            {', '.join(floats)} stay in floating point, to meet {why}")
    if not met(bound, program, result.program, data.judging, options.batch_size):
        console.warn(
            f"after the second quantization the program misses {why}: tighten the bound a little, or edit the plan"
        )
    result.lines, result.gate = found.lines, why
    return result


def _explain(found: Quantized, slow: Mapping[str, str]) -> None:
    """Record the measured reason for the layers that stay in FP32 because they are faster there."""
    for node in found.program.meta["quantization"]["float_nodes"]:
        reason = slow.get(node["layer"]) or slow.get(node["node"])
        node["reason"] = reason or node["reason"]


def _saved(program: Program, gains: Gains | None, console: Console) -> Mapping[str, float]:
    """The time that INT8 saves per layer; if it cannot be measured, warn and return nothing."""
    try:
        return gains(program) if gains is not None else {}
    except RetortError as error:
        console.warn(f"layers cannot be timed, so their multiply-accumulates are used instead: {error.message}")
        return {}


def _calibrated(
    program: Program,
    options: QuantizeOptions,
    calibration: Split,
    target: Target,
    console: Console,
    floats: Sequence[str] = (),
) -> Quantized:
    """Post-training quantization with corrections; the layers of ``floats`` stay in floating point."""
    if is_quantized(program):
        raise UserError("the program is already quantized", "quantize the FP32 program from which it was made")
    if len(calibration) == 0:
        raise DataError("the calibration set is empty", "increase `data.calibration`, or check the data source")
    prepared = clone(program)
    set_training(prepared, False)
    store_computed(prepared)
    folded = fold_batch_norms(prepared)
    if options.plan is not None:
        floats = [*floats, *read_plan(Path(options.plan), layer_names(folded, target))]
    if target == "cpu":
        soften_masks(folded, calibration, options, console)
    judged = check_samples(calibration, options)
    fitted, held_out = divide(calibration, options.samples) if judged else (calibration, calibration)
    judge = Judge(program, held_out, options.batch_size) if judged else None
    folded, smoothed, tried = _smoothed(folded, options, fitted, target, judge, floats, console)
    options, methods = choose_method(
        program,
        folded,
        lambda form, chosen, split: _int8(form, chosen, split, target, SILENT, floats),
        calibration,
        options,
    )
    notes = {"smoothed": smoothed, "methods": methods}
    if judge is None:
        made = _int8(folded, options, calibration, target, console, floats)
        made.meta["quantization"] |= notes
        return Quantized(made, clone(made), floats=tuple(floats))
    result, exact, applied = apply_corrections(
        program,
        folded,
        lambda form: _int8(form, options, fitted, target, console, floats),
        fitted,
        judge,
        options,
        console,
    )
    corrections = [*tried, *applied]
    result.meta["quantization"] |= notes
    result.meta["quantization"]["correction"] = [correction.facts().to_json() for correction in corrections]
    show(corrections, console)
    return Quantized(result, exact, corrections, floats=tuple(floats))


def _smoothed(
    folded: Program,
    options: QuantizeOptions,
    fitted: Split,
    target: Target,
    judge: Judge | None,
    floats: Sequence[str],
    console: Console,
) -> tuple[Program, list[dict[str, Any]], list[CorrectionResult]]:
    """The first correction, SmoothQuant: the smoothed program if it is better, and the result."""
    started, form = time.perf_counter(), clone(folded)
    facts = smooth(form, fitted, options, target, console)
    if not facts or judge is None:
        return form, facts, []
    plain = options.model_copy(update={"method": "minmax"}) if options.method == "auto" else options
    before, after = (judge.score(_int8(clone(item), plain, fitted, target, SILENT, floats)) for item in (folded, form))
    result = new_result("smooth", before[0], after, f"{len(facts)} tensors", time.perf_counter() - started)
    return (form, facts, [result]) if result.kept else (folded, [], [result])


def _int8(
    folded: Program,
    options: QuantizeOptions,
    calibration: Split,
    target: Target,
    console: Console,
    floats: Sequence[str],
) -> Program:
    """Convert a folded program to INT8, in place."""
    rewrite(folded, target, (*options.exclude, *patterns(floats)))
    # an operator that rewriting creates may not exist if the layer before it stays in floating point
    there = patterns([name for name in floats if name in _names(folded)])
    ends = (options.first_layer, options.last_layer)
    placement = place(folded, target, (*options.exclude, *there), ends, is_wanted(options, target))
    ranges = calibrate(folded, placement, calibration, options, console, target)
    apply(folded, placement, ranges, target, options)
    if options.embeddings == "int8":
        tables = quantize_tables(folded, (*options.exclude, *there))
        folded.meta["quantization"]["weights"] |= tables
    narrow_weights(folded, options.weight_bits)
    if not (placement.layers or placement.dynamic or placement.recurrent):
        console.warn("no layer can be INT8 on this target; the program stays in floating point")
    return folded


def layer_names(folded: Program, target: Target) -> list[str]:
    """Names of layers and operators, as a plan and ``exclude`` use them."""
    form = clone(folded)
    rewrite(form, target, ())
    return sorted(_names(form))


def _names(program: Program) -> set[str]:
    nodes = [node for node in program.module.graph.nodes if node.op == "call_function"]
    return {name for node in nodes for name in (node.name, name_in_model(node))}
