"""The quantize stage: an INT8 program artifact from an FP32 one, with its facts and its plan."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ...core.artifact import Artifact, load_artifact, new_artifact, raise_if_not
from ...core.context import Context, Place
from ...core.cpu_targets import why_not_timed
from ...core.facts.quantize_facts import FloatNode, MixedPrecision, QuantizeFacts, QuantizeTiming
from ...core.formats.program_file import fit_context
from ...core.options.stage_options import QuantizeOptions, Target
from ..program import cost, load_program, save_program
from .int8_program import Gains, quantize_program, quantize_with
from .memory_budget import within
from .mixed_precision.partial_quantization import units_of
from .mixed_precision.plan import write_plan
from .post_training import is_quantized
from .qat import discard_checkpoint
from .rescue import FLOOR, Rescue, above_floor

__all__ = ["is_quantized", "quantize", "quantize_program"]
PLAN = "plan.yaml"
_SHOWN = 3


def quantize(
    options: QuantizeOptions, parent: Artifact, place: Place, context: Context, gains: Gains | None = None
) -> Artifact:
    """Quantize a program artifact; see :func:`quantize_program`.

    Args:
        parent: an FP32 ``program``.
        context: its calibration split sets the ranges, its validation split measures the result, and its target
            determines what is quantized. Task and seed are for training and for the bound of mixed precision.
        gains: measures the time that INT8 saves per layer; see :func:`.int8_program.quantize_with`.

    Returns:
        The ``program`` artifact with its facts: what is integer, what is not and why, and the difference from FP32.

    Raises:
        RetortError: as :func:`quantize_program` and :func:`.rescue.above_floor`.
    """
    raise_if_not(parent, "program")
    reference, context = load_program(parent.main, context.data), fit_context(context, parent.main)
    fitted = within(reference, options)
    judged = above_floor(reference, quantize_with(reference, fitted, context, gains), fitted, context)
    found, result = judged.found, judged.found.program
    with new_artifact(place, "program", "quantize", options=options) as draft:
        path = draft.folder / "model.pt2"
        save_program(result, path)
        draft.facts = facts = _facts(judged, options, context.target, path.stat().st_size)
        write_plan(draft.folder / PLAN, result, units_of(result), found.floats, found.gate)
    discard_checkpoint(context.scratch)
    _report(facts, context)
    return load_artifact(place.directory)


def _facts(judged: Rescue, options: QuantizeOptions, target: Target, size_bytes: int) -> QuantizeFacts:
    found = judged.found
    scheme, measured = found.program.meta["quantization"], cost(found.program)
    seconds = {correction.name: round(correction.seconds, 2) for correction in found.corrections}
    return QuantizeFacts(
        parameters=measured.parameters,
        macs=measured.macs,
        size_bytes=size_bytes,
        target=target,
        method=scheme["method"],
        quantized_nodes=scheme["kinds"],
        integer_macs_percent=scheme["integer_macs_percent"],
        float_nodes=tuple(FloatNode(**node) for node in scheme["float_nodes"]),
        float_for_speed=dict(options.float_layers) or None,
        against_fp32=judged.against.facts,
        floor=judged.facts(options),
        correction=tuple(correction.facts() for correction in found.corrections) or None,
        timing=QuantizeTiming(correction_seconds=seconds) if seconds else None,
        sensitivity=tuple(found.lines) or None,
        mixed=MixedPrecision(gate=found.gate, float=tuple(found.floats)) if found.gate else None,
        qat=found.training,
        not_timed=(why_not_timed(target, options.timer) or None) if options.timed else None,
    )


def _report(facts: QuantizeFacts, context: Context) -> None:
    console = context.console
    kinds = ", ".join(f"{count} {kind}" for kind, count in facts.quantized_nodes.items()) or "nothing"
    console.stage("quantize", f"{kinds} in INT8; {facts.against_fp32.describe()}")
    same = facts.against_fp32.agreement
    if context.task == "classification" and same is not None and same < FLOOR.agreement:
        console.warn(f"if the outputs are classes, only {same:.0%} of the samples keep theirs")
    for line in _left(facts.float_nodes):
        console.say(f"            {line}")


def _left(nodes: Sequence[FloatNode]) -> Iterator[str]:
    """What stays in floating point, a line for each reason and kind of operator."""
    alike: dict[tuple[str, str], list[str]] = {}
    for node in nodes:
        alike.setdefault((node.op, node.reason), []).append(node.layer)
    for (kind, reason), names in alike.items():
        if len(names) == 1:
            yield f"{names[0]} ({kind}) stays in floating point: {reason}"
            continue
        rest = len(names) - _SHOWN
        shown = ", ".join(names[:_SHOWN]) + (f" and {rest} more" if rest > 0 else "")
        yield f"{len(names)} {kind} stay in floating point ({shown}): {reason}"
