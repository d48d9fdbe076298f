"""Rounds of randomly ordered blocks of all candidates on the device, until the ratios are known or the time is used up.

The design is that of ``retort bench``: here it gathers the raw times, and the statistics follow at home.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from .models import Model, Samples
from .slots import Call, Clock, Plan, Slots, calibrate, clock_step, equal_slots, runs_here, switch_counter, time_slots

COARSEST_S = 1e-5
WARMUP_ROUNDS, WARMUP_AGREEMENT, WARMUP_SHARE = (3, 20), 0.05, 0.25
PARTS = 4
"""Blocks of each candidate that make a round, for calls that are shorter than a block."""
OPENING_SHARE = 0.05
"""Largest share of the time for opening the sessions; if it takes longer, they are opened once."""
LOW = 0.25
"""Quantile of the slots that stands for a round here; what counts at home is chosen there."""
RESAMPLES = 200
LEAST, GROWTH = 16, 30
"""Rounds before a timing can be precise, and how many times longer it may last to have enough for an interval."""


def timed(folder: Path, manifest: dict[str, Any], part: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Facts of the timing of all candidates of a part, and the raw times, one row per round."""
    known = {one["name"]: one for one in manifest["candidates"]}
    candidates = {label: known[name] for label, name in part["candidates"].items()}

    def call(one: dict[str, Any]) -> Call:
        model = Model(folder, one, part["threads"])
        feeds = Samples(folder, manifest, one).feeds(model.axes, range(part["batch"]))
        return model.call(feeds)

    def opened() -> dict[str, Call]:
        return {label: call(one) for label, one in candidates.items()}

    on_gpu = any(one.get("gpu") for one in candidates.values())
    return Rounds(opened, {**part, "wall": on_gpu}).measure()


