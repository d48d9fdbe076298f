"""What the timed loops add to the runtime's own call on a model that does nothing (goal B4).

``python -m retort.benchmarks.suites.harness_cost``. The loops and the bare call run in interleaved rounds, in wall time
and in the CPU time of the thread. The cost of a loop is the median over rounds of the difference per query; a round of
a loop lasts about a millisecond, so that other processes get into few of them.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np

from ...core.console import Console
from ...core.metrics.intervals import Interval
from ...core.session import open_session
from ...core.system.garbage import no_collections
from ..edge.runner.slots import Plan, time_slots
from ..scenarios.query_loops import Query, stream
from ..timing.clocks import THREAD, WALL, Clocks
from ..timing.statistics import median_interval
from .serving.findings import Finding, Report, at_most, figure

GOAL_US = 2.0
BARE = "the runtime's own call"
CONFIDENCE = 0.95
NAMES = {"wall": "wall-clock time", "thread": "CPU time of the thread"}

Loop = Callable[[int], float]
"""Makes so many queries, and gives the median latency that it reports in nanoseconds; NaN if it reports none."""


def null_model(path: Path) -> Path:
    """A model with one number as its input, which it gives back."""
    from onnx import TensorProto, helper, save

    node = helper.make_node("Identity", ["x"], ["y"])
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 1]) for name in "xy"]
    graph = helper.make_graph([node], "null", ports[:1], ports[1:])
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), str(path))
    return path


def loops(model: Path) -> dict[str, Loop]:
    """The bare call and every loop around it; "session" has the call that all measurements make."""
    session: Any = open_session(model)
    feeds = session.signature.validate({"x": np.zeros((1, 1), np.float32)})
    raw: Query = partial(session.inner.run, [spec.name for spec in session.signature.outputs], feeds)
    call: Query = partial(session.run_unchecked, feeds)
    return {
        BARE: partial(_repeated, raw),
        "the call of a session": partial(_repeated, call),
        "blocks (a clock per query)": partial(_in_slots, raw, WALL),
        "blocks in CPU time (a clock per query)": partial(_in_slots, raw, THREAD),
        "single stream": partial(_streamed, raw),
        "single stream with a session": partial(_streamed, call),
    }


def _repeated(call: Query, count: int) -> float:
    for _ in range(count):
        call()
    return float("nan")


def _in_slots(call: Query, clocks: Clocks, count: int) -> float:
    """The block loop with one call per reading, its most expensive plan; calibrated plans have many calls."""
    found = time_slots(call, Plan(1, 1, groups=count), clocks.deciding, clocks.wall, clocks.switches)
    return float(np.median(found.calls))


def _streamed(call: Query, count: int) -> float:
    return float(np.median(stream(cycle([call]), 0.0, least=count).latencies_ns))


@dataclass(frozen=True)
class LoopCost:
    """What a loop costs per query, in microseconds, with its interval over rounds.

    Attributes:
        query_us: a query in the loop.
        added_us: the same less the runtime's own call in the same round.
        reported_us: the median latency that the loop reports, less the runtime's own call; None if it reports none.
    """

    query_us: Interval
    added_us: Interval
    reported_us: Interval | None


def measured(made: dict[str, Loop], rounds: int, count: int, seed: int = 0) -> dict[str, dict[str, LoopCost]]:
    """The cost of every loop by name of the clock and by loop.

    Args:
        made: with :data:`BARE` among them.
        rounds: each has every loop once, in random order.
        count: queries of a loop in a round.
    """
    order, spent = random.Random(seed), {clock: {name: list[float]() for name in made} for clock in NAMES}
    reported: dict[str, list[float]] = {name: [] for name in made}
    with no_collections(collect_first=True):
        for number in range(rounds + 1):
            for name in order.sample(list(made), len(made)):
                cpu, wall = time.thread_time_ns(), time.perf_counter_ns()
                latency = made[name](count)
                wall, cpu = time.perf_counter_ns() - wall, time.thread_time_ns() - cpu
                if number:  # the first round warms up
                    spent["wall"][name].append(wall / count / 1e3)
                    spent["thread"][name].append(cpu / count / 1e3)
                    reported[name].append(latency / 1e3)
    return {clock: {name: _cost(times, name, reported[name]) for name in made} for clock, times in spent.items()}


def _cost(times: dict[str, list[float]], name: str, reported: Sequence[float]) -> LoopCost:
    mine, bare, latency = np.array(times[name]), np.array(times[BARE]), np.array(reported)
    told = None if np.isnan(latency).any() else median_interval(latency - bare, CONFIDENCE)
    return LoopCost(median_interval(mine, CONFIDENCE), median_interval(mine - bare, CONFIDENCE), told)


def findings(found: dict[str, dict[str, LoopCost]]) -> list[Finding]:
    """The goal for each loop by both clocks."""
    made = []
    for clock, costs in found.items():
        made.append(figure(f"{BARE}, {NAMES[clock]}", costs[BARE].query_us.value, "µs"))
        for name, cost in costs.items():
            if name == BARE:
                continue
            ends = f"[{cost.added_us.low:.2f}, {cost.added_us.high:.2f}]"
            made.append(at_most("B4", f"{name} adds {ends}, {NAMES[clock]}", cost.added_us.value, GOAL_US, "µs"))
            if clock == "wall" and cost.reported_us is not None:
                made.append(figure(f"{name} reports so much more", cost.reported_us.value, "µs"))
    return made


def measure(folder: Path, rounds: int = 1000, count: int = 200) -> Report:
    """Measure all loops.

    Args:
        folder: where the model is written.
        rounds: see :func:`measured`.
        count: see :func:`measured`.
    """
    found = measured(loops(null_model(folder / "null.onnx")), rounds, count)
    details = {clock: {name: asdict(cost) for name, cost in costs.items()} for clock, costs in found.items()}
    load = f"{rounds} rounds of {count} queries per loop, in random order, one thread"
    return Report("harness", load, rounds * count * len(found["wall"]), tuple(findings(found)), details)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table, and write or print the JSON result; 1 if the goal was missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rounds", type=int, default=1000, help="rounds of all loops (1000)")
    parser.add_argument("--count", type=int, default=200, help="queries of a loop in a round (200)")
    parser.add_argument("--out", type=Path, help="file for the JSON result; printed by default")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        report = measure(Path(folder), given.rounds, given.count)
    report.show(Console("text"), given.out)
    return 0 if report.reached else 1


if __name__ == "__main__":
    raise SystemExit(main())
