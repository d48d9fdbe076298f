"""Rounds of blocks that were timed, here or on a device: the times of each candidate, ratios, and the verdict."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import replace
from typing import Any

import numpy as np

from ...core.metrics.intervals import Floats, Interval
from ...core.metrics.ratio import ClockName, Ratio
from ...core.options.stage_options import BenchOptions
from ..edge.runner.slots import Plan
from .blocks import Block
from .drift_and_spikes import drift_per_minute
from .machine_noise import Noise, Seen, judge
from .statistics import Percentile, low, percentile_interval, ratio_interval

MOVED = 0.05
"""Smallest gap between the intervals of a ratio's first and last part that is a change of the ratio."""


class Timed(ABC):
    """Timed rounds of blocks of all candidates: of this machine, or of a device whose results were read.

    Attributes:
        reference: the reference of the ratios.
        rounds: in order, the block of each candidate.
        spoiled: rounds that do not count, because a candidate lost the CPU in every slot of them.
        turns: the round at which each turn begins.
        opened_again: whether a turn begins with new sessions.
        stopped: ``precise`` if all intervals were narrow enough, ``budget`` if the time was used up.
        noise: the verdict on the measurement.
    """

    options: BenchOptions
    reference: str
    clock: ClockName
    plans: dict[str, Plan]
    warmup_ns: dict[str, list[float]]
    rounds: list[dict[str, Block]]
    spoiled: list[dict[str, Block]]
    turns: list[int]
    opened_again: bool = True
    stopped: str
    noise: Noise
    resolution_ns: int

    @abstractmethod
    def elapsed_s(self) -> float:
        """Seconds of the measurement, including calibration and warm-up."""

    def times_ns(self, name: str) -> list[float]:
        """Times per call by the deciding clock, one per round."""
        return [blocks[name].value for blocks in self.rounds]

    def wall_ns(self, name: str) -> list[float]:
        """Wall-clock times per call, one per round."""
        return [blocks[name].wall for blocks in self.rounds]

    def calls_ns(self, name: str) -> Floats:
        """Wall-clock time of each call, including the calls of spoiled rounds."""
        return np.concatenate([block.calls for block in self.blocks(name)])

    def blocks(self, name: str) -> list[Block]:
        """The blocks of a candidate in all rounds, those of spoiled rounds last."""
        return [blocks[name] for blocks in (*self.rounds, *self.spoiled)]

    def percentile(self, name: str, percentile: float) -> Percentile:
        """A percentile of the wall-clock time of a call in milliseconds."""
        return percentile_interval(self.calls_ns(name) / 1e6, percentile)

    def ratio(self, name: str, rounds: slice = slice(None)) -> Ratio:
        """The speedup over the reference, from the rounds so far."""
        options, reference = self.options, self.reference
        times = (self.times_ns(reference)[rounds], self.times_ns(name)[rounds])
        names: dict[str, Any] = {"candidate": name, "reference": reference, "clock": self.clock}
        found = ratio_interval(*times, options.confidence, options.seed, self.openings(rounds), **names)
        if self.clock != "thread":
            return found
        return replace(found, wall=low(self.wall_ns(reference)[rounds]) / low(self.wall_ns(name)[rounds]))

    def openings(self, rounds: slice = slice(None)) -> int:
        """How often sessions were opened for these rounds."""
        if not self.opened_again:
            return 1
        kept = range(len(self.rounds))[rounds]
        return max(1, sum(turn in kept for turn in self.turns))

    def drift(self, name: str) -> Interval | None:
        """Change of the times of a candidate in percent per minute; None if it is not known when they were measured."""
        moments = np.array([blocks[name].begun_s for blocks in self.rounds])
        if not np.isfinite(moments).all():
            return None
        return drift_per_minute(moments, np.array(self.times_ns(name)), self.options.confidence)

    def judged(self, pressure: float | None, steal: float | None, least: int, attempts: int = 1) -> Noise:
        """The verdict on the rounds so far; spoiled rounds are used if there are too few others.

        Args:
            pressure: share of the time in which some process waited for a CPU, in percent.
            steal: share of the CPU time that the hypervisor took, in percent.
            least: number of rounds that an interval needs.
        """
        spoiled = 0
        if len(self.rounds) < least and self.spoiled:
            spoiled = len(self.spoiled)
            self.rounds, self.spoiled = [*self.rounds, *self.spoiled], []
        blocks = [block for item in (*self.rounds, *self.spoiled) for block in item.values()]
        lost = float(np.mean(np.concatenate([block.interrupted for block in blocks])))
        seen = Seen(
            pressure, steal, 100 * lost, self.clock,
            len(self.rounds), least, self.elapsed_s(), tuple(self._moved(least)), spoiled,
        )  # fmt: skip
        return judge({name: np.array(self.times_ns(name)) for name in self.plans}, seen, attempts)

    def _moved(self, least: int) -> list[str]:
        """Ratios whose intervals in the first and last third (or half, of few rounds) exclude each other."""
        count, found = len(self.rounds), []
        part = max(count // 3, least)
        if count < 2 * part:
            return []
        for name in self.plans:
            if name == self.reference:
                continue
            one, two = self.ratio(name, slice(part)), self.ratio(name, slice(count - part, None))
            if _apart(one, two):
                found.append(f"the ratio of '{name}' changed from {one.text} to {two.text} during the measurement")
        return found


def _apart(one: Ratio, two: Ratio) -> bool:
    """Whether two intervals are disjoint, with a gap larger than the effect of load on a valid ratio."""
    first, second = one.interval, two.interval
    gap = max(first.low / second.high, second.low / first.high)
    return math.isfinite(gap) and gap > 1 + MOVED
