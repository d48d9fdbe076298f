"""Raw times survive their compact form exactly, at any size, and damaged text is refused."""

from __future__ import annotations

import base64
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from known import known

from retort.benchmarks import raw_times
from retort.benchmarks.edge.runner.slots import Plan
from retort.benchmarks.raw_times import RawTimes, decoded, encoded
from retort.benchmarks.timing.blocks import Block
from retort.core.errors import ArtifactError

DRAW = np.random.default_rng(0)


@pytest.mark.parametrize(
    "values", [[0], [5, 5, 5], [2**62, -(2**62), 0], list(range(1000, 0, -1)), [127, 128, 16383, 16384]]
)
def test_numbers_come_back_exactly(values: list[int]) -> None:
    """Whole numbers of any size and order are the same after they were written and read."""
    assert decoded(encoded(np.array(values)), len(values)).tolist() == values


def test_a_hundred_thousand_readings_take_less_than_400_kb() -> None:
    """The size that the documentation promises holds for times that scatter by 30 %."""
    times = (5e5 * DRAW.lognormal(0, 0.3, raw_times.MOST)).astype(np.int64)
    text = encoded(times)
    assert len(text) < 400_000
    assert np.array_equal(decoded(text, len(times)), times)


@pytest.mark.parametrize(
    "text",
    [
        "", "?", base64.b64encode(b"abc").decode(), encoded(np.arange(4))[:-6],
        base64.b64encode(zlib.compress(b"\x80" * 12 + b"\x01")).decode(),
        base64.b64encode(zlib.compress(b"\x80")).decode(), encoded(np.arange(50)),
        base64.b64encode(zlib.compress(bytes(50_000_000))).decode(),
    ],
)  # fmt: skip
def test_damaged_text_is_refused(text: str) -> None:
    """Text that is cut, no base64, too long, endless or a bomb is one error, and is never unpacked beyond its limit."""
    with pytest.raises(ArtifactError, match="raw times are damaged"):
        decoded(text, 5)


def test_the_decoder_of_the_reference_reads_them() -> None:
    """The few lines of Python in the reference give the same numbers, without our package."""
    page = (Path(__file__).parents[2] / "docs/reference/results.md").read_text(encoding="utf-8")
    found: dict[str, Any] = {}
    exec(page.partition("```python\n")[2].partition("```")[0], found)
    values = [7, 300, -5, 2**40, 0]
    assert found["decoded"](encoded(np.array(values))) == values


def blocks(rounds: int, slots: int, groups: int, calls: int, cpu: bool) -> list[Block]:
    """Blocks with whole nanoseconds per reading."""
    made = []
    for _ in range(rounds):
        wall = DRAW.integers(1_000, 9_000, slots * groups) / calls
        spent = DRAW.integers(1_000, 9_000, slots) / (calls * groups)
        made.append(Block(spent, DRAW.random(slots) < 0.3, wall, cpu))
    return made


@pytest.mark.parametrize(("groups", "calls", "cpu"), [(1, 1, True), (1, 7, True), (3, 2, False)])
def test_rounds_come_back(groups: int, calls: int, cpu: bool) -> None:
    """Every block has the same slots, interruptions, readings and value as the one that was timed."""
    timed = blocks(6, 20, groups, calls, cpu)
    raw = known(raw_times.raw_times(timed, 1, Plan(calls, 20, groups), seed=3))
    assert (raw.rounds, raw.spoiled, raw.seed, raw.order) == (6, 1, 3, "time")
    for one, again in zip(timed, RawTimes.model_validate_json(raw.model_dump_json()).blocks(), strict=True):
        assert np.array_equal(one.calls, again.calls)
        assert np.array_equal(one.interrupted, again.interrupted)
        assert (one.value, one.wall) == (again.value, again.wall)


def test_many_readings_are_kept_by_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the limit the readings stay, but in order of size, and no rounds are made of them."""
    monkeypatch.setattr(raw_times, "MOST", 50)
    timed = blocks(4, 20, 1, 1, True)
    raw = known(raw_times.raw_times(timed, 0, Plan(1, 20), seed=0))
    assert raw.order == "size"
    assert raw.blocks() == []
    every = np.sort(np.concatenate([block.calls for block in timed])) / 1e6
    assert np.array_equal(raw.calls_ms(), every)
    assert raw_times.raw_times([*timed, *blocks(1, 3, 1, 1, True)], 0, Plan(1, 20), seed=0) is None
