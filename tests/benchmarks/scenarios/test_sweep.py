"""The Pareto front of a sweep, and its numbers of threads."""

from __future__ import annotations

import numpy as np

from retort.benchmarks.scenarios.sweep import default_threads, pareto


def test_the_front_is_what_nothing_dominates() -> None:
    """A point is on the front if and only if no other has lower latency and more throughput."""
    points = {index: (float(x), float(y)) for index, (x, y) in enumerate(np.random.default_rng(1).random((200, 2)))}
    found = pareto(points)
    for index, (latency, throughput) in points.items():
        better = [
            other
            for other, (x, y) in points.items()
            if other != index and x <= latency and y >= throughput and (x, y) != (latency, throughput)
        ]
        assert (index in found) == (not better)
    assert pareto({}) == set()
    assert pareto({7: (1.0, 1.0), 8: (1.0, 2.0)}) == {8}


def test_threads_go_up_to_the_processors() -> None:
    """They double, and the last number is that of the processors that may be used."""
    assert default_threads(1.0) == (1,)
    assert default_threads(6.5) == (1, 2, 4, 6)
    assert default_threads(0.5) == (1,)
    assert default_threads(8) == (1, 2, 4, 8)
