"""Quantizes an FP32 program to INT8 with all options: post-training quantization, mixed precision and training."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from ...core.console import SILENT, Console
from ...core.context import Context
from ...core.data.splits import Split
from ...core.errors import DataError, RetortError
from ...core.options.stage_options import QuantizeOptions, Target
from ..program import Program, clone
from .memory_budget import budget_of, judged_within
from .mixed_precision.plan import Bound, bound_of, choose, met
from .mixed_precision.sensitivity import sensitivity, table
from .post_training import Quantized, post_training
from .qat import train_quantized

Gains = Callable[[Program], Mapping[str, float]]
"""Measures, for a quantized program, the milliseconds that INT8 saves in each layer, by the layer's name."""
_SHOWN = 6


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
    return clone(post_training(program, options, calibration, target, console, floats).program)


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
    bound = bound_of(options, split, context.task, context.metric) if options.mixed == "auto" else None
    if options.qat is not None and len(data.train) == 0:
        raise DataError("quantization-aware training needs training samples", "give a train split, or remove `qat`")
    slow = options.float_layers
    found = post_training(program, options, data.calibration, context.target, console, tuple(slow))
    if options.sensitivity or bound is not None:
        room = budget_of(program, options).room_bytes
        found.lines = sensitivity(found.program, found.exact, split, console=console, room_bytes=room)
    if bound is not None:
        found = _within(bound, program, found, options, context, _saved(found.program, gains, console))
    _explain(found, slow)
    if options.sensitivity:
        table(found.lines, console)
    if options.qat is not None:
        found.program = clone(found.program)
        _, found.training = train_quantized(found.program, program, options.qat, context)
    return found


def _within(
    bound: Bound,
    program: Program,
    found: Quantized,
    options: QuantizeOptions,
    context: Context,
    saved: Mapping[str, float],
) -> Quantized:
    """The same with the smallest number of layers in floating point that meets the bound.

    Layers are chosen by their corrected weights, which need fewer of them in floating point. If the result misses the
    bound, they are chosen without corrections: those that were fitted behind a ruined layer spoil the layers after it.
    """
    split, console = context.data.judging, context.console
    some = judged_within(program, split, budget_of(program, options).room_bytes)
    for form in (found.program, found.exact):
        lines = found.lines if form is found.program else sensitivity(form, found.exact, split, console=console)
        floats = choose(form, found.exact, some, lines, bound, console, saved)
        made = leave_in_float(program, found, options, context, bound, floats)
        if not floats or met(bound, program, made.program, split, options.batch_size):
            return made
    console.warn(
        f"after the second quantization the program misses {bound.describe()}: tighten the bound a little, or edit the "
        "plan"
    )
    return made


def leave_in_float(
    program: Program,
    found: Quantized,
    options: QuantizeOptions,
    context: Context,
    bound: Bound,
    floats: Sequence[str],
) -> Quantized:
    """Quantize again without the layers that must stay in floating point to meet the bound.

    Args:
        program: FP32.
        found: the quantized program in which these layers were found.
        floats: their names; if there are none, ``found`` is returned.
    """
    why = bound.describe()
    if not floats:
        found.gate = why
        return found
    data, console = context.data, context.console
    held = [*options.float_layers, *floats]
    result = post_training(program, options, data.calibration, context.target, console, held)
    for node in result.program.meta["quantization"]["float_nodes"]:
        if node["layer"] in floats or node["node"] in floats:
            node["reason"] = f"INT8 in this layer would miss {why}"
    names = ", ".join(floats[:_SHOWN]) + (f" and {len(floats) - _SHOWN} more" if len(floats) > _SHOWN else "")
    console.say(f"            {names} in floating point, to meet {why}")
    _explain(result, options.float_layers)
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
