"""The goal of a pruning: a counted budget or a latency, and the share to keep after every step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ...core.artifact import stable_hash
from ...core.console import Console
from ...core.errors import UserError
from ...core.facts.prune_facts import PruneLatency
from ...core.options.stage_options import PruneOptions
from ..program import Program, cost
from .coupling.groups import Grouping
from .coupling.labels import Mask
from .latency.latency_budget import LatencyBudget, Measured
from .latency.latency_table import Timer
from .resume import Steps, ramp
from .selection.cost_model import NAMES, counted
from .step import Ranked, decide, groups_of, measure_of, plan, share_of


@dataclass(frozen=True)
class Goal:
    """The share to keep after every step.

    Attributes:
        shares: shares of the whole; the last one is the budget.
        whole: cost of the original program, in the unit of the budget.
        name: name of that unit, for messages.
        latency: the latency budget, if the budget is a latency.
    """

    shares: list[float]
    whole: int
    name: str
    latency: LatencyBudget | None

    @staticmethod
    def of(original: Program, options: PruneOptions, latency: LatencyBudget | None) -> Goal:
        """The goal of a pruning that starts with this program."""
        spent, measure = cost(original), measure_of(options)
        share = share_of(options, spent) if latency is None else latency.requested()[0]
        name = NAMES[measure] if latency is None else "time"
        return Goal(ramp(options, share), counted(spent, measure), name, latency)

    def check(self, original: Program, options: PruneOptions) -> Grouping:
        """The groups, after a check that the patterns match and the last budget can be reached."""
        if self.latency is not None:
            return groups_of(original, options)
        return plan(original, options, self.shares[-1] * self.whole)[1]

    def reached(self, program: Program) -> PruneLatency | None:
        """The requested and the measured latency of the finished program, if the budget is a latency."""
        return self.latency.facts(program) if self.latency is not None else None

    def clear(self) -> None:
        """Remove the measurements that were stored for an interrupted run."""
        if self.latency is not None:
            self.latency.measured.clear()

    def share_after(self, step: int, console: Console) -> float:
        """The share to keep after a step, which is also printed."""
        share = self.shares[step]
        console.stage("prune", f"cut {step + 1} of {len(self.shares)}: keep {share:.1%} of the {self.name}")
        return share

    def choose(self, step: int, options: PruneOptions) -> Callable[[Program, Ranked], Mask]:
        """The function that chooses the cut of a step."""
        if self.latency is not None:
            return self.latency.decide(step, self.shares[step], exact=step == options.cuts - 1)
        return self.counted(step, options)

    def counted(self, step: int, options: PruneOptions) -> Callable[[Program, Ranked], Mask]:
        """The function that chooses the cut of a step by cost; a share of time is taken as a share of the MACs."""
        target = self.shares[step] * self.whole
        macs = {"macs": self.shares[step], "latency": None, "latency_ms": None, "timer": None}
        asked = options if self.latency is None else options.model_copy(update=macs)
        return lambda program, ranked: decide(program, ranked, asked, target)


def latency_budget_of(
    original: Program, options: PruneOptions, timer: Timer | None, steps: Steps, tables: Path | None, console: Console
) -> LatencyBudget | None:
    """The latency budget, if there is one.

    Raises:
        UserError: there is no timer.
    """
    if not options.timed:
        return None
    if timer is None:
        raise UserError("prune: the budget is a latency, but there is no timer to measure it", "give a timer")
    measured = Measured(steps.scratch, stable_hash([steps.identity, timer.identity]))
    measured.load()
    return LatencyBudget(original, options, timer, measured, tables, console)
