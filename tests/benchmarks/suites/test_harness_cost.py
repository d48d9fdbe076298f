"""The cost of the timed loops beside the call that they time."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from retort.benchmarks.suites.harness_cost import BARE, GOAL_US, LoopCost, findings, loops, main, measured, null_model
from retort.core.metrics.intervals import Interval


def test_a_loop_costs_less_than_the_call_that_does_nothing(tmp_path: Path) -> None:
    """In CPU time, each loop adds less to a query than the runtime's own call on a null model takes (B4)."""
    found = measured(loops(null_model(tmp_path / "null.onnx")), rounds=40, count=200)
    costs = found["thread"]
    bare = costs[BARE].query_us.value
    assert len(costs) == 6
    for name, cost in costs.items():
        if name != BARE:
            assert cost.added_us.value < bare, name


def test_loops_make_as_many_queries_as_they_are_asked_for(tmp_path: Path) -> None:
    """The cost per query is about the queries that were made: every loop calls the model that often."""
    made = loops(null_model(tmp_path / "null.onnx"))
    for name, loop in made.items():
        assert np.isnan(loop(7)) == (name in (BARE, "the call of a session"))


def cost(added_us: float) -> LoopCost:
    """A loop that adds so much."""
    return LoopCost(Interval(5, 4, 6, 0.95), Interval(added_us, added_us, added_us, 0.95), None)


def test_a_loop_that_costs_more_misses_the_goal() -> None:
    """The goal holds for each loop and each clock, and the bare call has none."""
    good, bad = cost(GOAL_US / 2), cost(GOAL_US * 2)
    found = findings({"wall": {BARE: good, "a": good}, "thread": {BARE: good, "a": bad}})
    assert [one.reached for one in found] == [None, True, None, False]


def test_the_suite_writes_its_result(tmp_path: Path) -> None:
    """It ends with 0 or 1, and its JSON has every loop."""
    out = tmp_path / "h.json"
    assert main(["--rounds", "8", "--count", "20", "--out", str(out)]) in (0, 1)
    assert "single stream" in out.read_text()
