"""Candidates of a timing: sessions that are opened again and again, in another order each time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from retort.benchmarks.small_networks import make_nets
from retort.benchmarks.timing.candidates import Bench, Candidate
from retort.core.session import Session, open_session


def test_sessions_are_opened_in_another_order_each_time(tmp_path: Path) -> None:
    """Each of two candidates is opened first about half of the time, the same way for one seed, and named as given."""
    model = make_nets(tmp_path)[1]
    feeds = {"image": np.zeros((1, 3, 32, 32), np.float32)}
    opened = list[str]()

    def opener(name: str) -> Callable[[], Session]:
        def made() -> Session:
            opened.append(name)
            return open_session(model)

        return made

    candidates: dict[str, Candidate] = {name: (opener(name), feeds) for name in ("file", "itself")}
    orders = []
    for _ in range(2):
        opened.clear()
        bench = Bench(candidates, batch=1, seed=5)
        for _ in range(20):
            assert list(bench.open()) == ["file", "itself"]
        bench.close()
        orders.append(opened[::2])
    assert orders[0] == orders[1]
    assert 5 <= orders[0].count("file") <= 15
