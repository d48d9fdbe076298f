"""The facts that the pruning stage writes into its manifest, and its warnings."""

from __future__ import annotations

from typing import Any

from ...core.console import Console
from ...core.options.stage_options import PruneOptions
from ..graph.cost import Cost
from ..graph.module_edit import fetch
from ..program import Program, cost
from .coupling.groups import Grouping
from .proof.onnx_check import NOT_ASKED
from .proof.prove import Proof
from .resume import Steps
from .selection.cost_model import NAMES, counted
from .step import measure_of, share_of

_COARSE = 0.02


def proof_facts(proof: Proof) -> dict[str, Any]:
    """A proof as JSON-ready values."""
    return {
        "relative_error": proof.error,
        "output_relative_error": proof.outputs,
        "dtype": proof.dtype,
        "reason": proof.reason,
        "batches": list(proof.batches),
    }


def describe(grouping: Grouping) -> dict[str, Any]:
    """The groups before the first cut, as JSON-ready values."""
    free = [
        {
            "name": group.name,
            "layers": group.layers,
            "parameter": group.producers[0].parameter,
            "dim": group.producers[0].dim,
            "channels_before": group.channels,
        }
        for group in grouping.free
    ]
    locked = [{"name": group.name, "channels": group.channels, "reason": group.reason} for group in grouping.locked]
    return {"free": free, "locked": locked, "unknown": sorted(set(grouping.coupling.unknown.values()))}


def facts_of(before: Cost, program: Program, options: PruneOptions, steps: Steps) -> dict[str, Any]:
    """All facts about a finished pruning; ``before`` is the cost of the original program."""
    after, measure = cost(program), measure_of(options)
    groups = [
        {
            "name": group["name"],
            "layers": group["layers"],
            "channels_before": group["channels_before"],
            "channels_after": fetch(program.module, group["parameter"]).shape[group["dim"]],
        }
        for group in steps.groups["free"]
    ]
    spent = [done.pop("cpu_seconds", {}) for done in steps.done]
    timing = [done["recovery"].pop("timing", {}) if done["recovery"] else {} for done in steps.done]
    return {
        "budget": next(iter(options.budgets), "layers"),
        "asked": share_of(options, before),
        "got": counted(after, measure) / max(counted(before, measure), 1),
        "parameters_before": before.parameters,
        "parameters_after": after.parameters,
        "macs_before": before.macs,
        "macs_after": after.macs,
        "groups": groups,
        "locked": steps.groups["locked"],
        "unknown_operators": steps.groups["unknown"],
        "steps": steps.done,
        "proof_relative_error": max((done["proof"]["relative_error"] for done in steps.done), default=0.0),
        "timing": {
            "recover_seconds": sum(item.get("train_seconds", 0.0) for item in timing),
            "cpu_seconds": {phase: sum(item.get(phase, 0.0) for item in spent) for phase in spent[0]} if spent else {},
        },
    }


def warn(console: Console, facts: dict[str, Any], options: PruneOptions) -> None:
    """Warn of a missed budget, locked channels, and rankings or proofs that were not possible as usual."""
    asked, got = facts["asked"], facts["got"]
    counting = bool(options.budgets) and not options.timed
    if counting and (got > asked or got < asked - _COARSE):
        console.warn(f"{got:.1%} of the {NAMES[measure_of(options)]} are left, but the budget is {asked:.1%}")
    if "latency" in facts:
        _report_latency(console, facts["latency"])
    for reason in facts["unknown_operators"]:
        console.warn(f"channels are locked, {reason}")
    rankings = {(done["importance"], done.get("importance_unmeasured", "")) for done in facts["steps"]}
    for used, reason in sorted(pair for pair in rankings if pair[1]):
        console.warn(f"channels are ranked by {used} instead of gradients: {reason}")
    for reason in sorted({done["proof"].get("reason", "") for done in facts["steps"]} - {""}):
        console.warn(
            f"the cut was proven in the program's own precision, because it does not run in double precision: {reason}"
        )
    for error, reason in sorted({(str(done["file"]["error"]), done["file"]["reason"]) for done in facts["steps"]}):
        if reason not in ("", NOT_ASKED.reason):
            console.warn(
                f"the cut was proven in PyTorch {'only, not in' if error == 'None' else 'and in'} an ONNX file: "
                f"{reason}"
            )


def _report_latency(console: Console, found: dict[str, Any]) -> None:
    low, high, speed = found["got_low_ms"], found["got_high_ms"], found["speedup"]["value"]
    ends = "(not bounded: too few rounds)" if None in (low, high) else f"[{low:.4g}, {high:.4g}]"
    text = f"{found['got_ms']:.4g} ms {ends}, budget {found['asked_ms']:.4g} ms, speedup {speed:.2f}x"
    if found["verdict"] == "missed":
        console.warn(f"{text}: not within 5%")
    else:
        console.stage("prune", text + (": whether within 5% cannot be told" if found["verdict"] != "landed" else ""))
