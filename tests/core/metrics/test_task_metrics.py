"""Metrics, their intervals, and the paired comparison."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retort.core.errors import DataError, UserError
from retort.core.metrics import task_metrics
from retort.core.metrics.intervals import Interval, bootstrap, paired_proportions, wilson
from retort.core.options.stage_options import MetricName
from retort.core.tensors import Array

sklearn = pytest.importorskip("sklearn.metrics")


def scores(rng: np.random.Generator, n: int, classes: int, skill: float = 2.0) -> tuple[np.ndarray, np.ndarray]:
    """Random class scores that favour the right class by ``skill``."""
    targets = rng.integers(0, classes, n)
    outputs = rng.normal(size=(n, classes)).astype(np.float32)
    outputs[np.arange(n), targets] += skill
    return outputs, targets


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 80), st.integers(2, 9), st.integers(0, 10_000))
def test_class_metrics_equal_scikit_learn(n: int, classes: int, seed: int) -> None:
    """Accuracy, top-5 and the macro metrics agree with scikit-learn, also if classes are missing."""
    outputs, targets = scores(np.random.default_rng(seed), n, classes)
    guess = outputs.argmax(axis=1)
    macro = {"average": "macro", "zero_division": 0}
    assert task_metrics.evaluate("accuracy", outputs, targets) == pytest.approx(sklearn.accuracy_score(targets, guess))
    assert task_metrics.evaluate("precision", outputs, targets) == pytest.approx(
        sklearn.precision_score(targets, guess, **macro)
    )
    assert task_metrics.evaluate("recall", outputs, targets) == pytest.approx(
        sklearn.recall_score(targets, guess, **macro)
    )
    assert task_metrics.evaluate("f1", outputs, targets) == pytest.approx(sklearn.f1_score(targets, guess, **macro))
    top5 = np.mean([target in np.argsort(-row, kind="stable")[:5] for row, target in zip(outputs, targets)])
    assert task_metrics.evaluate("top5", outputs, targets) == pytest.approx(top5)


def test_weighted_scores_equal_the_metric_on_repeated_samples() -> None:
    """A scorer with weights equals the metric on samples that are repeated that often."""
    outputs, targets = scores(np.random.default_rng(0), 50, 4)
    weights = np.random.default_rng(1).integers(0, 4, 50)
    chosen = np.repeat(np.arange(50), weights)
    for name in ("accuracy", "top5", "precision", "recall", "f1"):
        weighted = task_metrics.scorer(name, outputs, targets)(weights[None, :].astype(float))[0]
        assert weighted == pytest.approx(task_metrics.evaluate(name, outputs[chosen], targets[chosen])), name


def test_binary_and_dense_outputs_are_understood() -> None:
    """One logit per sample is compared with zero; dense scores are judged per position, for any class axis."""
    logits, targets = np.array([[-1.0], [2.0], [3.0], [-4.0]]), np.array([0, 1, 0, 1])
    assert task_metrics.evaluate("accuracy", logits, targets) == 0.5
    assert task_metrics.evaluate("accuracy", logits[:, 0], targets) == 0.5
    dense = np.random.default_rng(0).normal(size=(5, 3, 7))
    labels = dense.argmax(axis=1)
    assert task_metrics.evaluate("accuracy", dense, labels) == 1.0
    assert task_metrics.evaluate("accuracy", np.moveaxis(dense, 1, -1), labels) == 1.0
    assert task_metrics.metric_interval("accuracy", dense, labels).value == 1.0


def test_constant_scores_are_not_rewarded_by_top_k() -> None:
    """Equal scores rank in class order, so a constant model has the top-5 accuracy of chance."""
    targets = np.arange(10)
    assert task_metrics.evaluate("top5", np.zeros((10, 10)), targets) == 0.5


def test_errors_of_regression() -> None:
    """MSE and MAE are means over all values; a trailing axis of one is ignored."""
    outputs, targets = np.array([[1.0], [2.0], [4.0]]), np.array([1.0, 0.0, 1.0])
    assert task_metrics.evaluate("mse", outputs, targets) == pytest.approx(13 / 3)
    assert task_metrics.evaluate("mae", outputs, targets) == pytest.approx(5 / 3)


def test_sqnr_centred_does_not_flatter_a_constant_part() -> None:
    """A large constant increases the raw SQNR but not the centred one; neither hides a constant error."""
    rng = np.random.default_rng(0)
    signal = rng.normal(size=(400, 5))
    noisy = signal + 0.1 * rng.normal(size=signal.shape)
    assert task_metrics.sqnr_db(signal, noisy) == pytest.approx(20, abs=0.5)
    assert task_metrics.sqnr_db(signal + 100, noisy + 100) == pytest.approx(
        task_metrics.sqnr_db(signal, noisy), abs=1e-6
    )
    assert task_metrics.sqnr_db(signal + 100, noisy + 100, centred=False) > 55
    assert task_metrics.sqnr_db(signal, signal + 1.0) == pytest.approx(0, abs=0.3)
    assert task_metrics.sqnr_db(signal, signal) == math.inf


def test_agreement_and_cosine_compare_with_a_reference() -> None:
    """Agreement counts equal argmax; cosine ignores scale and is 1 for two zero vectors."""
    reference = np.array([[1.0, 2.0], [3.0, 1.0], [0.0, 0.0]])
    other = np.array([[2.0, 4.0], [1.0, 3.0], [0.0, 0.0]])
    assert task_metrics.evaluate("agreement", other, reference) == pytest.approx(2 / 3)
    assert task_metrics.sample_scores("cosine", other, reference) == pytest.approx([1.0, 0.6, 1.0])


def test_wilson_covers_what_it_says() -> None:
    """Averaged over proportions, Wilson's 95 % interval contains the truth in 94 to 97 % of all outcomes."""
    n = 120
    intervals = [wilson(k, n, 0.95) for k in range(n + 1)]
    chances = [coverage(p, n, intervals) for p in np.linspace(0.02, 0.98, 49)]
    assert 0.94 < np.mean(chances) < 0.97
    assert min(chances) > 0.90


