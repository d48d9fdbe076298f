"""One proven cut: couple, rank, choose, cut, prove."""

from __future__ import annotations

from dataclasses import dataclass

from ...core.options import PruneOptions
from ..program import Cost, Program, clone, cost, set_training
from .budget import Measure, choose
from .coupling import Coupling, couple
from .groups import Grouping, exclude, find_groups
from .importance import score
from .labels import Mask
from .proof import Proof, prove
from .surgery import cut


@dataclass(frozen=True)
class Pruned:
    """A program after a proven cut.

    Attributes:
        program: in evaluation form.
        grouping: the groups of the program before the cut.
        proof: how well they agree.
        cost: of the pruned program.
    """

    program: Program
    grouping: Grouping
    proof: Proof
    cost: Cost


def measure_of(options: PruneOptions) -> Measure:
    """What the budget of the options counts."""
    return "macs" if options.macs is not None else "parameters"


def share_of(options: PruneOptions) -> float:
    """The share that the options ask to keep."""
    share = options.macs if options.macs is not None else options.parameters
    assert share is not None  # the options take exactly one budget
    return share


def counted(spent: Cost, measure: Measure) -> int:
    """The number that a budget of this measure counts."""
    return spent.macs if measure == "macs" else spent.parameters


def prune_program(program: Program, options: PruneOptions, target: float | None = None) -> Pruned:
    """Cut a program once and prove it; the program given stays as it is.

    Args:
        options: budget, importance, scope and limits; ``steps`` and ``recover`` are not looked at.
        target: multiply-accumulates or parameters to keep; the options' share of the program's own when None.

    Raises:
        UserError: a pattern matches nothing, or the budget cannot be reached.
        VerificationError: the proof failed.
    """
    program = clone(program)
    set_training(program, False)
    if target is None:
        target = share_of(options) * counted(cost(program), measure_of(options))
    coupling, grouping, removed = plan(program, options, target)
    result = cut(program, coupling, removed)
    proof = prove(program, result, coupling, removed, options.tolerance)
    return Pruned(result, grouping, proof, cost(result))


def plan(program: Program, options: PruneOptions, target: float) -> tuple[Coupling, Grouping, Mask]:
    """What to remove, without removing it.

    Raises:
        UserError: a pattern matches nothing, or the budget cannot be reached.
    """
    coupling = couple(program)
    exclude(program, coupling, options.exclude)
    grouping = find_groups(coupling)
    removed = choose(
        program,
        grouping,
        score(program, grouping, options.importance, options.seed),
        measure=measure_of(options),
        target=target,
        scope=options.scope,
        min_channels=options.min_channels,
        align=options.align,
    )
    return coupling, grouping, removed
