"""One measurement: rounds of randomly ordered blocks, in turns between which sessions are opened again."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from ...core.options.stage_options import BenchOptions
from ..edge.runner.slots import Call, Plan, calibrate, clock_step, equal_slots
from .blocks import Block, pooled, time_block
from .clocks import Clocks
from .machine_noise import Noise, Watch
from .statistics import rounds_needed
from .timed_rounds import Timed

Open = Callable[[], dict[str, Call]]

WARMUP_ROUNDS = (3, 20)
WARMUP_AGREEMENT = 0.05
WARMUP_SHARE = 0.25
CHECK_GROWTH = 1.15
"""Number of rounds at the next check of the intervals, as a multiple of the present number."""
PARTS, ROUNDS, TURN = 4, 12, 4
"""Blocks per round, smallest number of rounds for calls shorter than a block, rounds per turn without new sessions."""
OPENING_SHARE = 0.05
"""Largest share of the budget for opening the sessions; if it takes longer, they are opened once."""
BUSY_SHARE, BUSY_PROCESSORS = 0.5, 0.25
"""Share of the budget that is used at least if other processes use more than this number of processors."""
GROWTH = 30
"""Largest number of budgets that a slow call may use until there are enough rounds for an interval."""


class Run(Timed):
    """Rounds of blocks of all candidates, until every ratio is known precisely enough or the time is used up.

    Args:
        opened: opens new sessions and returns the calls by name.
        opening_s: duration of the first opening, in seconds; None if the candidates cannot be opened again.
        reference: the reference of the ratios.

    Attributes:
        turns: the round at which each turn begins.
        stopped: ``precise`` if all intervals were narrow enough, ``budget`` if the time was used up.
        attempts: number of starts; all measurements but the last were NOISY.
    """

    def __init__(
        self, opened: Open, options: BenchOptions, clocks: Clocks, reference: str, opening_s: float | None
    ) -> None:
        self.opened, self.options, self.clocks, self.reference = opened, options, clocks, reference
        self.clock = clocks.name
        self.random = np.random.default_rng(options.seed)
        self.started, self.watch = clocks.wall(), Watch(clocks.root)
        self.resolution_ns = clock_step(clocks.deciding)
        self.calls: dict[str, Call] = {}
        self.plans: dict[str, Plan] = {}
        self.warmup_ns: dict[str, list[float]] = {}
        self.rounds: list[dict[str, Block]] = []
        self.spoiled: list[dict[str, Block]] = []
        self.turns: list[int] = [0]
        self.least, self.parts, self.opened_s = rounds_needed(options.confidence), 1, 0.0
        self.opening_s, self.attempts, self.stopped, self.check = opening_s, 1, "", 0
        self.opened_again = opening_s is not None
        self.noise = Noise("VALID")

    def elapsed_s(self) -> float:
        """Seconds since the start of the measurement, including calibration and warm-up."""
        return (self.clocks.wall() - self.started) / 1e9

    def prepare(self) -> None:
        """Open sessions, calibrate, and warm up until the last three blocks of every candidate agree."""
        self.calls = self.opened()
        plan = partial(calibrate, block_ms=self.options.block_ms, resolution_ns=self.resolution_ns)
        found = {name: plan(call, clock=self.clocks.deciding) for name, call in self.calls.items()}
        self.plans = found if self.clocks.name == "thread" else equal_slots(found, self.options.block_ms)
        self.parts = PARTS if all(plan.samples > 1 for plan in self.plans.values()) else 1
        self.warmup_ns = {name: [] for name in self.calls}
        least, most = WARMUP_ROUNDS
        for done in range(most):
            settled = done >= least and all(_settled(values) for values in self.warmup_ns.values())
            if settled or (done and self.elapsed_s() > WARMUP_SHARE * self.options.budget_s):
                return
            for name, block in self._blocks(1).items():
                self.warmup_ns[name].append(block.value)

    def step(self) -> bool:
        """Time one round, in a new turn if it is due; return whether more rounds are needed."""
        if self.rounds:
            self._turn()
        blocks = self._blocks(self.parts)
        lost = any(block.lost for block in blocks.values())
        (self.spoiled if lost else self.rounds).append(blocks)
        return not self._finished()

    def others(self) -> list[str]:
        """All candidates except the reference."""
        return [name for name in self.calls if name != self.reference]

    def _turn(self) -> None:
        """Open the sessions again if this takes no longer than the rounds since; otherwise turns have equal length."""
        if self.opening_s is None or self.opening_s > OPENING_SHARE * self.options.budget_s:
            self.opened_again = False
            if len(self.rounds) - self.turns[-1] >= TURN:
                self.turns.append(len(self.rounds))
            return
        if self.elapsed_s() - self.opened_s < self.opening_s:
            return
        before = self.elapsed_s()
        self.calls = self.opened()
        self.opened_s = self.elapsed_s()
        self.opening_s = self.opened_s - before
        self.turns.append(len(self.rounds))
        self._blocks(1)

    def _blocks(self, parts: int) -> dict[str, Block]:
        """Time ``parts`` blocks of every candidate, each time in random order, and combine them."""
        names = list(self.calls)
        found: dict[str, list[Block]] = {name: [] for name in names}
        for _ in range(parts):
            for index in self.random.permutation(len(names)):
                name = names[index]
                found[name].append(time_block(self.calls[name], self.plans[name], self.clocks))
        return {name: pooled(blocks) for name, blocks in found.items()}

    def _finished(self) -> bool:
        """Whether the measurement is finished; a NOISY one starts again if there is enough time."""
        kept, elapsed = len(self.rounds), self.elapsed_s()
        grown = GROWTH if kept + len(self.spoiled) < self.least else 1
        if elapsed >= grown * self.options.budget_s:
            self.stopped = "budget"
        elif kept >= max(self._wanted(), self.check) and not self._too_short():
            self.stopped = "precise" if self._precise() else ""
            self.check = math.ceil(CHECK_GROWTH * kept)
        if not self.stopped:
            return False
        self._judge()
        if self.stopped == "precise" and self.noise.status == "NOISY" and 2 * self._attempt_s() < self._left_s():
            self._restart()
        return bool(self.stopped)

    def _too_short(self) -> bool:
        """Whether other processes compute and half of the budget is left: all rounds may lie in one of their bursts."""
        return self.elapsed_s() < BUSY_SHARE * self.options.budget_s and self.watch.others() > BUSY_PROCESSORS

    def _wanted(self) -> int:
        """Smallest number of rounds."""
        return max(math.ceil(self.options.blocks / self.parts), self.least, ROUNDS if self.parts > 1 else 0)

    def _precise(self) -> bool:
        return all(self.ratio(name).half_width <= self.options.precision for name in self.others())

    def _left_s(self) -> float:
        return self.options.budget_s - self.elapsed_s()

    def _attempt_s(self) -> float:
        return self.elapsed_s() / self.attempts

    def _restart(self) -> None:
        self.rounds, self.spoiled, self.turns, self.stopped = [], [], [0], ""
        self.attempts += 1
        self.watch, self.check = Watch(self.clocks.root), 0

    def _judge(self) -> None:
        """Judge the noise of the measurement."""
        self.noise = self.judged(*self.watch.read(), self.least, self.attempts)
        if self.stopped == "budget" and not self._precise():
            wanted = f"every ratio was known to ± {self.options.precision:.1%}"
            unknown = f"the budget of {self.options.budget_s:g} s ended before {wanted}"
            self.noise = replace(self.noise, remarks=(*self.noise.remarks, unknown))


def _settled(values: Sequence[float]) -> bool:
    last = values[-3:]
    return max(last) <= (1 + WARMUP_AGREEMENT) * min(last)


def best_times_ms(calls: Mapping[str, Call], clocks: Clocks, rounds: int, block_ms: float) -> dict[str, float]:
    """Time of the fastest block of each call in ms per call, from interleaved blocks; for small subgraphs."""
    step = clock_step(clocks.deciding)
    plans = {name: calibrate(call, block_ms, step, clocks.deciding) for name, call in calls.items()}
    best = dict.fromkeys(calls, math.inf)
    for _ in range(rounds):
        for name, call in calls.items():
            best[name] = min(best[name], time_block(call, plans[name], clocks).value / 1e6)
    return best
