"""Percentiles, ratios and their intervals."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from known import known

from retort.benchmarks.timing import statistics

LOADGEN = """
import random, sys, time
import mlperf_loadgen as loadgen
random.seed(1)
def issue(queries):
    for query in queries:
        time.sleep(random.choice([2e-5, 1e-4, 4e-4]))
        loadgen.QuerySamplesComplete([loadgen.QuerySampleResponse(query.id, 0, 0)])
settings = loadgen.TestSettings()
settings.scenario, settings.mode = getattr(loadgen.TestScenario, sys.argv[3]), loadgen.TestMode.PerformanceOnly
settings.multi_stream_samples_per_query = 1
settings.min_duration_ms, settings.min_query_count, settings.max_query_count = 1, int(sys.argv[2]), int(sys.argv[2])
logs, output = loadgen.LogSettings(), loadgen.LogOutputSettings()
output.outdir, logs.log_output, logs.enable_trace = sys.argv[1], output, True
samples = loadgen.ConstructQSL(64, 64, lambda x: None, lambda x: None)
loadgen.StartTestWithLogSettings(loadgen.ConstructSUT(issue, lambda: None), samples, settings, logs)
"""


@pytest.mark.parametrize(
    ("percentile", "needed"),
    [
        (50, [7, 11, 14, 22, 35]),
        (90, [44, 64, 81, 127, 197]),
        (95, [90, 130, 165, 259, 398]),
        (97, [152, 219, 277, 433, 667]),
        (99, [459, 662, 838, 1307, 2010]),
        (99.9, [4603, 6636, 8403, 13105, 20140]),
    ],
)
def test_samples_needed_are_those_of_loadgen(percentile: float, needed: list[int]) -> None:
    """The table of benchmarks.md 2.2 is reproduced exactly, for 0, 1, 2, 5 and 10 discarded samples."""
    assert [statistics.samples_needed(percentile, discarded) for discarded in (0, 1, 2, 5, 10)] == needed


@pytest.mark.parametrize(
    ("scenario", "percentile", "count"),
    [
        ("SingleStream", 90, 64),
        ("SingleStream", 90, 65),
        ("SingleStream", 90, 300),
        ("MultiStream", 99, 662),
        ("MultiStream", 99, 837),
        ("MultiStream", 99, 1500),
    ],
)
def test_bound_equals_loadgen_on_the_same_latencies(
    scenario: str, percentile: float, count: int, tmp_path: Path
) -> None:
    """LoadGen's early-stopping estimates of p90 and p99 equal our bounds to the nanosecond, on its own latencies."""
    pytest.importorskip("mlperf_loadgen", reason="mlcommons-loadgen is not installed")
    command = [sys.executable, "-c", LOADGEN, str(tmp_path), str(count), scenario]
    subprocess.run(command, check=True, capture_output=True)
    trace = (tmp_path / "mlperf_log_trace.json").read_text()
    times = re.findall(r'"issue_start_ns":(\d+),"complete_ns":(\d+)', trace)
    latencies = np.array([int(end) - int(start) for start, end in times], float)
    assert len(latencies) == count
    log = (tmp_path / "mlperf_log_detail.txt").read_text().splitlines()
    key = re.compile(r'"early_stopping_latency_\w+"')
    told = [json.loads(line.removeprefix(":::MLLOG ")) for line in log if key.search(line)]
    assert statistics.percentile_bound(latencies, percentile) == told[0]["value"]


def test_percentile_is_withheld_when_samples_are_too_few() -> None:
    """With 661 samples there is a p90 but no p99, and the message has the number that is needed."""
    samples = np.random.default_rng(0).lognormal(size=661)
    p90, p99 = statistics.percentile_interval(samples, 90), statistics.percentile_interval(samples, 99)
    assert known(p90.low) <= known(p90.value) <= known(p90.high)
    assert (p99.value, p99.low, p99.high, p99.needed) == (None, None, None, 662)
    assert statistics.percentile_bound(samples[:43], 90) is None
    assert statistics.percentile_bound(samples[:44], 90) == samples[:44].max()


