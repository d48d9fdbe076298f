"""The quantize stage: an INT8 program artifact from an FP32 one, with its facts and its plan."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...core.artifact import Artifact, load_artifact, new_artifact, raise_if_not
from ...core.console import SILENT, Console
from ...core.data import Splits
from ...core.options import QuantizeOptions, Target, Task
from ..program import cost, load_program, save_program
from .partial import units_of
from .plan import write_plan
from .qat import forget
from .quality import compare
from .quantizing import Gains, Quantized, is_quantized, quantize_program, quantize_with

__all__ = ["is_quantized", "quantize", "quantize_program"]
PLAN = "plan.yaml"


def quantize(
    options: QuantizeOptions,
    artifact: Artifact,
    directory: Path,
    *,
    data: Splits,
    target: Target,
    task: Task = "classification",
    seed: int = 0,
    scratch: Path | None = None,
    console: Console = SILENT,
    key: str = "",
    parents: tuple[str, ...] = (),
    slow: Mapping[str, str] | None = None,
    gains: Gains | None = None,
) -> Artifact:
    """Quantize a program artifact; see :func:`quantize_program`.

    Args:
        options: of the stage.
        artifact: an FP32 ``program``.
        directory: where the new artifact goes.
        data: its calibration split sets the ranges, its validation split measures the result.
        target: whose kernels decide what is quantized.
        task: what the model does; training and the gate of mixed precision depend on it.
        seed: of training; nothing else here is random.
        scratch: folder for a resumable checkpoint of training.
        console: shows progress.
        key: identity of the new artifact.
        parents: keys of the artifacts it was made from.
        slow: layers and operators to leave in floating point for speed, with the measured reason.
        gains: measures what INT8 saves per layer; see :func:`.quantizing.quantize_with`.

    Returns:
        The ``program`` artifact with its facts: what is integer, what is not and why, and how far it is from FP32.
    """
    raise_if_not(artifact, "program")
    reference = load_program(artifact.main)
    shared: dict[str, Any] = {"seed": seed, "scratch": scratch, "console": console, "slow": slow, "gains": gains}
    found = quantize_with(reference, options, data, target, task=task, **shared)
    result = found.program
    facts: dict[str, Any] = {"target": target, **_facts(found), **({"float_for_speed": dict(slow)} if slow else {})}
    held_out = data.validation if len(data.validation) else data.calibration
    facts["against_fp32"] = compare(reference, result, held_out, options.batch_size, console)
    told: dict[str, Any] = {"options": options.model_dump(mode="json"), "facts": facts}
    with new_artifact(directory, "program", "quantize", key=key, parents=parents, **told) as folder:
        save_program(result, folder / "model.pt2")
        facts["size_bytes"] = (folder / "model.pt2").stat().st_size
        write_plan(folder / PLAN, result, units_of(result), found.floats, found.gate)
    if scratch is not None:
        forget(scratch)
    _report(facts, console)
    return load_artifact(directory)


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
    if found.rungs:
        facts["correction"] = [rung.facts() for rung in found.rungs]
        facts["timing"] = {"correction_seconds": {rung.rung: round(rung.seconds, 2) for rung in found.rungs}}
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
