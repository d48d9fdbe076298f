"""The quantize stage: an INT8 program artifact from an FP32 one, with its facts and its plan."""

from __future__ import annotations

from ...core.artifact import Artifact, load_artifact, new_artifact, raise_if_not
from ...core.console import Console
from ...core.context import Context, Place
from ...core.facts.quantize_facts import Fidelity, FloatNode, MixedPrecision, QuantizeFacts, QuantizeTiming
from ...core.formats.program_file import fit_context
from ...core.options.stage_options import QuantizeOptions, Target
from ..program import cost, load_program, save_program
from .fidelity import compare
from .int8_program import Gains, Quantized, is_quantized, quantize_program, quantize_with
from .mixed_precision.partial_quantization import units_of
from .mixed_precision.plan import write_plan
from .qat import discard_checkpoint

__all__ = ["is_quantized", "quantize", "quantize_program"]
PLAN = "plan.yaml"


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
    """
    raise_if_not(parent, "program")
    reference, context = load_program(parent.main), fit_context(context, parent.main)
    found = quantize_with(reference, options, context, gains)
    result = found.program
    against = compare(reference, result, context.data.judging, options.batch_size, context.console)
    with new_artifact(place, "program", "quantize", options=options) as draft:
        path = draft.folder / "model.pt2"
        save_program(result, path)
        draft.facts = facts = _facts(found, options, context.target, against, path.stat().st_size)
        write_plan(draft.folder / PLAN, result, units_of(result), found.floats, found.gate)
    discard_checkpoint(context.scratch)
    _report(facts, context.console)
    return load_artifact(place.directory)


def _facts(
    found: Quantized, options: QuantizeOptions, target: Target, against_fp32: Fidelity, size_bytes: int
) -> QuantizeFacts:
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
        against_fp32=against_fp32,
        correction=tuple(correction.facts() for correction in found.corrections) or None,
        timing=QuantizeTiming(correction_seconds=seconds) if seconds else None,
        sensitivity=tuple(found.lines) or None,
        mixed=MixedPrecision(gate=found.gate, float=tuple(found.floats)) if found.gate else None,
        qat=found.training,
    )


def _report(facts: QuantizeFacts, console: Console) -> None:
    kinds = ", ".join(f"{count} {kind}" for kind, count in facts.quantized_nodes.items()) or "nothing"
    noise = facts.against_fp32.sqnr_centred_db
    console.stage("quantize", f"{kinds} in INT8" + (f"; centred SQNR {noise} dB" if noise is not None else ""))
    for node in facts.float_nodes:
        console.say(f"            {node.layer} ({node.op}) stays in floating point: {node.reason}")
