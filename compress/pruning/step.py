"""One proven cut: coupling, ranking, choice, cut and proof."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np

from ...core.errors import UserError
from ...core.options.option_types import Importance, Normalization
from ...core.options.stage_options import PruneOptions
from ...core.system.memory import give_back
from ..program import Cost, Program, cost, set_training, shared
from .coupling.groups import Grouping, exclude, find_groups
from .coupling.labels import Mask
from .coupling.propagate import Coupling, couple
from .proof.prove import Proof, prove
from .selection.cost_budget import choose
from .selection.cost_model import Measure, counted, unit_costs
from .selection.cut_options import build_group_cuts, fixed_widths, least_cut, remove, restrict
from .selection.importance import DATA_DRIVEN, Evidence, Scores, normalized, score
from .surgery.slice_parameters import cut

_PHASES = ("couple", "choose", "cut", "prove")


@dataclass(frozen=True)
class Pruned:
    """A program after a proven cut.

    Attributes:
        program: the pruned program, in evaluation mode.
        grouping: the groups of the program before the cut.
        removed: the removed classes, as a mask over labels.
        proof: the proof of the cut.
        cost: cost of the pruned program.
        criterion: the importance by which channels were ranked.
        normalize: how their scores were made comparable.
        unmeasured: why ``auto`` could not rank channels by gradients; empty if it could.
        cpu_seconds: CPU time of each phase, in seconds.
    """

    program: Program
    grouping: Grouping
    removed: Mask
    proof: Proof
    cost: Cost
    criterion: Importance = "auto"
    normalize: Normalization = "auto"
    unmeasured: str = ""
    cpu_seconds: dict[str, float] = field(default_factory=dict, compare=False)


@dataclass(frozen=True)
class Ranked:
    """A program's groups and the importance of their units.

    Attributes:
        scores: score of every unit, as an array over labels.
        fixed: share of channels to keep that the user fixed, by place of the group.
        criterion: the importance that the scores measure.
        normalize: how they were made comparable.
        unmeasured: why ``auto`` could not rank channels by gradients; empty if it could.
    """

    grouping: Grouping
    scores: Scores
    fixed: dict[int, float]
    criterion: Importance = "auto"
    normalize: Normalization = "auto"
    unmeasured: str = ""


Judge = Callable[[Program, Sequence[Ranked]], Ranked]
"""Chooses one of several rankings of a program."""


def measure_of(options: PruneOptions) -> Measure:
    """The measure of the options' budget; multiply-accumulates if the budget is not a cost."""
    if options.size is not None or options.size_bytes is not None:
        return "bytes"
    return "parameters" if options.parameters is not None else "macs"


def share_of(options: PruneOptions, spent: Cost) -> float:
    """The share of a program's cost that the options keep; 1 if the budget is not a cost."""
    if options.size_bytes is not None:
        return min(1.0, options.size_bytes / max(spent.parameter_bytes, 1))
    given = [item for item in (options.macs, options.parameters, options.size) if item is not None]
    return given[0] if given else 1.0


def prune_program(
    program: Program, options: PruneOptions, target: float | None = None, evidence: Evidence | None = None
) -> Pruned:
    """Cut a program once and prove the cut; the given program is not changed.

    Args:
        options: budget, importance, scope and limits; the schedule and ``recover`` are not used.
        target: cost to keep, in the unit of the budget; if None, the options' share of the program's cost.
        evidence: computes data-driven importance.

    Raises:
        UserError: a pattern matches nothing, or the budget cannot be reached.
        VerificationError: the proof failed.
    """

    def _decide(program: Program, ranked: Ranked) -> Mask:
        spent = cost(program)
        wanted = share_of(options, spent) * counted(spent, measure_of(options)) if target is None else target
        return decide(program, ranked, options, wanted)

    return cut_and_prove(program, options, _decide, evidence)


def cut_and_prove(
    program: Program,
    options: PruneOptions,
    decide: Callable[[Program, Ranked], Mask],
    evidence: Evidence | None = None,
    judge: Judge | None = None,
) -> Pruned:
    """Cut what ``decide`` chooses from a program's ranked groups, and prove the cut.

    Args:
        judge: chooses one of the rankings that the options allow; the first is used if None.
    """
    program = shared(program)
    set_training(program, False)
    times = [time.process_time()]
    candidates = rankings(program, options, evidence)
    times.append(time.process_time())
    ranked = candidates[0] if judge is None else judge(program, candidates)
    removed = decide(program, ranked)
    give_back()
    times.append(time.process_time())
    coupling = ranked.grouping.coupling
    result = cut(program, coupling, removed)
    times.append(time.process_time())
    proof = prove(program, result, coupling, removed, options.tolerance)
    times.append(time.process_time())
    spent = {name: end - start for name, start, end in zip(_PHASES, times, times[1:])}
    kind = ranked.criterion, ranked.normalize, ranked.unmeasured
    return Pruned(result, ranked.grouping, removed, proof, cost(result), *kind, spent)


