"""The raw times of a device as the rounds from which the statistics of this machine's timing are computed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from ...core.errors import ArtifactError
from ...core.options.stage_options import BenchOptions
from ..timing.blocks import Block
from ..timing.latency import LatencyComparison, summary
from ..timing.statistics import rounds_needed
from ..timing.timed_rounds import Timed
from . import throttling
from .pulled_results import Part, Pulled
from .runner.slots import Plan


class DeviceRounds(Timed):
    """The rounds of one part of a run on a device.

    Raises:
        ArtifactError: its raw numbers are incomplete.
    """

    def __init__(self, part: Part, options: BenchOptions) -> None:
        said = part.said
        self.options, self.reference = options, str(said["reference"])
        self.clock = "thread" if said["clock"] == "thread" else "wall"
        self.plans = {name: _plan(plan) for name, plan in said["plans"].items()}
        try:
            self.warmup_ns = {name: part.arrays[f"warmup:{name}"].tolist() for name in self.plans}
            found = [
                {name: _block(part, name, plan, number, self.clock == "thread") for name, plan in self.plans.items()}
                for number in range(int(said["rounds"]))
            ]
        except (KeyError, IndexError, ValueError) as error:
            raise ArtifactError(
                f"the raw times of {part.name} are incomplete: {error}", "run it on the device again"
            ) from error
        self.rounds = [one for one in found if not any(block.lost for block in one.values())]
        self.spoiled = [one for one in found if any(block.lost for block in one.values())]
        self.turns = [int(turn) for turn in said["turns"]]
        self.stopped = "precise" if said["stopped"] == "precise" else "budget"
        self.resolution_ns = int(said["step_ns"])
        self._seconds = float(said["seconds_used"])

    def elapsed_s(self) -> float:
        """Seconds of the timing on the device."""
        return self._seconds


def _plan(found: Mapping[str, Any]) -> Plan:
    return Plan(int(found["calls"]), int(found["samples"]), int(found["groups"]), float(found["call_ns"]))


def _block(part: Part, name: str, plan: Plan, number: int, in_cpu_time: bool) -> Block:
    """The pooled blocks of a candidate in one round."""
    spent = part.arrays[f"spent:{name}"][number].astype(np.float64)
    calls = part.arrays[f"calls:{name}"][number].astype(np.float64)
    flags = np.unpackbits(part.arrays[f"interrupted:{name}"][number], count=len(spent)).astype(bool)
    if len(calls) != plan.groups * len(spent):
        raise ValueError(f"'{name}' has other numbers of slots and of readings of the clock")
    begun_s = float(part.arrays["moments"][number]) if "moments" in part.arrays else math.nan
    return Block(spent, flags, calls, in_cpu_time, begun_s)


def comparison_of(pulled: Pulled, part: Part, confidence: float, seed: int) -> LatencyComparison:
    """The latency of all candidates in one part, with its verdict.

    A part in which the device was throttled is NOISY: no decision can be based on it.

    Raises:
        ArtifactError: its raw numbers are incomplete.
    """
    threads, batch = int(part.said["threads"]), int(part.said["batch"])
    options = BenchOptions(threads=threads, batch_sizes=(batch,), confidence=confidence, seed=seed)
    rounds, readings = DeviceRounds(part, options), pulled.during(part.name)
    pressure, steal = throttling.load(readings)
    noise = rounds.judged(pressure, steal, rounds_needed(confidence))
    if slowed := throttling.reasons(readings, pulled.device.get("limits", {})):
        noise = replace(noise, status="NOISY", reasons=(*(f"THROTTLED: {one}" for one in slowed), *noise.reasons))
    rounds.noise = noise
    return summary(rounds, batch, options)
