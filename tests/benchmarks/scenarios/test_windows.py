"""Windows in random order, and the warm-up before them."""

from __future__ import annotations

import numpy as np
import pytest

from retort.benchmarks.scenarios.query_loops import Served
from retort.benchmarks.scenarios.windows import ALIKE, WARMUP_BLOCKS, Ask, interleaved, steady, warmed_up


def taking(times_ms: list[float], order: list[str], name: str) -> Ask:
    """A candidate whose windows have these medians, one after the other; the last one stays."""

    def ask(length_s: float, seed: int) -> Served:
        order.append(name)
        value = times_ms.pop(0) if len(times_ms) > 1 else times_ms[0]
        return Served(np.full(3, 1e6 * value), 0, length_s, np.zeros(0))

    return ask


def test_every_round_has_each_candidate_once_in_another_order() -> None:
    """A drift of the machine meets all candidates, and a seed repeats the order."""
    order: list[str] = []
    asks = {name: taking([1.0], order, name) for name in "abc"}
    found = interleaved(asks, 0.1, 40, seed=5)
    rounds = [order[start : start + 3] for start in range(0, 120, 3)]
    assert all(sorted(one) == ["a", "b", "c"] for one in rounds)
    assert len({tuple(one) for one in rounds}) == 6
    assert [window.place for window in found["a"]] == [one.index("a") for one in rounds]
    before, order[:] = list(order), []
    interleaved(asks, 0.1, 40, seed=5)
    assert order == before


def test_it_ends_after_a_whole_round() -> None:
    """What ends a run early ends it between two rounds."""
    order: list[str] = []
    found = interleaved({"a": taking([1.0], order, "a"), "b": taking([1.0], order, "b")}, 0.1, 9, until=lambda: True)
    assert len(found["a"]) == len(found["b"]) == 1


def test_complete_rounds_survive_ctrl_c() -> None:
    """An interrupted round is left out and the rounds before it are kept; without any, the interruption goes on."""
    order: list[str] = []

    def stopping(length_s: float, seed: int) -> Served:
        if len(order) >= 5:
            raise KeyboardInterrupt
        return taking([1.0], order, "b")(length_s, seed)

    found = interleaved({"a": taking([1.0], order, "a"), "b": stopping}, 0.1, 9)
    assert found.interrupted
    assert len(found["a"]) == len(found["b"]) in (2, 3)
    with pytest.raises(KeyboardInterrupt):
        interleaved({"b": stopping}, 0.1, 9)


def test_warm_up_lasts_until_the_times_are_steady() -> None:
    """The curve is kept: a candidate that becomes fast late is asked longer, and one that never does is given up."""
    order: list[str] = []
    asks = {
        "steady": taking([1.0], order, "steady"),
        "late": taking([9.0, 7.0, 5.0, 3.0, 1.0], order, "late"),
        "never": taking([float(1 + number % 2) for number in range(200)], order, "never"),
    }
    found = warmed_up(asks, 1e9)
    assert found["steady"] == (1.0,) * ALIKE
    assert found["late"] == (9.0, 7.0, 5.0, 3.0, 1.0, 1.0, 1.0)
    assert len(found["never"]) == WARMUP_BLOCKS
    assert all(len(curve) == 1 for curve in warmed_up(asks, -1.0).values())


def test_steady_looks_at_the_last_values() -> None:
    """Earlier values do not count, and fewer than three are not enough."""
    assert steady([9.0, 1.0, 1.02, 1.04])
    assert not steady([1.0, 1.0])
    assert not steady([1.0, 1.0, 1.1])
