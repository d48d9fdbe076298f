"""Single checks of a gate: what each interval decides, and in which words."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from retort.benchmarks.gating.regression_checks import (
    Outcome,
    check_accuracy,
    check_latency,
    check_size,
    overall,
    slowdown_percent,
)
from retort.benchmarks.timing.statistics import ratio_interval
from retort.core.metrics.intervals import Interval
from retort.core.metrics.ratio import Ratio

TIMES = (1.0, 1.05)


def slowed(low: float, value: float, high: float) -> Ratio:
    """The ratio of a model that takes so many percent longer, with the interval of the slowdown."""
    return Ratio(1 / (1 + value / 100), 1 / (1 + high / 100), 1 / (1 + low / 100), 0.95)


@pytest.mark.parametrize(
    ("interval", "outcome"),
    [
        ((-1.0, 0.2, 1.5), "passed"),
        ((1.0, 2.5, 4.0), "passed"),
        ((-30.0, -25.0, -20.0), "passed"),
        ((0.5, 3.0, 5.5), "failed"),
        ((4.0, 6.0, 8.0), "failed"),
        ((-1.0, 3.0, 7.0), "cannot tell"),
    ],
)
def test_the_interval_of_the_slowdown_decides(interval: tuple[float, float, float], outcome: str) -> None:
    """Without 5 % in it, it passes; beyond 0 with 5 % in it, it fails; with both in it, it cannot tell."""
    found = check_latency("int8", 4, slowed(*interval), TIMES, 5)
    assert found.outcome == outcome
    assert found.sentence.startswith("int8 at batch 4 takes ")
    assert (found.before, found.after, found.bound) == ("1.00 ms", "1.05 ms", "5 %")
    assert found.value == pytest.approx(interval[1])


def test_a_noisy_or_unbounded_measurement_never_passes() -> None:
    """Doubts make a check invalid, whatever its interval; without an interval it cannot tell."""
    fast = slowed(-3, -2, -1)
    doubtful = check_latency("a", 1, replace(fast, doubts=("THROTTLED: the firmware reduced the clock",)), TIMES, 5)
    assert doubtful.outcome == "invalid"
    assert "THROTTLED: the firmware" in doubtful.sentence
    unbounded = check_latency("a", 1, Ratio(1.0, None, None, 0.95), TIMES, 5)
    assert (unbounded.outcome, unbounded.low, unbounded.high) == ("cannot tell", None, None)
    assert "not bounded" in unbounded.change


def test_a_slowdown_within_the_noise_floor_does_not_fail() -> None:
    """Where a file differs from itself by 4 %, a slowdown of 3 % that is certain otherwise is not."""
    ratio = slowed(1, 3, 5.5)
    assert check_latency("a", 1, replace(ratio, noise_floor=0.04), TIMES, 5).outcome == "cannot tell"
    assert check_latency("a", 1, ratio, TIMES, 5).outcome == "failed"
    near = slowed(2.9, 3, 3.1)  # 2 % from the bound of 5 %
    assert check_latency("a", 1, replace(near, noise_floor=0.04), TIMES, 5).outcome == "cannot tell"
    assert check_latency("a", 1, replace(near, noise_floor=0.01), TIMES, 5).outcome == "passed"


def test_the_slowdown_is_the_reciprocal_of_the_ratio() -> None:
    """Half as fast is 100 % longer, with the ends exchanged."""
    found = slowdown_percent(Ratio(0.5, 0.4, 0.8, 0.9))
    assert (found.value, found.low, found.high) == pytest.approx((100, 25, 150))
    assert math.isinf(slowdown_percent(Ratio(1.0, None, 1.1, 0.9)).high)


def test_five_percent_are_found_and_equal_models_do_not_fail() -> None:
    """Of 300 simulations with bursts, a slowdown of 5 % fails in at least 97 %, equal times in at most 3 %."""
    rng = np.random.default_rng(5)
    outcomes: dict[float, list[Outcome]] = {1.0: [], 1.05: []}
    for seed in range(300):
        shared = np.where(rng.random(24) < 0.5, 1.3, 1.0)
        noise = shared * rng.lognormal(0, 0.012, (2, 24))
        for factor, found in outcomes.items():
            ratio = ratio_interval(noise[0].tolist(), (factor * noise[1]).tolist(), 0.95, seed, 24)
            found.append(check_latency("a", 1, ratio, TIMES, 5).outcome)
    assert np.mean([outcome == "failed" for outcome in outcomes[1.0]]) <= 0.03
    assert np.mean([outcome == "failed" for outcome in outcomes[1.05]]) >= 0.97


@pytest.mark.parametrize(
    ("low", "high", "outcome"), [(-0.01, 0.01, "passed"), (0.011, 0.03, "failed"), (0.0, 0.02, "cannot tell")]
)
def test_the_whole_interval_of_a_loss_must_be_within_the_bound(low: float, high: float, outcome: str) -> None:
    """A loss passes if its interval ends at the bound, fails if it begins beyond it, and else cannot tell."""
    found = check_accuracy("int8", "accuracy", (0.9, 0.89), Interval((low + high) / 2, low, high, 0.95), 0.01)
    assert (found.outcome, found.bound) == (outcome, "1 pp")
    assert (found.before, found.after) == ("90.00 %", "89.00 %")


def test_files_may_grow_by_the_bound() -> None:
    """A file of 104 bytes instead of 100 is allowed with 5 %, and not with 0 %."""
    assert check_size("a", (100, 104), 5).outcome == "passed"
    grown = check_size("a", (100, 104), 0)
    assert (grown.outcome, grown.change) == ("failed", "+4.0 %")
    assert check_size("a", (100, 60), 0).outcome == "passed"


def test_a_failure_outweighs_what_is_not_known() -> None:
    """All must pass; a failed check makes the gate fail, an invalid one comes before an undecided one."""
    passed, failed = check_size("a", (1, 1), 0), check_size("a", (1, 2), 0)
    unsure, noisy = replace(passed, outcome="cannot tell"), replace(passed, outcome="invalid")
    assert overall([passed, passed]) == "passed"
    assert overall([passed, unsure]) == "cannot tell"
    assert overall([unsure, noisy]) == "invalid"
    assert overall([noisy, failed, unsure]) == "failed"
