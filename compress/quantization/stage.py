"""The quantize stage: fold, place, calibrate, insert, and measure against the FP32 program."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...core.artifact import Artifact, load_artifact, new_artifact, raise_if_not
from ...core.console import SILENT, Console
from ...core.data import Split, Splits
from ...core.errors import DataError, UserError
from ...core.options import QuantizeOptions, Target
from ..program import Program, cost, load_program, save_program
from .apply import apply
from .calibration import calibrate
from .correction import Judge, check_samples, climb, divide, show
from .fold import fold_batch_norms
from .narrow import narrow_weights
from .operators import is_qdq
from .placement import place
from .quality import compare
from .rewrite import rewrite


def is_quantized(program: Program) -> bool:
    """Whether a program has fake-quantize nodes or says that it was quantized."""
    return "quantization" in program.meta or any(is_qdq(node) for node in program.module.graph.nodes)


def quantize_program(
    program: Program,
    options: QuantizeOptions,
    calibration: Split,
    target: Target,
    console: Console = SILENT,
) -> Program:
    """INT8 by post-training quantization, as fake-quantize nodes.

    Weights stay FP32 parameters (so the result can be trained further); export makes them INT8. The result carries
    its scheme in ``meta["quantization"]`` and can be exported to any target.

    Args:
        program: an FP32 program; left untouched.
        options: method, sample count and exclusions.
        calibration: samples that look like what the model will see.
        target: whose kernels decide what is quantized.
        console: shows progress.

    Raises:
        UserError: the program is quantized already, or an exclusion names nothing.
        DataError: the calibration set is empty, or it or an activation has NaN or infinite values.
        ModelError: a weight has NaN or infinite values.
        VerificationError: folding BatchNorm changed the outputs.
    """
    if is_quantized(program):
        raise UserError("the program is quantized already", "quantize the FP32 program it was made from")
    if len(calibration) == 0:
        raise DataError("the calibration set is empty", "raise `data.calibration`, or check the data source")
    folded = fold_batch_norms(program)
    if not check_samples(calibration, options):
        return _int8(folded, options, calibration, target, console)
    fitted, held_out = divide(calibration, options.samples)
    judge = Judge(program, held_out, options.batch_size)
    result, rungs = climb(
        program, folded, lambda form: _int8(form, options, fitted, target, console), fitted, judge, options, console
    )
    result.meta["quantization"]["correction"] = [rung.facts() for rung in rungs]
    show(rungs, console)
    return result


def _int8(folded: Program, options: QuantizeOptions, calibration: Split, target: Target, console: Console) -> Program:
    """A folded program, in place, as INT8."""
    rewrite(folded, target, options.exclude)
    placement = place(folded, target, options.exclude, (options.first_layer, options.last_layer))
    ranges = calibrate(folded, placement, calibration, options, console)
    apply(folded, placement, ranges, target, options)
    narrow_weights(folded, options.weight_bits)
    if not placement.layers:
        console.warn("no layer can be INT8 on this target; the program stays in floating point")
    return folded


def quantize(
    options: QuantizeOptions,
    artifact: Artifact,
    directory: Path,
    *,
    data: Splits,
    target: Target,
    seed: int = 0,
    console: Console = SILENT,
    key: str = "",
    parents: tuple[str, ...] = (),
) -> Artifact:
    """Quantize a program artifact; see :func:`quantize_program`.

    Args:
        options: of the stage.
        artifact: an FP32 ``program``.
        directory: where the new artifact goes.
        data: its calibration split sets the ranges, its validation split measures the result.
        target: whose kernels decide what is quantized.
        seed: unused: nothing here is random.
        console: shows progress.
        key: identity of the new artifact.
        parents: keys of the artifacts it was made from.

    Returns:
        The ``program`` artifact with its facts: what is integer, what is not and why, and how far it is from FP32.
    """
    raise_if_not(artifact, "program")
    reference = load_program(artifact.main)
    result = quantize_program(reference, options, data.calibration, target, console)
    facts: dict[str, Any] = {"target": target, **_facts(result)}
    held_out = data.validation if len(data.validation) else data.calibration
    facts["against_fp32"] = compare(reference, result, held_out, options.batch_size, console)
    stage = new_artifact(
        directory,
        "program",
        "quantize",
        key=key,
        parents=parents,
        options=options.model_dump(mode="json"),
        facts=facts,
    )
    with stage as folder:
        save_program(result, folder / "model.pt2")
        facts["size_bytes"] = (folder / "model.pt2").stat().st_size
    _report(facts, console)
    return load_artifact(directory)


def _facts(program: Program) -> dict[str, Any]:
    scheme = program.meta["quantization"]
    measured = cost(program)
    return {
        "parameters": measured.parameters,
        "macs": measured.macs,
        "method": scheme["method"],
        "quantized_nodes": scheme["kinds"],
        "integer_macs_percent": scheme["integer_macs_percent"],
        "float_nodes": scheme["float_nodes"],
    }


def _report(facts: dict[str, Any], console: Console) -> None:
    kinds = ", ".join(f"{count} {kind}" for kind, count in facts["quantized_nodes"].items()) or "nothing"
    noise = facts["against_fp32"].get("sqnr_centred_db")
    console.stage("quantize", f"{kinds} in INT8" + (f"; centred SQNR {noise} dB" if noise is not None else ""))
    for node in facts["float_nodes"]:
        console.say(f"            {node['layer']} ({node['op']}) stays in floating point: {node['reason']}")
