"""The Pareto front, and which cost is drawn against the metric."""

from __future__ import annotations

import pytest
from drawn_results import drawn_result

from retort.benchmarks.report.drawing import compact_path
from retort.benchmarks.report.tradeoff_plots import front, tradeoffs


@pytest.mark.parametrize(
    ("costs", "gains", "kept"),
    [
        ([1, 2, 3], [1, 2, 3], [0, 1, 2]),
        ([1, 2, 3], [3, 2, 1], [0]),
        ([1, 1], [2, 2], [0, 1]),
        ([1, 1], [2, 1], [0]),
        ([2, 1, 3], [5, 4, 5], [0, 1]),
    ],
)
def test_the_front_is_what_nothing_beats(costs: list[float], gains: list[float], kept: list[int]) -> None:
    """A candidate is left out where another one costs no more and gains no less, and differs."""
    assert front(costs, gains) == kept


def test_the_percentile_is_drawn_where_it_is_known() -> None:
    """With enough calls the metric stands against the 99th percentile, with too few against the time of a call."""
    assert [plot.title for plot in tradeoffs(drawn_result())] == ["accuracy against p99", "accuracy against size"]
    few = drawn_result(rounds=4, slots=4)
    assert [plot.title for plot in tradeoffs(few)] == ["accuracy against latency", "accuracy against size"]
    assert tradeoffs(drawn_result(accuracy=False)) == []
    assert tradeoffs(drawn_result(("only",))) == []


@pytest.mark.parametrize(
    ("path", "short"),
    [
        ("M 1.04 2.06  L 3 4  L 3.1 2 ", "M1 2.1l2 1.9l0.1-2"),
        ("M 1 1 L 1 1 M 2.5 3 L 2.5 3", "M1 1h0m1.5 2h0"),
        ("M 0 0 L 5 0 L 5 5 z", "M0 0l5 0l0 5z"),
        ("M 0 1.234 C 1 2 3 4 5 6.789 z", "M 0 1.2 C 1 2 3 4 5 6.7 z"),
    ],
)
def test_paths_are_short_and_the_same(path: str, short: str) -> None:
    """A path of lines becomes steps of tenths of a pixel that do not add up their rounding; a curve stays absolute."""
    assert compact_path(path) == short
