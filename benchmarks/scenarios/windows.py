"""Windows of all candidates in random order, so that a drift of the machine meets all of them, and the warm-up before.

A round has one window of each candidate. Rounds are the independent observations of ratios between candidates.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ...core.console import SILENT, Console
from .query_loops import Served

Ask = Callable[[float, int], Served]
"""Asks a candidate for so many seconds; the second argument is the seed of the window."""
WARMUP_S, WARMUP_BLOCKS, WARMUP_AGREEMENT, ALIKE = 0.05, 40, 0.05, 3
"""Length of a block of the warm-up, most blocks, and how well how many last ones of them agree when it is over."""


@dataclass(frozen=True, eq=False)
class Window:
    """One window of one candidate.

    Attributes:
        round: number of the round.
        place: its place within the round.
        began_s: seconds since the first window of the run.
    """

    round: int
    place: int
    began_s: float
    served: Served


def warmed_up(asks: Mapping[str, Ask], limit_s: float, seed: int = 0) -> dict[str, tuple[float, ...]]:
    """Ask all candidates until the times of each are steady; the medians of all blocks in milliseconds.

    Args:
        limit_s: longest duration for all of them.
    """
    found: dict[str, list[float]] = {name: [] for name in asks}
    order, end = random.Random(seed), time.monotonic() + limit_s
    for _ in range(WARMUP_BLOCKS):
        left = [name for name, medians in found.items() if not steady(medians)]
        if not left or (all(found.values()) and time.monotonic() > end):
            break
        order.shuffle(left)
        for name in left:
            found[name].append(asks[name](WARMUP_S, seed).median_ms)
    return {name: tuple(medians) for name, medians in found.items()}


def steady(medians: Sequence[float], agreement: float = WARMUP_AGREEMENT, alike: int = ALIKE) -> bool:
    """Whether the last few values agree."""
    last = medians[-alike:]
    return len(last) == alike and max(last) <= (1 + agreement) * min(last)


class Rounds(dict[str, list[Window]]):
    """The windows of complete rounds by candidate.

    Attributes:
        interrupted: whether Ctrl-C ended them early.
    """

    interrupted = False


def interleaved(
    asks: Mapping[str, Ask],
    length_s: float,
    rounds: int,
    seed: int = 0,
    console: Console = SILENT,
    until: Callable[[], bool] = lambda: False,
) -> Rounds:
    """Rounds of one window of each candidate, each time in another order; after Ctrl-C those that are complete.

    Args:
        rounds: most of them.
        until: whether it is enough after a round.

    Raises:
        KeyboardInterrupt: Ctrl-C was pressed before a round was complete.
    """
    found = Rounds({name: [] for name in asks})
    order, began = random.Random(seed), time.monotonic()
    with console.progress("windows", rounds) as bar:
        for number in range(rounds):
            try:
                made = _round(asks, length_s, number, order, began)
            except KeyboardInterrupt:
                if not number:
                    raise
                found.interrupted = True
                break
            for name, window in made.items():
                found[name].append(window)
            bar.advance()
            if until():
                break
    return found


def _round(
    asks: Mapping[str, Ask], length_s: float, number: int, order: random.Random, began: float
) -> dict[str, Window]:
    """One window of each candidate."""
    names = list(asks)
    order.shuffle(names)
    made = {}
    for place, name in enumerate(names):
        at = time.monotonic() - began
        made[name] = Window(number, place, at, asks[name](length_s, order.getrandbits(32)))
    return made