def rank(program: Program, options: PruneOptions, evidence: Evidence | None = None) -> Ranked:
    """Couple a program and score its channels: the first of :func:`rankings`."""
    return rankings(program, options, evidence)[0]


def rankings(program: Program, options: PruneOptions, evidence: Evidence | None = None) -> list[Ranked]:
    """A program's groups, ranked in every way that the options allow, the most promising first.

    Raises:
        UserError: a pattern matches nothing, or the importance needs data or layers that do not exist.
    """
    grouping = groups_of(program, options)
    fixed = fixed_widths(program, grouping, options.layers)
    costs = unit_costs(program, grouping, measure_of(options))
    scored, unmeasured = _scores(program, grouping, options, evidence)
    return [
        Ranked(grouping, normalized(scores, grouping, how, costs), fixed, criterion, how, unmeasured)
        for criterion, scores in scored
        for how in _ways(criterion, options)
    ]


def _scores(
    program: Program, grouping: Grouping, options: PruneOptions, evidence: Evidence | None
) -> tuple[list[tuple[Importance, Scores]], str]:
    """Scores without normalisation; ``auto`` uses gradients if the samples and the graph allow it.

    Where no training follows the cut, but reconstruction does, it also uses what reconstruction cannot repair.

    Returns:
        Pairs of importance and scores, and why ``auto`` could not use gradients; empty if it could, or was not chosen.
    """

    def _by(criterion: Importance) -> tuple[Importance, Scores]:
        return criterion, score(program, grouping, criterion, options.seed, normalize="none", evidence=evidence)

    if options.importance != "auto":
        return [_by(options.importance)], ""
    if evidence is None:
        return [_by("group_norm")], ""
    rebuilt: list[tuple[Importance, Scores]] = []
    if options.reconstruct == "on" or (options.reconstruct == "auto" and options.recover is None):
        with suppress(UserError):  # no samples that fit; the other criteria say why
            rebuilt = [_by("reconstruction")]
    try:
        return [_by("taylor"), *rebuilt, _by("group_norm")], ""
    except UserError as error:  # no samples, no loss that fits the outputs, or an operator without a gradient
        return [*rebuilt, _by("group_norm")], error.message


def _ways(criterion: Importance, options: PruneOptions) -> tuple[Normalization, ...]:
    """The normalisations that the options allow; with a latency budget, costs are measured and not used here."""
    if options.normalize != "auto":
        return (options.normalize,)
    if criterion == "random":
        return ("none",)
    if criterion == "reconstruction" and options.importance == "auto" and not options.timed:
        return ("root_cost", "none")
    plain: tuple[Normalization, ...] = ("none", "mean") if criterion in DATA_DRIVEN else ("mean", "none")
    if options.timed:
        return plain
    return ("root_cost", *plain, "cost") if criterion in DATA_DRIVEN else (*plain, "root_cost", "cost")


def groups_of(program: Program, options: PruneOptions) -> Grouping:
    """The groups of a program, in which those that the options exclude are locked.

    Raises:
        UserError: a pattern matches nothing.
    """
    coupling = couple(program)
    exclude(program, coupling, options.exclude)
    grouping = find_groups(coupling)
    restrict(program, grouping, options.only)
    return grouping


def decide(program: Program, ranked: Ranked, options: PruneOptions, target: float) -> Mask:
    """The classes to remove so that a budget of cost is met; with ``layers`` alone, those that they fix.

    Raises:
        UserError: the budget cannot be reached.
    """
    grouping = ranked.grouping
    if not options.budgets:
        group_cuts = build_group_cuts(grouping, ranked.scores, options.min_channels, 1, ranked.fixed)
        return remove(len(grouping.coupling.unions), group_cuts, least_cut(group_cuts))
    return choose(
        program,
        grouping,
        ranked.scores,
        measure=measure_of(options),
        target=target,
        scope=options.scope,
        min_channels=options.min_channels,
        align=options.align,
        fixed=ranked.fixed,
    )


def plan(program: Program, options: PruneOptions, target: float) -> tuple[Coupling, Grouping, Mask]:
    """The classes that would be removed if all units were equally important.

    Raises:
        UserError: a pattern matches nothing, or the budget cannot be reached.
    """
    grouping = groups_of(program, options)
    equal = Ranked(grouping, np.ones(len(grouping.coupling.unions)), fixed_widths(program, grouping, options.layers))
    return grouping.coupling, grouping, decide(program, equal, options, target)
