"""Post-training quantization of an FP32 program: folding, placement, calibration and corrections."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...core.console import SILENT, Console
from ...core.counts import counted
from ...core.cpu_targets import is_for_cpu
from ...core.data.splits import Split
from ...core.errors import DataError, UserError
from ...core.facts.quantize_facts import QatFacts, Sensitivity
from ...core.options.stage_options import QuantizeOptions, Target
from ..program import Program, set_training
from .calibration.calibrate import calibrate
from .copy_on_write import fork
from .correction.auto_method import choose_method
from .correction.correct import CorrectionResult, apply_corrections, check_samples, divide, new_result, show
from .correction.judge import Judge
from .correction.smoothquant import smooth
from .dynamic_quantization import is_wanted
from .memory_budget import budget_of, out_of_memory, within
from .mixed_precision.plan import patterns, read_plan
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


def post_training(
    program: Program,
    options: QuantizeOptions,
    calibration: Split,
    target: Target,
    console: Console,
    floats: Sequence[str] = (),
) -> Quantized:
    """Post-training quantization with corrections; the layers of ``floats`` stay in floating point.

    The result shares the weights that it has in common with ``program``.
    """
    try:
        return _fitted(program, options, calibration, target, console, floats)
    except (MemoryError, RuntimeError) as error:
        raise out_of_memory(error, "calibrate this model") from error


def _fitted(
    program: Program,
    options: QuantizeOptions,
    calibration: Split,
    target: Target,
    console: Console,
    floats: Sequence[str],
) -> Quantized:
    if is_quantized(program):
        raise UserError("the program is already quantized", "quantize the FP32 program from which it was made")
    if len(calibration) == 0:
        raise DataError("the calibration set is empty", "increase `data.calibration`, or check the data source")
    options = within(program, options)
    prepared = fork(program)
    set_training(prepared, False)
    store_computed(prepared)
    folded = fold_batch_norms(prepared, share=True)
    if options.plan is not None:
        floats = [*floats, *read_plan(Path(options.plan), layer_names(folded, target))]
    if is_for_cpu(target):
        soften_masks(folded, calibration, options, console)
    judged = check_samples(calibration, options)
    fitted, held_out = divide(calibration, options.samples) if judged else (calibration, calibration)
    room = budget_of(program, options).room_bytes
    judge = Judge(program, held_out, options.batch_size, room) if judged else None
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
        return Quantized(made, fork(made), floats=tuple(floats))
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
    started, form = time.perf_counter(), fork(folded)
    facts = smooth(form, fitted, options, target, console)
    if not facts or judge is None:
        return form, facts, []
    plain = options.model_copy(update={"method": "minmax"}) if options.method == "auto" else options
    before, after = (judge.score(_int8(fork(item), plain, fitted, target, SILENT, floats)) for item in (folded, form))
    result = new_result("smooth", before[0], after, counted(facts, "tensor"), time.perf_counter() - started)
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
        double = any(weight.element_size() == 8 for weight in folded.module.parameters())
        remedy = "; its weights are in double precision: capture `model.float()`, with data in FP32" if double else ""
        console.warn(f"no layer can be INT8 on this target; the program stays in floating point{remedy}")
    return folded


def layer_names(folded: Program, target: Target) -> list[str]:
    """Names of layers and operators, as a plan and ``exclude`` use them."""
    form = fork(folded)
    rewrite(form, target, ())
    return sorted(_names(form))


def _names(program: Program) -> set[str]:
    nodes = [node for node in program.module.graph.nodes if node.op == "call_function"]
    return {name for node in nodes for name in (node.name, name_in_model(node))}