def coverage(p: float, n: int, intervals: list[Interval]) -> float:
    """Exact probability that the interval of Bin(n, p) outcomes contains p."""
    chance = [math.comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(n + 1)]
    return sum(c for c, interval in zip(chance, intervals) if interval.low <= p <= interval.high)


@pytest.mark.parametrize(("lost", "gained"), [(0.02, 0.02), (0.03, 0.01), (0.1, 0.05), (0.002, 0.0), (0.3, 0.2)])
def test_paired_interval_covers_with_few_discordant_pairs(lost: float, gained: float) -> None:
    """Tango's 95 % interval for the drop contains the truth in at least 93 % of samples, for any rate of flips."""
    n, rng = 360, np.random.default_rng(3)
    draws = rng.multinomial(n, [lost, gained, 1 - lost - gained], size=4000)[:, :2]
    pairs, counts = np.unique(draws, axis=0, return_counts=True)
    intervals = [paired_proportions(int(b), int(c), n, 0.95) for b, c in pairs]
    held = [interval.low <= lost - gained <= interval.high for interval in intervals]
    covered = np.average(held, weights=counts)
    assert covered > 0.93
    assert covered < 0.975 or lost + gained < 0.01


def test_agreement_on_every_sample_is_no_certainty() -> None:
    """Without a discordant pair among n, the interval allows a drop of z²/(n + z²), which decreases with n."""
    interval = paired_proportions(0, 0, 360, 0.95)
    assert interval.value == 0
    assert interval.high == pytest.approx(1.959964**2 / (360 + 1.959964**2), rel=1e-3)
    assert interval.low == pytest.approx(-interval.high)
    assert paired_proportions(0, 0, 36_000, 0.95).high < interval.high / 90


def test_perfect_macro_scores_are_no_certainty_either() -> None:
    """A macro metric that is perfect, or equal in both models, still has an interval with a width."""
    targets = np.array([0] * 90 + [1] * 10)
    outputs = np.eye(2)[targets]
    assert task_metrics.metric_interval("f1", outputs, targets).low < 0.95
    drop = task_metrics.paired_difference("recall", outputs, outputs, targets)
    assert drop.low < -0.03 < 0.03 < drop.high


def weighted_mean(values: Array, weights: Array) -> Array:
    """Means of the values under each row of weights."""
    return weights @ values / weights.sum(1)


def weighted_ratio(above: Array, below: Array, weights: Array) -> Array:
    """Ratios of two weighted sums under each row of weights."""
    return (weights @ above) / (weights @ below)


def test_bootstrap_covers_what_it_says() -> None:
    """The 95 % BCa interval of a skewed mean and an RMS ratio contains the truth in 93 to 97 % of 500 sets."""
    rng = np.random.default_rng(11)
    held = {"mean": 0, "ratio": 0}
    for trial in range(500):
        values, other = rng.gamma(4.0, 1.0, 80), rng.normal(0, 2.0, 80)
        mean = bootstrap(partial(weighted_mean, values), 80, 0.95, trial, 1000)
        ratio = bootstrap(partial(weighted_ratio, other**2, values), 80, 0.95, trial, 1000)
        held["mean"] += mean.low <= 4.0 <= mean.high
        held["ratio"] += ratio.low <= 1.0 <= ratio.high
    assert 0.93 <= held["mean"] / 500 <= 0.97
    assert 0.925 <= held["ratio"] / 500 <= 0.975


