"""A ratio of two times: its verdict, its text, and its JSON."""

from __future__ import annotations

import json
import math

import pytest

from retort.core.metrics.ratio import Ratio, mean_of


@pytest.mark.parametrize(
    ("low", "high", "doubts", "verdict", "why"),
    [
        (1.01, 1.2, (), "faster", ""),
        (0.8, 0.99, (), "slower", ""),
        (0.99, 1.2, (), "cannot tell", "the interval contains 1"),
        (None, None, (), "cannot tell", "too few rounds were timed for an interval"),
        (1.5, 1.7, ("the machine was busy",), "cannot tell", "the machine was busy"),
    ],
)
def test_a_verdict_needs_a_valid_measurement_with_its_whole_interval_on_one_side(
    low: float | None, high: float | None, doubts: tuple[str, ...], verdict: str, why: str
) -> None:
    """There are three verdicts, and "cannot tell" has a reason: the interval, too few rounds, or noise."""
    ratio = Ratio(1.1, low, high, 0.95, doubts=doubts)
    assert (ratio.verdict, ratio.why_undecided) == (verdict, why)


def test_open_ends_are_null_in_json_and_words_in_text() -> None:
    """An unknown end is never written as zero or infinity; a ratio that is read again is equal."""
    ratio = Ratio(2.25, None, None, 0.95, "int8", "fp32", 3, "thread", 2.1, ("few",))
    text = json.dumps(ratio.to_dict(), allow_nan=False)
    assert Ratio.from_dict(json.loads(text)) == ratio
    assert ratio.text == "2.25 (not bounded: too few rounds)"
    assert Ratio(3.12, 3.05, 3.2, 0.95).text == "3.12 (3.05 to 3.20)"
    assert math.isinf(ratio.half_width)


def test_a_plain_interval_is_read_as_a_ratio() -> None:
    """Files of earlier versions have value, ends and confidence, with zero or infinity for unknown ends."""
    old = {"value": 2.0, "low": 0.0, "high": math.inf, "confidence": 0.95}
    assert Ratio.from_dict(old) == Ratio(2.0, None, None, 0.95)
    assert Ratio.from_dict({**old, "low": 1.9, "high": 2.1}) == Ratio(2.0, 1.9, 2.1, 0.95)


def test_the_mean_of_ratios_is_geometric() -> None:
    """Twice as fast and half as fast have the mean 1."""
    assert mean_of([Ratio(2.0, None, None, 0.95), Ratio(0.5, None, None, 0.95)]) == pytest.approx(1.0)


def test_a_small_bound_is_not_written_as_zero() -> None:
    """An end that would round to 0.00 keeps its digits, and an end that was not measured has no number."""
    assert Ratio(2.16, 0.0031, 3.5, 0.95).span == "0.0031 to 3.50"
    assert Ratio(2.16, None, 3.5, 0.95).span == "not bounded to 3.50"
