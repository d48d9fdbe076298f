"""The quantize stage: an INT8 program artifact from an FP32 one, with its facts and its plan."""

from __future__ import annotations

from typing import Any

from ...core.artifact import Artifact, load_artifact, new_artifact, raise_if_not
from ...core.console import Console
from ...core.context import Context, Place
from ...core.formats.program_file import fit_context
from ...core.options.stage_options import QuantizeOptions
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
    facts: dict[str, Any] = {"target": context.target, **_facts(found)}
    if options.float_layers:
        facts["float_for_speed"] = dict(options.float_layers)
    facts["against_fp32"] = compare(reference, result, context.data.judging, options.batch_size, context.console)
    with new_artifact(place, "program", "quantize", options=options, facts=facts) as folder:
        save_program(result, folder / "model.pt2")
        facts["size_bytes"] = (folder / "model.pt2").stat().st_size
        write_plan(folder / PLAN, result, units_of(result), found.floats, found.gate)
    discard_checkpoint(context.scratch)
    _report(facts, context.console)
    return load_artifact(place.directory)


def _facts(found: Quantized) -> dict[str, Any]:
    scheme, measured = found.program.meta["quantization"], cost(found.program)
    facts: dict[str, Any] = {
        "parameters": measured.parameters,
        "macs": measured.macs,
        "method": scheme["method"],
        "quantized_nodes": scheme["kinds"],
        "integer_macs_percent": scheme["integer_macs_percent"],
        "float_nodes": scheme["float_nodes"],
    }
    if found.corrections:
        facts["correction"] = [correction.facts() for correction in found.corrections]
        seconds = {correction.name: round(correction.seconds, 2) for correction in found.corrections}
        facts["timing"] = {"correction_seconds": seconds}
    if found.lines:
        facts["sensitivity"] = [line.facts() for line in found.lines]
    if found.gate:
        facts["mixed"] = {"gate": found.gate, "float": list(found.floats)}
    if found.training:
        facts["qat"] = found.training
    return facts


def _report(facts: dict[str, Any], console: Console) -> None:
    kinds = ", ".join(f"{count} {kind}" for kind, count in facts["quantized_nodes"].items()) or "nothing"
    noise = facts["against_fp32"].get("sqnr_centred_db")
    console.stage("quantize", f"{kinds} in INT8" + (f"; centred SQNR {noise} dB" if noise is not None else ""))
    for node in facts["float_nodes"]:
        console.say(f"            {node['layer']} ({node['op']}) stays in floating point: {node['reason']}")