def test_bootstrap_needs_two_samples() -> None:
    """A single sample gives no information about the spread."""
    interval = bootstrap(lambda weights: weights @ np.array([3.0]) / weights.sum(1), 1, 0.95)
    assert (interval.value, interval.low, interval.high) == (3.0, -math.inf, math.inf)


def test_drop_is_positive_when_the_candidate_is_worse() -> None:
    """For accuracy and for errors, a worse candidate has a positive drop, and swapping models negates it."""
    rng = np.random.default_rng(5)
    good, targets = scores(rng, 500, 8, skill=3.0)
    bad = good + 2 * rng.normal(size=good.shape)
    values = rng.normal(size=500)
    near, far = values + 0.1 * rng.normal(size=500), values + 0.5 * rng.normal(size=500)
    names: tuple[MetricName, ...] = ("accuracy", "top5", "precision", "recall", "f1")
    for name in names:
        drop = task_metrics.paired_difference(name, good, bad, targets)
        mirror = task_metrics.paired_difference(name, bad, good, targets)
        assert drop.value > 0, name
        assert drop.value == pytest.approx(-mirror.value)
        assert drop.low == pytest.approx(-mirror.high, abs=0.012)
    errors: tuple[MetricName, ...] = ("mse", "mae")
    for name in errors:
        assert task_metrics.paired_difference(name, near, far, values).low > 0


def test_pairing_sees_what_separate_intervals_cannot() -> None:
    """Two models that differ on few samples are distinguished although their own intervals overlap."""
    rng = np.random.default_rng(7)
    outputs, targets = scores(rng, 4000, 10, skill=2.5)
    worse = outputs.copy()
    right = np.flatnonzero(outputs.argmax(1) == targets)[:40]
    worse[right] = np.roll(worse[right], 1, axis=1)
    first, second = (task_metrics.metric_interval("accuracy", given, targets) for given in (outputs, worse))
    assert second.high > first.low
    drop = task_metrics.paired_difference("accuracy", outputs, worse, targets)
    assert drop.low > 0
    assert drop.value == pytest.approx(0.01, abs=1e-3)


def test_intervals_are_repeatable() -> None:
    """The same seed gives the same interval to the last bit."""
    outputs, targets = scores(np.random.default_rng(2), 200, 3)
    assert task_metrics.metric_interval("f1", outputs, targets, seed=4) == task_metrics.metric_interval(
        "f1", outputs, targets, seed=4
    )


@pytest.mark.parametrize(
    ("name", "outputs", "targets", "words"),
    [
        ("accuracy", np.zeros((3, 2)), np.zeros(4, int), "3 outputs for 4 targets"),
        ("accuracy", np.zeros((0, 2)), np.zeros(0, int), "0 outputs"),
        ("mse", np.array([1.0, np.nan]), np.zeros(2), "NaN or infinite values, first in sample 1"),
        ("accuracy", np.zeros((2, 3)), np.array([0, 3]), "class 3 does not exist: the model knows 0 to 2"),
        ("accuracy", np.zeros((2, 3)), np.array([0, -1]), "class -1 does not exist"),
        ("accuracy", np.zeros((2, 3)), np.array([0.5, 1.0]), "not whole numbers"),
        ("accuracy", np.zeros((2, 3, 4)), np.array([0, 1]), "do not fit class targets"),
        ("cosine", np.zeros((2, 3)), np.zeros((2, 4)), "differ in shape"),
        ("mse", np.zeros((2, 3)), np.zeros((2, 4)), "differ in shape"),
    ],
)
def test_bad_values_are_named(name: MetricName, outputs: np.ndarray, targets: np.ndarray, words: str) -> None:
    """Wrong lengths, shapes, classes and NaN are rejected with the place of the error and a remedy."""
    with pytest.raises(DataError, match=words) as caught:
        task_metrics.evaluate(name, outputs, targets)
    assert caught.value.remedy


def test_unknown_metric_is_refused() -> None:
    """For an unknown metric, the message lists the existing ones."""
    with pytest.raises(UserError, match="no such metric: 'acuracy'") as caught:
        task_metrics.evaluate("acuracy", np.zeros((2, 2)), np.zeros(2, int))
    assert "accuracy" in caught.value.remedy
