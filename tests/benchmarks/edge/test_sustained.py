"""A timing without a break is ranked by its end, and what became slower is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from retort.benchmarks.edge.pulled_results import Part, Pulled
from retort.benchmarks.edge.sustained import lines_of, sustained


def pulled(folder: Path, **times_ms: list[float]) -> Pulled:
    """A run of ten minutes with a round every ten seconds, and the time of each model in each minute."""
    moments = np.arange(0, 600, 10.0)
    raw: dict[str, Any] = {"moments": moments + 1234.5}
    for name, by_minute in times_ms.items():
        values = np.repeat(by_minute, 6)
        raw[f"spent:{name}"] = (values[:, None] * np.array([[1.0, 1.01, 0.99]]) * 1e6).astype(np.float32)
    np.savez(folder / "sustain.npz", allow_pickle=False, **raw)
    part = Part("sustain", {"plans": {name: {} for name in times_ms}}, folder / "sustain.npz")
    return Pulled(folder, {}, {}, "finished", "", {"sustain": part})


def test_the_ranking_is_that_of_the_last_minute(tmp_path: Path) -> None:
    """A model that is fastest at first and slows down in the heat is second at the end."""
    found = sustained(pulled(tmp_path, hot=[1.0] * 3 + [3.0] * 7, steady=[2.0] * 10))
    assert [(one.name, round(one.last_ms, 2), round(one.slowdown, 2)) for one in found] == [
        ("steady", 2.0, 1.0),
        ("hot", 3.0, 3.0),
    ]
    assert lines_of(found) == [
        "after 9.8 min without a break: steady 2 ms, hot 3 ms",
        "at the beginning the order was hot, steady",
        "hot took 3.00 times as long at the end as at the beginning",
    ]


def test_a_steady_device_has_one_line(tmp_path: Path) -> None:
    """Nothing is said of what did not change, and nothing without such a timing."""
    assert len(lines_of(sustained(pulled(tmp_path, a=[1.0] * 10, b=[1.5] * 10)))) == 1
    assert sustained(Pulled(tmp_path, {}, {}, "finished", "", {})) == []
    assert lines_of([]) == []
