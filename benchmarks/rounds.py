"""One measurement under way: rounds of randomly ordered blocks, in turns between which sessions are opened anew."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ..core.metrics.intervals import Floats
from ..core.metrics.ratio import Ratio
from ..core.options.stage_options import BenchOptions
from .clocks import Call, Clocks
from .machine_noise import Noise, Seen, Watch, judge
from .statistics import ratio_interval, rounds_needed
from .timing_blocks import Block, Plan, calibrate, clock_step, time_block

Open = Callable[[], dict[str, Call]]

PRECISION = 0.02
MOVED = 0.05
WARMUP_ROUNDS = (3, 20)
WARMUP_AGREEMENT = 0.05
WARMUP_SHARE = 0.25
CHECK_GROWTH = 1.15
"""Rounds until the next look at the intervals, as a multiple of the rounds until this one."""
TURNS, SHORTEST_TURN = 8, 4
OPENING_SHARE = 0.25
"""Of the budget that opening sessions anew may take; what takes longer is opened once."""
GROWTH = 10
"""How many budgets a slow call may take until there are rounds enough for an interval."""


class Run:
    """Rounds of blocks of all candidates, until every ratio is known well enough or the time is spent.

    Args:
        opened: gives the calls by name, of sessions that are opened anew each time.
        opening_s: how long an opening took; None where another one would be the same.
        reference: the candidate that ratios refer to.

    Attributes:
        turns: the round at which each turn begins.
        stopped: ``precise`` when all intervals were narrow enough, ``budget`` when the time was spent.
        attempts: how often it was begun; all but the last were NOISY.
    """

    def __init__(
        self, opened: Open, options: BenchOptions, clocks: Clocks, reference: str, opening_s: float | None
    ) -> None:
        self.opened, self.options, self.clocks, self.reference = opened, options, clocks, reference
        self.random = np.random.default_rng(options.seed)
        self.started, self.watch = clocks.wall(), Watch(clocks.root)
        self.resolution_ns = clock_step(clocks.deciding)
        self.calls: dict[str, Call] = {}
        self.plans: dict[str, Plan] = {}
        self.warmup_ns: dict[str, list[float]] = {}
        self.rounds: list[dict[str, Block]] = []
        self.spoiled: list[dict[str, Block]] = []
        self.turns: list[int] = [0]
        self.least = rounds_needed(options.confidence)
        self.opening_s, self.attempts, self.stopped, self.check = opening_s, 1, "", 0
        self.noise = Noise("VALID")

    def elapsed_s(self) -> float:
        """Seconds since the measurement began, calibration and warm-up included."""
        return (self.clocks.wall() - self.started) / 1e9

    def prepare(self) -> None:
        """Open, calibrate, then warm up until the last three blocks of every candidate agree."""
        self.calls = self.opened()
        self.plans = calibrate(self.calls, self.options.block_ms, self.clocks, self.resolution_ns)
        self.warmup_ns = {name: [] for name in self.calls}
        least, most = WARMUP_ROUNDS
        for done in range(most):
            settled = done >= least and all(_settled(values) for values in self.warmup_ns.values())
            if settled or (done and self.elapsed_s() > WARMUP_SHARE * self.options.budget_s):
                return
            for name, block in self._blocks().items():
                self.warmup_ns[name].append(block.value)

    def step(self) -> bool:
        """One round, in a new turn where it is time for one; whether there is more to do."""
        kept = len(self.rounds)
        if kept - self.turns[-1] >= self._turn_length():
            self._next_turn()
        blocks = self._blocks()
        lost = self.clocks.name != "thread" and any(block.interrupted == block.slots for block in blocks.values())
        (self.spoiled if lost else self.rounds).append(blocks)
        return not self._finished()

    def times_ns(self, name: str) -> list[float]:
        """By the deciding clock, per call, one per round."""
        return [blocks[name].value for blocks in self.rounds]

    def wall_ns(self, name: str) -> list[float]:
        """The same by the time that passes."""
        return [blocks[name].wall for blocks in self.rounds]

    def calls_ns(self, name: str) -> Floats:
        """Time that passed in each call; a spoiled round's calls are among them."""
        return np.concatenate([blocks[name].calls for blocks in (*self.rounds, *self.spoiled)])

    def ratio(self, name: str, rounds: slice = slice(None)) -> Ratio:
        """How many times faster than the reference, from the rounds so far."""
        options, reference = self.options, self.reference
        first, last, _ = rounds.indices(len(self.rounds))
        turns = [turn - first for turn in self.turns if first <= turn < last]
        times = (self.times_ns(reference)[rounds], self.times_ns(name)[rounds])
        told: dict[str, Any] = {"candidate": name, "reference": reference, "clock": self.clocks.name}
        found = ratio_interval(*times, options.confidence, options.seed, turns, **told)
        if self.clocks.name != "thread":
            return found
        logs = np.log(self.wall_ns(reference)[rounds]) - np.log(self.wall_ns(name)[rounds])
        return replace(found, wall=float(np.exp(np.median(logs))))

    def others(self) -> list[str]:
        """All but the reference."""
        return [name for name in self.calls if name != self.reference]

    def _turn_length(self) -> int:
        return max(SHORTEST_TURN, math.ceil(self.options.blocks / TURNS))

    def _next_turn(self) -> None:
        self.turns.append(len(self.rounds))
        if self.opening_s is not None and self.opening_s <= OPENING_SHARE * self.options.budget_s / TURNS:
            before = self.clocks.wall()
            self.calls = self.opened()
            self.opening_s = max(self.opening_s, (self.clocks.wall() - before) / 1e9)
            self._blocks()

    def _blocks(self) -> dict[str, Block]:
        """One block of every candidate, in random order."""
        names = list(self.calls)
        order = [names[index] for index in self.random.permutation(len(names))]
        found = {name: time_block(self.calls[name], self.plans[name], self.clocks) for name in order}
        return {name: found[name] for name in names}

    def _finished(self) -> bool:
        """Whether it is over; a NOISY measurement is begun again while there is time."""
        kept, elapsed = len(self.rounds), self.elapsed_s()
        grown = GROWTH if kept + len(self.spoiled) < self.least else 1
        if elapsed >= grown * self.options.budget_s:
            self.stopped = "budget"
        elif kept >= max(self.options.blocks, self.least, self.check):
            self.stopped = "precise" if self._precise() else ""
            self.check = math.ceil(CHECK_GROWTH * kept)
        if not self.stopped:
            return False
        self._judge()
        if self.stopped == "precise" and self.noise.status == "NOISY" and 2 * self._attempt_s() < self._left_s():
            self._restart()
        return bool(self.stopped)

    def _precise(self) -> bool:
        return all(self.ratio(name).half_width <= PRECISION for name in self.others())

    def _left_s(self) -> float:
        return self.options.budget_s - self.elapsed_s()

    def _attempt_s(self) -> float:
        return self.elapsed_s() / self.attempts

    def _restart(self) -> None:
        self.rounds, self.spoiled, self.turns, self.stopped = [], [], [0], ""
        self.attempts += 1
        self.watch, self.check = Watch(self.clocks.root), 0

    def _judge(self) -> None:
        """Say what is to be thought of it; rounds that were spoiled count where there are too few others."""
        spoiled = 0
        if len(self.rounds) < self.least and self.spoiled:
            spoiled = len(self.spoiled)
            self.rounds, self.spoiled = [*self.rounds, *self.spoiled], []
        pressure, steal = self.watch.read()
        blocks = [block for item in (*self.rounds, *self.spoiled) for block in item.values()]
        slots = sum(block.slots for block in blocks)
        seen = Seen(
            pressure, steal, 100 * sum(block.interrupted for block in blocks) / max(slots, 1), self.clocks.name,
            len(self.rounds), self.least, self.elapsed_s(), tuple(self._moved()), spoiled,
        )  # fmt: skip
        self.noise = judge({name: np.array(self.times_ns(name)) for name in self.calls}, seen, self.attempts)
        if self.stopped == "budget" and not self._precise():
            unknown = (
                f"the budget of {self.options.budget_s:g} s ended before every ratio was known to ± {PRECISION:.0%}"
            )
            self.noise = replace(self.noise, remarks=(*self.noise.remarks, unknown))

    def _moved(self) -> list[str]:
        """Ratios whose intervals in the first and in the second half of the rounds exclude each other."""
        half, found = len(self.rounds) // 2, []
        if half < 2 * self.least:
            return []
        for name in self.others():
            one, two = self.ratio(name, slice(half)), self.ratio(name, slice(half, None))
            if _apart(one, two):
                found.append(f"the ratio of '{name}' moved from {one.text} to {two.text} while it was measured")
        return found


def _apart(one: Ratio, two: Ratio) -> bool:
    """Whether two intervals exclude each other, and by more than what a load does to a valid ratio."""
    first, second = one.interval, two.interval
    gap = max(first.low / second.high, second.low / first.high)
    return math.isfinite(gap) and gap > 1 + MOVED


def _settled(values: Sequence[float]) -> bool:
    last = values[-3:]
    return max(last) <= (1 + WARMUP_AGREEMENT) * min(last)


def best_times_ms(calls: Mapping[str, Call], clocks: Clocks, rounds: int, block_ms: float) -> dict[str, float]:
    """The best block of each call, in milliseconds per call, from blocks in turns: for parts too small to compare."""
    step = clock_step(clocks.deciding)
    plans = {name: calibrate({name: call}, block_ms, clocks, step)[name] for name, call in calls.items()}
    best = dict.fromkeys(calls, math.inf)
    for _ in range(rounds):
        for name, call in calls.items():
            best[name] = min(best[name], time_block(call, plans[name], clocks).value / 1e6)
    return best