class Rounds:
    """One timing of several calls, which ``opened`` gives by name from new sessions."""

    def __init__(self, opened: Callable[[], dict[str, Call]], part: dict[str, Any]) -> None:
        self.opened, self.part = opened, part
        self.begun, self.rounds, self.turns = time.monotonic(), [], [0]  # type: ignore[var-annotated]
        self.moments: list[float] = []
        self.calls, self.opened_at = opened(), time.monotonic()
        self.opening_s = self.opened_at - self.begun
        self.clock = "thread" if self._alone() else "wall"
        deciding: Clock = time.thread_time_ns if self.clock == "thread" else time.perf_counter_ns
        switches = switch_counter("RUSAGE_THREAD" if self.clock == "thread" else "RUSAGE_SELF")
        self.time = partial(time_slots, deciding=deciding, wall=time.perf_counter_ns, switches=switches)
        self.step_ns = clock_step(deciding)
        plans = {name: calibrate(call, part["block_ms"], self.step_ns, deciding) for name, call in self.calls.items()}
        self.plans: dict[str, Plan] = plans if self.clock == "thread" else equal_slots(plans, part["block_ms"])
        self.parts = PARTS if all(plan.samples > 1 for plan in self.plans.values()) else 1

    def measure(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Warm up, time rounds until it is enough, and give facts and raw times."""
        warmup, stopped = self._warm_up(), ""
        while not stopped:
            self._turn()
            self.moments.append(time.monotonic())
            blocks = self._blocks(self.parts)
            whole = self.part["every_slot"]
            self.rounds.append(blocks if whole else {name: _median(one) for name, one in blocks.items()})
            stopped = self._finished()
        arrays: dict[str, Any] = {"moments": np.array(self.moments)}
        for name in self.calls:
            found = [one[name] for one in self.rounds]
            arrays[f"spent:{name}"] = np.stack([slots.spent for slots in found]).astype(np.float32)
            arrays[f"interrupted:{name}"] = np.packbits(np.stack([slots.interrupted for slots in found]), axis=1)
            arrays[f"calls:{name}"] = np.stack([slots.calls for slots in found]).astype(np.float32)
            arrays[f"warmup:{name}"] = np.array(warmup[name])
        facts = {
            "clock": self.clock, "step_ns": self.step_ns, "parts": self.parts, "turns": self.turns, "stopped": stopped,
            "plans": {name: vars(plan) for name, plan in self.plans.items()}, "rounds": len(self.rounds),
            "opening_s": self.opening_s, "seconds_used": time.monotonic() - self.begun,
        }  # fmt: skip
        return facts, arrays

    def _alone(self) -> bool:
        """Whether the calling thread does all of the work, so that its CPU time can decide."""
        coarse = time.get_clock_info("thread_time").resolution > COARSEST_S
        if coarse or self.part.get("wall") or self.part["threads"] != 1:
            return False
        return all(runs_here(call) for call in self.calls.values())

    def _warm_up(self) -> dict[str, list[float]]:
        found: dict[str, list[float]] = {name: [] for name in self.calls}
        least, most = WARMUP_ROUNDS
        for done in range(most):
            settled = done >= least and all(_settled(values) for values in found.values())
            if settled or (done and self._elapsed() > WARMUP_SHARE * self.part["seconds"]):
                break
            for name, slots in self._blocks(1).items():
                found[name].append(_value(slots.spent))
        return found

    def _blocks(self, parts: int) -> dict[str, Slots]:
        """Blocks of every candidate, each time in another order."""
        found: dict[str, list[Slots]] = {name: [] for name in self.calls}
        for _ in range(parts):
            names = list(self.calls)
            random.shuffle(names)
            for name in names:
                found[name].append(self.time(self.calls[name], self.plans[name]))
        return {name: Slots(*map(np.concatenate, zip(*blocks))) for name, blocks in found.items()}

    def _turn(self) -> None:
        """Open the sessions again, whose times differ, if that takes no longer than the rounds since."""
        if not self.rounds or self.opening_s > OPENING_SHARE * self.part["seconds"]:
            return
        if time.monotonic() - self.opened_at < self.opening_s:
            return
        self.calls = self.opened()
        self.opened_at = time.monotonic()
        self.turns.append(len(self.rounds))
        self._blocks(1)

    def _finished(self) -> str:
        """Why it is enough: ``precise`` or ``time``; empty if it is not."""
        count = len(self.rounds)
        grown = 1 if count >= self.part["needed"] else GROWTH
        if self._elapsed() >= grown * self.part["seconds"]:
            return "time"
        if self.part["precision"] and count >= LEAST and count & (count - 1) == 0:
            others = [name for name in self.calls if name != self.part["reference"]]
            if all(self._half_width(name) <= self.part["precision"] for name in others):
                return "precise"
        return ""

    def _half_width(self, name: str) -> float:
        """Half the width of the interval of a log ratio, by a bootstrap over rounds."""
        theirs, ours = (
            np.log([_value(one[key].spent) for one in self.rounds]) for key in (self.part["reference"], name)
        )
        drawn = np.random.default_rng(len(self.rounds)).integers(0, len(ours), (RESAMPLES, len(ours)))
        found = np.quantile(theirs[drawn], LOW, axis=1) - np.quantile(ours[drawn], LOW, axis=1)
        low, high = np.quantile(found, [0.005, 0.995])
        return float(high - low) / 2

    def _elapsed(self) -> float:
        return time.monotonic() - self.begun


def _median(slots: Slots) -> Slots:
    """A round of a long timing as one slot; all slots of ten minutes would be hundreds of megabytes."""
    spent, calls = (np.array([float(np.median(values))]) for values in (slots.spent, slots.calls))
    return Slots(spent, np.array([bool(slots.interrupted.all())]), calls)


def _value(spent: Any) -> float:
    return float(np.quantile(spent, LOW))


def _settled(values: list[float]) -> bool:
    last = values[-3:]
    return max(last) <= (1 + WARMUP_AGREEMENT) * min(last)
