"""One proven cut: couple, rank, choose, cut, prove."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
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
        program: in evaluation form.
        grouping: the groups of the program before the cut.
        proof: how well they agree.
        cost: of the pruned program.
        criterion: what its channels were ranked by.
        normalize: how their scores were made comparable.
        unmeasured: why channels could not be ranked by gradients where ``auto`` would have; empty when they could.
        cpu_seconds: what each phase took.
    """

    program: Program
    grouping: Grouping
    proof: Proof
    cost: Cost
    criterion: Importance = "auto"
    normalize: Normalization = "auto"
    unmeasured: str = ""
    cpu_seconds: dict[str, float] = field(default_factory=dict, compare=False)


@dataclass(frozen=True)
class Ranked:
    """A program's groups and how important their units are.

    Attributes:
        fixed: share of channels to keep that the user fixed, by place of the group.
        criterion: what gave the scores.
        normalize: how they were made comparable.
        unmeasured: why there is no ranking by gradients where ``auto`` would have one.
    """

    grouping: Grouping
    scores: Scores
    fixed: dict[int, float]
    criterion: Importance = "auto"
    normalize: Normalization = "auto"
    unmeasured: str = ""


Judge = Callable[[Program, Sequence[Ranked]], Ranked]
"""Takes one of several rankings of a program."""


def measure_of(options: PruneOptions) -> Measure:
    """What the budget of the options counts; multiply-accumulates where it counts nothing."""
    if options.size is not None or options.size_bytes is not None:
        return "bytes"
    return "parameters" if options.parameters is not None else "macs"


def share_of(options: PruneOptions, spent: Cost) -> float:
    """The share of a program's cost that the options ask to keep; 1 where they name no budget that is counted."""
    if options.size_bytes is not None:
        return min(1.0, options.size_bytes / max(spent.parameter_bytes, 1))
    given = [item for item in (options.macs, options.parameters, options.size) if item is not None]
    return given[0] if given else 1.0


def prune_program(
    program: Program, options: PruneOptions, target: float | None = None, evidence: Evidence | None = None
) -> Pruned:
    """Cut a program once and prove it; the program given stays as it is.

    Args:
        options: budget, importance, scope and limits; the schedule and ``recover`` are not looked at.
        target: cost to keep, in the unit of the budget; the options' share of the program's own when None.
        evidence: what data-driven importance looks at.

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
    """Cut what ``decide`` chooses from a program's ranked groups, and prove it.

    Args:
        judge: takes one of the rankings that the options leave open; the first when None.
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
    return Pruned(
        result, ranked.grouping, proof, cost(result), ranked.criterion, ranked.normalize, ranked.unmeasured, spent
    )


def rank(program: Program, options: PruneOptions, evidence: Evidence | None = None) -> Ranked:
    """Couple a program and score its channels: the first of :func:`rankings`."""
    return rankings(program, options, evidence)[0]


def rankings(program: Program, options: PruneOptions, evidence: Evidence | None = None) -> list[Ranked]:
    """A program's groups, ranked in every way that the options leave open, the most promising first.

    Raises:
        UserError: a pattern matches nothing, or the importance needs what is not there.
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
    """What gives scores, and the scores as they come; for ``auto`` gradients where samples and graph have them.

    Returns:
        The scores by what gives them, and why ``auto`` has none from gradients; empty when it has, or none are asked.
    """

    def _by(criterion: Importance) -> tuple[Importance, Scores]:
        return criterion, score(program, grouping, criterion, options.seed, normalize="none", evidence=evidence)

    if options.importance != "auto":
        return [_by(options.importance)], ""
    if evidence is None:
        return [_by("group_norm")], ""
    try:
        return [_by("taylor"), _by("group_norm")], ""
    except UserError as error:  # no samples, no loss that fits the outputs, or an operator without a gradient
        return [_by("group_norm")], error.message


def _ways(criterion: Importance, options: PruneOptions) -> tuple[Normalization, ...]:
    """How scores may be made comparable; the times weighs costs itself."""
    if options.normalize != "auto":
        return (options.normalize,)
    if criterion == "random":
        return ("none",)
    plain: tuple[Normalization, ...] = ("none", "mean") if criterion in DATA_DRIVEN else ("mean", "none")
    if options.timed:
        return plain
    return ("root_cost", *plain, "cost") if criterion in DATA_DRIVEN else (*plain, "root_cost", "cost")


def groups_of(program: Program, options: PruneOptions) -> Grouping:
    """The groups of a program, without those that the options leave out.

    Raises:
        UserError: a pattern matches nothing.
    """
    coupling = couple(program)
    exclude(program, coupling, options.exclude)
    grouping = find_groups(coupling)
    restrict(program, grouping, options.only)
    return grouping


def decide(program: Program, ranked: Ranked, options: PruneOptions, target: float) -> Mask:
    """What to remove so that a counted budget is met; with ``layers`` alone, what they fix.

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
    """What to remove, without removing it; units are taken as equally important.

    Raises:
        UserError: a pattern matches nothing, or the budget cannot be reached.
    """
    grouping = groups_of(program, options)
    equal = Ranked(grouping, np.ones(len(grouping.coupling.unions)), fixed_widths(program, grouping, options.layers))
    return grouping.coupling, grouping, decide(program, equal, options, target)
