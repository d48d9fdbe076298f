"""Gates compare a whole interval with a bound and state the verdict in one sentence."""

from __future__ import annotations

import json
import math

import pytest

from retort.core.metrics.intervals import Interval
from retort.core.metrics.task_metrics import is_labelled, metric_of, metrics_for
from retort.core.options.metric_names import DEFAULT_METRICS, EXAMPLES, WORDS
from retort.core.options.stage_options import Gate
from retort.pipeline.gates import judge

DROP = Gate(after="prune", accuracy_drop=0.02)
SPEED = Gate(after="export", speedup=2.0, batch_size=32)


@pytest.mark.parametrize(
    ("low", "high", "verdict"), [(-0.01, 0.019, "passed"), (0.021, 0.05, "failed"), (0.0, 0.03, "cannot tell")]
)
def test_drop_is_judged_by_its_interval(low: float, high: float, verdict: str) -> None:
    """A drop passes only when its whole interval is within the bound, and fails only when it is wholly outside."""
    result = judge(DROP, Interval((low + high) / 2, low, high, 0.95), "train", "accuracy")
    assert (result.verdict, result.passed) == (verdict, verdict == "passed")


def test_speedup_is_a_lower_bound() -> None:
    """A speed-up passes when its lower limit reaches the bound."""
    assert judge(SPEED, Interval(2.3, 2.1, 2.5, 0.95), "train", "accuracy").passed
    assert judge(SPEED, Interval(2.1, 1.9, 2.3, 0.95), "train", "accuracy").verdict == "cannot tell"


@pytest.mark.parametrize(("value", "verdict"), [(2.02, "cannot tell"), (1.98, "cannot tell"), (2.2, "passed")])
def test_a_speedup_as_close_to_its_bound_as_a_file_to_itself_is_undecided(value: float, verdict: str) -> None:
    """Where a file differs from itself by 3 %, a narrow interval within 3 % of the bound decides nothing."""
    interval = Interval(value, value - 0.01, value + 0.01, 0.95)
    assert judge(SPEED, interval, "train", "accuracy").verdict == ("passed" if value > 2 else "failed")
    found = judge(SPEED, interval, "train", "accuracy", noise_floor=0.03)
    assert found.verdict == verdict
    assert ("differences up to 3.0% between a file and itself" in found.sentence) == (verdict == "cannot tell")


def test_sentence_names_stage_number_and_interval() -> None:
    """The sentence of a missed gate names the stage, the number, the interval and the bound."""
    sentence = judge(DROP, Interval(0.031, 0.021, 0.045, 0.95), "train", "accuracy").sentence
    for part in ("after prune", "3.10 pp", "2.10, 4.50", "95%", "2 pp", "MISSED"):
        assert part in sentence


@pytest.mark.parametrize(("metric", "lost", "bound"), [("sqnr", "3.5 dB", "2 dB"), ("mse", "3.5 [", "2:")])
def test_units_of_metrics_are_their_own(metric: str, lost: str, bound: str) -> None:
    """A loss of SQNR is stated in dB, an error as a number, and neither in percentage points."""
    gate = Gate(after="prune", accuracy_drop=2.0)
    sentence = judge(gate, Interval(3.5, 3.0, 4.0, 0.95), "train", metric).sentence
    assert f"worse by {lost}" in sentence
    assert f"at most {bound}" in sentence
    assert " pp" not in sentence


def test_a_better_metric_is_a_gain() -> None:
    """Nothing is lost by a negative number of points; the interval is that of the gain."""
    sentence = judge(DROP, Interval(-0.33, -0.35, -0.30, 0.95), "train", "accuracy").sentence
    assert "gained 33.00 pp [30.00, 35.00]" in sentence
    assert "passed" in sentence


def test_an_error_rate_that_grew_is_worse() -> None:
    """A character error rate has percentage points and the direction of an error, in gates as in tables."""
    result = judge(DROP, Interval(0.33, 0.30, 0.35, 0.95), "train", "cer")
    assert result.verdict == "failed"
    assert "cer lost 33.00 pp" not in result.sentence
    assert "cer worse by 33.00 pp [30.00, 35.00]" in result.sentence


def test_the_table_of_metrics_is_the_only_one() -> None:
    """It has every metric that a recipe takes, and the metrics of a task begin with those that need targets."""
    for name in (*WORDS, *EXAMPLES.values()):
        assert metric_of(name).tasks, name
    assert metrics_for("regression") == ("mse", "mae", "r2", "pearson", "spearman", "cosine", "sqnr")
    for task, default in DEFAULT_METRICS.items():
        names = metrics_for(task)
        labelled = [is_labelled(name) for name in names]
        assert default in names
        assert labelled == sorted(labelled, reverse=True)


def test_a_noisy_measurement_passes_and_misses_no_gate() -> None:
    """For any interval, a NOISY ratio is "cannot tell", and the sentence states the noise."""
    for interval in (Interval(64.0, 44.0, 84.0, 0.95), Interval(1.0, 0.9, 1.1, 0.95)):
        result = judge(SPEED, interval, "train", "accuracy", ["blocks scatter by 40 %"])
        assert (result.verdict, result.passed) == ("cannot tell", False)
        assert result.sentence.endswith("CANNOT TELL, because the measurement is NOISY: blocks scatter by 40 %")


def test_an_open_interval_is_null_and_said() -> None:
    """A ratio without an interval is "cannot tell"; JSON has null, and the sentence no infinity."""
    result = judge(SPEED, Interval(2.3, -math.inf, math.inf, 0.95), "train", "accuracy")
    assert result.verdict == "cannot tell"
    assert (result.low, result.high) == (None, None)
    json.dumps(result.to_dict(), allow_nan=False)
    assert "not bounded to not bounded" in result.sentence
    assert "not bounded: measure longer" in result.sentence
