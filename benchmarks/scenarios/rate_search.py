"""The highest rate of a server whose 99th percentile stays below a bound, by bisection with whole trials.

A trial is judged by the upper bound of its percentile with 99 % confidence, which is LoadGen's early stopping
(benchmarks.md 2.2); a query that failed is later than any bound.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from ...core.console import SILENT, Console
from ..timing.statistics import percentile_bound, samples_needed
from .query_loops import Served

PERCENTILE = 99.0
CLOSE = 1.03
"""How far apart a kept and a missed rate are when the search ends."""
TRIALS, BEYOND, LOWEST = 20, 1.2, 1 / 64
"""Most trials; where the search begins above, and ends below, as multiples of the capacity."""

Trial = Callable[[float, float, int], Served]
"""Asks at a rate for so many seconds with a seed."""


@dataclass(frozen=True)
class Tried:
    """One trial.

    Attributes:
        bound_ms: upper bound of the 99th percentile; None if queries failed so often, or were so few, that none exists.
    """

    rate: float
    bound_ms: float | None
    kept: bool
    queries: int
    failed: int


@dataclass
class RateSearch:
    """The search for one candidate.

    Args:
        capacity: queries per second when the next is sent as soon as the last is answered.
        p99_ms: the bound.
    """

    capacity: float
    p99_ms: float
    tried: list[Tried] = field(default_factory=list)

    @property
    def missed(self) -> float:
        """The lowest rate that missed the bound."""
        return min((one.rate for one in self.tried if not one.kept), default=BEYOND * self.capacity)

    @property
    def kept(self) -> float | None:
        """The highest rate below it that kept the bound; None if there is none."""
        return max((one.rate for one in self.tried if one.kept and one.rate < self.missed), default=None)

    @property
    def over(self) -> bool:
        """Whether the highest rate is known and was kept twice, or no rate can be found."""
        kept = self.kept
        if kept is None:
            return len(self.tried) >= TRIALS or self.missed < LOWEST * self.capacity
        return len(self.tried) >= TRIALS or (self._close(kept) and self._confirmed(kept))

    def next_rate(self) -> float:
        """The rate of the next trial; the highest one is tried again, because a single trial may be lucky."""
        kept = self.kept
        if kept is None:
            return self.missed / 2
        return kept if self._close(kept) else math.sqrt(kept * self.missed)

    def _close(self, kept: float) -> bool:
        return self.missed <= CLOSE * kept

    def _confirmed(self, kept: float) -> bool:
        return sum(one.rate == kept for one in self.tried) > 1

    def note(self, rate: float, served: Served) -> Tried:
        """Judge a trial."""
        latencies = np.concatenate([served.latencies_ns / 1e6, np.full(served.failed, np.inf)])
        bound = percentile_bound(latencies, PERCENTILE)
        finite = None if bound is None or not math.isfinite(bound) else bound
        made = Tried(rate, finite, finite is not None and finite <= self.p99_ms, served.queries, served.failed)
        self.tried.append(made)
        return made


def trial_s(rate: float, least_s: float) -> float:
    """The length of a trial: enough queries for the percentile."""
    return max(least_s, 1.15 * samples_needed(PERCENTILE) / rate)


def highest_rates(
    trials: Mapping[str, Trial],
    capacities: Mapping[str, float],
    p99_ms: float,
    least_s: float,
    seed: int = 0,
    console: Console = SILENT,
) -> dict[str, RateSearch]:
    """Search for all candidates in turn, each round in another order.

    Args:
        capacities: see :class:`RateSearch`, by candidate.
        least_s: shortest trial.
    """
    found = {name: RateSearch(capacities[name], p99_ms) for name in trials}
    order = random.Random(seed)
    with console.progress("rates", TRIALS) as bar:
        while left := [name for name, search in found.items() if not search.over]:
            order.shuffle(left)
            for name in left:
                rate = found[name].next_rate()
                made = found[name].note(rate, trials[name](rate, trial_s(rate, least_s), order.getrandbits(32)))
                told = "no bound" if made.bound_ms is None else f"p99 ≤ {made.bound_ms:.3g} ms"
                console.say(f"            {name} at {rate:.4g}/s: {told}, {'kept' if made.kept else 'missed'}")
            bar.advance()
    return found
