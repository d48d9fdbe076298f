"""The rounds of a timing as a result holds them, from which the statistics are computed again."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ...core.metrics.intervals import Floats
from ...core.options.stage_options import BenchOptions
from ..edge.runner.slots import Plan
from ..raw_times import RawTimes
from ..result import LatencyEntry, LatencyRun
from ..timing.blocks import Block
from ..timing.machine_noise import Noise
from ..timing.statistics import Percentile, percentile_interval
from ..timing.timed_rounds import Timed

RATIO = 1e6
"""Nanoseconds per millisecond."""


class StoredRounds(Timed):
    """The rounds of one batch size in a result.

    Args:
        run: the facts of the timing.
        entries: by name, what was measured, each with its raw times.

    Attributes:
        in_time: whether all raw times are in order of time, so that the rounds follow from them; otherwise the rounds
            are those that the result lists.

    Raises:
        ArtifactError: raw times are damaged.
    """

    def __init__(self, run: LatencyRun, entries: Mapping[str, LatencyEntry]) -> None:
        raws = {name: entry.raw for name, entry in entries.items() if entry.raw is not None}
        first = next(iter(entries.values()))
        seed, self.opened_again = next((raw.seed, raw.opened_again) for raw in raws.values())
        confidence = first.median_ms.confidence
        self.options = BenchOptions(threads=max(1, run.threads), confidence=confidence, seed=seed)
        self.reference, self.clock, self.stopped = run.reference, run.clock, run.stopped
        self.turns, self.resolution_ns, self._seconds = list(run.turns), run.resolution_ns, run.seconds
        self.noise = Noise(**run.noise.model_dump())
        self.warmup_ns = {name: [RATIO * value for value in entry.warmup_ms] for name, entry in entries.items()}
        self.plans = {name: _plan(raw, entries[name]) for name, raw in raws.items()}
        self.in_time = all(raw.order == "time" for raw in raws.values())
        self._dependence = {
            (name, one.percentile): one.dependence for name, entry in entries.items() for one in entry.percentiles
        }
        self._calls = {name: RATIO * raw.calls_ms() for name, raw in raws.items()}
        blocks = {name: raw.blocks() if self.in_time else _listed(entries[name]) for name, raw in raws.items()}
        rounds = [dict(zip(blocks, each, strict=True)) for each in zip(*blocks.values(), strict=True)]
        spoiled = next(iter(raws.values())).spoiled if self.in_time else 0
        self.rounds, self.spoiled = rounds[: len(rounds) - spoiled], rounds[len(rounds) - spoiled :]

    def elapsed_s(self) -> float:
        """Seconds of the timing, as the result says."""
        return self._seconds

    def calls_ns(self, name: str) -> Floats:
        """Wall-clock time of each call."""
        return self._calls[name]

    def percentile(self, name: str, percentile: float) -> Percentile:
        """A percentile; with the dependence that the result says if the order of the calls is not known."""
        known = None if self.in_time else self._dependence.get((name, percentile), 1.0)
        return percentile_interval(self.calls_ns(name) / 1e6, percentile, known=known)


def _plan(raw: RawTimes, entry: LatencyEntry) -> Plan:
    return Plan(raw.calls_per_reading, entry.samples_per_block, raw.readings_per_slot)


def _listed(entry: LatencyEntry) -> list[Block]:
    """The times of the rounds that a result lists, each as a block of one slot."""
    times = [np.array([RATIO * value]) for value in entry.blocks_ms]
    return [Block(time, np.zeros(1, bool), time, True) for time in times]