@pytest.mark.parametrize("percentile", [50.0, 90.0, 99.0])
def test_percentile_interval_covers_heavy_tails(percentile: float) -> None:
    """The 99 % interval contains the true percentile of a Pareto law in 99 % of 1,000 runs; few have no interval."""
    runs = np.random.default_rng(2).pareto(1.5, size=(1000, 700))
    truth = (1 - percentile / 100) ** (-1 / 1.5) - 1
    found = [statistics.percentile_interval(run, percentile) for run in runs]
    given = [(item.low, item.high) for item in found if item.low is not None and item.high is not None]
    assert len(given) >= 970
    assert np.mean([low <= truth <= high for low, high in given]) >= 0.982


def test_binomial_test_equals_scipy() -> None:
    """The cumulative binomial behind the percentiles agrees with scipy's for small and for large n."""
    binomial = pytest.importorskip("scipy.stats").binom
    for n in (7, 662, 30_000):
        assert statistics._binomial_cdf(n, 0.01) == pytest.approx(binomial.cdf(np.arange(n + 1), n, 0.01), abs=1e-9)


def test_ratio_interval_covers_the_truth_under_shared_disturbance() -> None:
    """If disturbances of a round affect both candidates, the 95 % interval of the ratio has at least 93 % coverage."""
    rng = np.random.default_rng(4)
    held, width = 0, []
    for seed in range(300):
        shared = rng.lognormal(0, 0.1, 30)
        reference = 2.0 * shared * rng.lognormal(0, 0.05, 30)
        candidate = 1.0 * shared * rng.lognormal(0, 0.05, 30)
        ratio = statistics.ratio_interval(reference.tolist(), candidate.tolist(), 0.95, seed)
        held += known(ratio.low) <= 2.0 <= known(ratio.high)
        width.append(ratio.half_width)
    assert held / 300 >= 0.93
    assert np.median(width) < 0.1


@pytest.mark.parametrize("rounds", [8, 16, 32])
def test_a_machine_with_two_states_gives_the_ratio_of_the_undisturbed_one(rounds: int) -> None:
    """If most rounds are slowed down, one model more than the other, the intervals contain the undisturbed ratio."""
    rng = np.random.default_rng(3)
    held, values = 0, []
    for seed in range(300):
        slow = rng.random((2, rounds)) < 0.55
        reference = 2.2 * np.where(slow[0], 1.2, 1.0) * rng.lognormal(0, 0.01, rounds)
        candidate = np.where(slow[1], 1.45, 1.0) * rng.lognormal(0, 0.01, rounds)
        ratio = statistics.ratio_interval(reference.tolist(), candidate.tolist(), 0.95, seed)
        held += known(ratio.low) <= 2.2 <= known(ratio.high)
        values.append(ratio.value)
    assert held / 300 >= 0.93
    assert np.median(values) == pytest.approx(2.2, rel=0.02)


def test_few_rounds_give_no_interval() -> None:
    """Five rounds are too few for 95 % confidence: the interval has no ends and there is no verdict."""
    ratio = statistics.ratio_interval([2.0] * 5, [1.0] * 5, 0.95)
    assert ratio.value == pytest.approx(2.0)
    assert (ratio.low, ratio.high, ratio.verdict) == (None, None, "cannot tell")
    assert statistics.ratio_interval([2.0] * 6, [1.0] * 6, 0.95).verdict == "faster"


def test_sign_flip_p_is_uniform_without_effect_and_small_with_one() -> None:
    """Without an effect p falls below 0.05 in about 5 % of the cases; a clear effect gives a small p."""
    rng = np.random.default_rng(6)
    nothing = [statistics.sign_flip_p(rng.normal(size=25), seed) for seed in range(300)]
    assert 0.02 <= np.mean(np.array(nothing) <= 0.05) <= 0.085
    assert statistics.sign_flip_p(rng.normal(0.5, 0.1, size=25)) < 0.001


def test_sessions_that_are_opened_often_give_narrower_intervals() -> None:
    """A session that was opened once may differ by 1 % for one file; a hundred openings are a part of the rounds."""
    times = np.random.default_rng(0).lognormal(0, 1e-4, 60).tolist()
    widths = [statistics.ratio_interval(times, times, 0.95, 0, openings).half_width for openings in (1, 16, 100)]
    assert widths == pytest.approx([0.01, 0.005, 0.002], rel=0.01)
