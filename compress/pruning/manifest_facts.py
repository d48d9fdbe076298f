"""The facts that the pruning stage writes into its manifest, and its warnings."""

from __future__ import annotations

from collections.abc import Sequence

from ...core.console import Console
from ...core.facts.prune_facts import (
    CutProof,
    LockedGroup,
    PrunedGroup,
    PruneFacts,
    PruneLatency,
    PruneStep,
    PruneTiming,
)
from ...core.facts.quantize_facts import Fidelity
from ...core.options.stage_options import PruneOptions
from ..graph.cost import Cost
from ..graph.module_edit import fetch
from ..program import Program, cost
from .coupling.groups import Grouping
from .output_change import is_ruined, remedy, ruined_words
from .proof.onnx_check import NOT_ASKED
from .proof.prove import Proof
from .resume import FreeGroup, Groups, Steps
from .selection.cost_model import NAMES, counted
from .step import measure_of, share_of

_COARSE = 0.02


def proof_facts(proof: Proof) -> CutProof:
    """The facts of a proof."""
    return CutProof(
        relative_error=proof.error,
        output_relative_error=proof.outputs,
        dtype=proof.dtype,
        reason=proof.reason,
        batches=proof.batches,
    )


def describe(grouping: Grouping) -> Groups:
    """The groups before the first cut."""
    free = [
        FreeGroup(
            name=group.name,
            layers=tuple(group.layers),
            parameter=group.producers[0].parameter,
            dim=group.producers[0].dim,
            channels_before=group.channels,
        )
        for group in grouping.free
    ]
    locked = [LockedGroup(name=group.name, channels=group.channels, reason=group.reason) for group in grouping.locked]
    unknown = sorted(set(grouping.coupling.unknown.values()))
    return Groups(free=tuple(free), locked=tuple(locked), unknown=tuple(unknown))


def facts_of(
    before: Cost,
    program: Program,
    options: PruneOptions,
    steps: Steps,
    latency: PruneLatency | None,
    change: Fidelity | None,
) -> PruneFacts:
    """All facts about a finished pruning.

    Args:
        before: the cost of the original program.
        latency: the measured latency, if it is the budget.
        change: the outputs compared with those of the original program, if there are samples.
    """
    after, measure = cost(program), measure_of(options)
    groups = [
        PrunedGroup(
            name=group.name,
            layers=group.layers,
            channels_before=group.channels_before,
            channels_after=fetch(program.module, group.parameter).shape[group.dim],
        )
        for group in steps.groups.free
    ]
    return PruneFacts(
        budget=next(iter(options.budgets), "layers"),
        asked=share_of(options, before),
        got=counted(after, measure) / max(counted(before, measure), 1),
        parameters_before=before.parameters,
        parameters_after=after.parameters,
        macs_before=before.macs,
        macs_after=after.macs,
        groups=tuple(groups),
        locked=steps.groups.locked,
        unknown_operators=steps.groups.unknown,
        steps=tuple(map(_untimed, steps.done)),
        proof_relative_error=max((done.proof.relative_error for done in steps.done), default=0.0),
        timing=_timing(steps.done),
        latency=latency,
        fidelity=change,
        ruined=is_ruined(change),
    )


def _untimed(step: PruneStep) -> PruneStep:
    """A step without its durations, which differ from run to run."""
    recovery = step.recovery and step.recovery.model_copy(update={"timing": None})
    return step.model_copy(update={"recovery": recovery, "cpu_seconds": None})


def _timing(steps: Sequence[PruneStep]) -> PruneTiming:
    trained = [step.recovery.timing.train_seconds for step in steps if step.recovery and step.recovery.timing]
    spent = [step.cpu_seconds or {} for step in steps]
    phases = spent[0] if spent else {}
    return PruneTiming(
        recover_seconds=sum(trained),
        cpu_seconds={phase: sum(item.get(phase, 0.0) for item in spent) for phase in phases},
    )


def warn(console: Console, facts: PruneFacts, options: PruneOptions) -> None:
    """Warn of a missed budget, locked channels, and rankings or proofs that were not possible as usual."""
    asked, got = facts.asked, facts.got
    counting = bool(options.budgets) and not options.timed
    if counting and (got > asked or got < asked - _COARSE):
        console.warn(f"{got:.1%} of the {NAMES[measure_of(options)]} are left, but the budget is {asked:.1%}")
    if facts.latency is not None:
        _report_latency(console, facts.latency)
    if facts.fidelity is not None and facts.ruined:
        console.warn(f"the outputs are ruined: {ruined_words(facts.fidelity)}; {remedy(options)}")
    for reason in sorted({done.reconstruction.reason for done in facts.steps if done.reconstruction} - {""}):
        console.warn(f"the weights were not reconstructed: {reason}")
    for reason in facts.unknown_operators:
        console.warn(f"channels are locked, {reason}")
    rankings = {(done.importance, done.importance_unmeasured) for done in facts.steps}
    for used, reason in sorted(pair for pair in rankings if pair[1]):
        console.warn(f"channels are ranked by {used} instead of gradients: {reason}")
    for reason in sorted({done.proof.reason for done in facts.steps} - {""}):
        console.warn(
            f"the cut was proven in the program's own precision, because it does not run in double precision: {reason}"
        )
    for error, reason in sorted({(str(done.file.error), done.file.reason) for done in facts.steps}):
        if reason not in ("", NOT_ASKED.reason):
            console.warn(
                f"the cut was proven in PyTorch {'only, not in' if error == 'None' else 'and in'} an ONNX file: "
                f"{reason}"
            )


def _report_latency(console: Console, found: PruneLatency) -> None:
    low, high, speed = found.got_low_ms, found.got_high_ms, found.speedup.value
    ends = "(not bounded: too few rounds)" if low is None or high is None else f"[{low:.4g}, {high:.4g}]"
    text = f"{found.got_ms:.4g} ms {ends}, budget {found.asked_ms:.4g} ms, speedup {speed:.2f}×"
    if found.verdict == "missed":
        console.warn(f"{text}: not within 5%")
    else:
        console.stage("prune", text + (": whether it is within 5% is unknown" if found.verdict != "landed" else ""))
