"""Workers that are killed under load: what is lost, how long the model is away, and when all are back (goal G8)."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from threading import Thread

from ...scenarios.request_load import NO_ANSWER, Ask, Load, Outcome, closed_loop, percentile
from .findings import Finding, Report, at_least, at_most, figure
from .request_cost import BATCH_SIZE
from .request_pool import RequestPool
from .running_server import RunningServer, serving
from .served_networks import WIDTHS, convolutions, packed

WORKERS, CLIENTS, RETRIES = 2, 16, 3
BACK_S = 120.0
_PAUSE_S = 0.3


@dataclass(frozen=True)
class Kill:
    """One kill.

    Attributes:
        at_s: when, in seconds of the monotonic clock.
        back_s: seconds until all workers took requests again; infinite if they did not within two minutes.
    """

    at_s: float
    back_s: float


def kill_one(server: RunningServer, name: str, generator: random.Random) -> Kill:
    """Kill a random worker with SIGKILL, and wait for as many as before."""
    before = server.ready(name)
    victim = generator.choice(before)
    begin = time.monotonic()
    os.kill(victim, signal.SIGKILL)
    while time.monotonic() - begin < BACK_S:
        now = server.ready(name)
        if victim not in now and len(now) >= len(before):
            return Kill(begin, time.monotonic() - begin)
        time.sleep(0.05)
    return Kill(begin, float("inf"))


class Retrying:
    """Asks again when no answer came or a server failed, as a proxy does for requests that may be repeated.

    Attributes:
        first: the outcome of every first try, whatever later ones gave.
    """

    def __init__(self, ask: Ask, retries: int = RETRIES, wait_s: float = 0.2) -> None:
        self.first: list[Outcome] = []
        self._ask, self._retries, self._wait_s, self._lock = ask, retries, wait_s, threading.Lock()

    def __call__(self, index: int) -> tuple[int, bool]:
        """Status and correctness of the last try."""
        begin = time.monotonic()
        status, right = self._ask(index)
        with self._lock:
            self.first.append(Outcome(index, begin, begin, time.monotonic(), status, right))
        for _ in range(self._retries):
            if status == 200:
                break
            time.sleep(self._wait_s)
            status, right = self._ask(index)
        return status, right


def under_load(ask: Ask, clients: int, work: Callable[[], None]) -> Load:
    """A closed loop that lasts as long as some other work, and a little before and after it."""
    done = threading.Event()
    found: list[Load] = []
    load = Thread(target=lambda: found.append(closed_loop(ask, clients, until=done.is_set)))
    load.start()
    try:
        time.sleep(_PAUSE_S)
        work()
        time.sleep(_PAUSE_S)
    finally:
        done.set()
        load.join()
    return found[0]


Loss = tuple[float, float, int]
"""A failed first try: seconds from its kill to its begin and to its end, and its status."""


def losses(first: Sequence[Outcome], kills: Sequence[Kill]) -> list[list[Loss]]:
    """The failed first tries of each kill: of the first one while they waited, or else of the last one before."""
    found: list[list[Loss]] = [[] for _ in kills]
    for one in first:
        earlier = [number for number, kill in enumerate(kills) if kill.at_s <= one.ended_s]
        if one.status == 200 or not earlier:
            continue
        number = next((number for number in earlier if one.begun_s <= kills[number].at_s), earlier[-1])
        at = kills[number].at_s
        found[number].append((round(one.begun_s - at, 4), round(one.ended_s - at, 4), one.status))
    return found


def judged(load: Load, first: Sequence[Outcome], kills: Sequence[Kill], cold_start_s: float) -> list[Finding]:
    """The goals of kills.

    Args:
        load: with retries.
        first: first tries.
        cold_start_s: time of a worker's start without a kill before it.
    """
    lost = losses(first, kills)
    told_s = [end for one in lost for _, end, _ in one]
    back = [kill.back_s for kill in kills]
    failed = len(load.outcomes) - len(load.answered)
    return [
        figure("kills", len(kills)),
        at_most("G8", "most requests lost to one kill, without a retry", max(map(len, lost)), BATCH_SIZE),
        figure("requests lost to all kills, without a retry", len(told_s)),
        figure("of them without any answer", sum(status == NO_ANSWER for one in lost for *_, status in one)),
        figure("longest time from a kill until a lost request was told", max(told_s, default=0.0), "s"),
        at_most("G8", f"requests lost with at most {RETRIES} retries", failed, 0),
        at_most("G8", "wrong answers", load.wrong, 0),
        at_most("G8", "time until all workers are back, median", median(back), cold_start_s + 1, "s"),
        figure("time until all workers are back, p99", percentile(back, 99), "s"),
        figure("longest time without an answer", load.longest_gap_s(), "s"),
        at_least("G8", "kills after which all workers came back", sum(one < BACK_S for one in back), len(kills)),
    ]


def measure(folder: Path, kills: int = 200, pause_s: float = 1.0, seed: int = 0) -> Report:
    """Random kills of one of two workers under a closed loop.

    Args:
        folder: where the model and the archive are written.
        kills: number of kills, one after another.
        pause_s: mean pause between a recovery and the next kill, in seconds.
        seed: other moments and workers for another seed.
    """
    file = convolutions(folder / "light.onnx", WIDTHS["light"])
    pool, generator = RequestPool.of(file), random.Random(seed)
    killed: list[Kill] = []
    with serving([packed(file, folder / "light")], "--workers", str(WORKERS)) as server:
        asks = Retrying(pool.ask(server.url))
        cold_s = kill_one(server, file.stem, generator).back_s

        def work() -> None:
            for _ in range(kills):
                time.sleep(generator.expovariate(1 / pause_s))
                killed.append(kill_one(server, file.stem, generator))

        load = under_load(asks, CLIENTS, work)
    details = {"back_s": [kill.back_s for kill in killed], "lost": losses(asks.first, killed)}
    details |= {"statuses": load.statuses, "first": Load(tuple(asks.first), 1, 0).statuses}
    told = f"closed loop, {CLIENTS} clients, {WORKERS} workers, one killed at random times, seed {seed}"
    return Report("kills", told, len(load.outcomes), tuple(judged(load, asks.first, killed, cold_s)), details)
