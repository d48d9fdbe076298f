"""The scenarios beside those of MLPerf's LoadGen, on one system in this process that takes about as long each time."""

from __future__ import annotations

import io
import itertools
import re
import time
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from retort.benchmarks.peers.peer_formats import import_file
from retort.benchmarks.peers.peer_result import Summary
from retort.benchmarks.scenarios.query_loops import Served, server, stream

pytestmark = pytest.mark.slow
SERVICE_S, RATE, ROUNDS = 0.002, 150.0, 5


def query() -> None:
    """Take as long as the service, without the processor."""
    time.sleep(SERVICE_S)


def asked_by_loadgen(scenario: str, seconds: float, folder: Path, seed: int) -> Summary:
    """The same system asked by LoadGen, as its own log tells it."""
    loadgen: Any = pytest.importorskip("mlperf_loadgen", reason="mlcommons-loadgen is not installed")
    settings = loadgen.TestSettings()
    settings.scenario = getattr(loadgen.TestScenario, scenario)
    settings.mode = loadgen.TestMode.PerformanceOnly
    settings.min_duration_ms, settings.min_query_count = int(1000 * seconds), 100
    settings.server_target_qps, settings.server_target_latency_ns = RATE, 10**9
    settings.schedule_rng_seed = seed

    def issue(queries: Sequence[Any]) -> None:
        for one in queries:
            query()
            loadgen.QuerySamplesComplete([loadgen.QuerySampleResponse(one.id, 0, 0)])

    system = loadgen.ConstructSUT(issue, lambda: None)
    samples = loadgen.ConstructQSL(16, 16, lambda _: None, lambda _: None)
    output, log = loadgen.LogOutputSettings(), loadgen.LogSettings()
    output.outdir, output.copy_summary_to_stdout, log.log_output = str(folder), False, output
    with redirect_stdout(io.StringIO()):
        loadgen.StartTestWithLogSettings(system, samples, settings, log)
    loadgen.DestroyQSL(samples)
    loadgen.DestroySUT(system)
    return import_file(folder / "mlperf_log_detail.txt").runs[0].summary


def percentiles(found: Served) -> dict[float, float]:
    """Ours in milliseconds."""
    return {q: float(np.percentile(found.latencies_ns, q)) / 1e6 for q in (50.0, 90.0)}


def told(summary: Summary) -> dict[float, float]:
    """Those of LoadGen."""
    return {one.percentile: one.value_ms for one in summary.percentiles if one.value_ms and one.percentile in (50, 90)}


@pytest.mark.parametrize(("scenario", "percent"), [("SingleStream", 50.0), ("SingleStream", 90.0), ("Server", 50.0)])
def test_latencies_are_those_of_loadgen(scenario: str, percent: float, tmp_path: Path) -> None:
    """Asked in turns, both find the same percentiles: the median ratio over rounds is within 10 % of one."""
    ratios = []
    for number in range(ROUNDS):
        theirs = told(asked_by_loadgen(scenario, 1.5, tmp_path, number))
        queries = itertools.repeat(query)
        ours = percentiles(
            stream(queries, 1.5) if scenario == "SingleStream" else server(queries, RATE, 1.5, 1, number)
        )
        ratios.append(ours[percent] / theirs[percent])
    assert 0.9 < float(np.median(ratios)) < 1.1


def test_the_summary_and_the_log_of_one_run_agree(tmp_path: Path) -> None:
    """Both files of one run of LoadGen import to the same percentiles, and to what the text says."""
    detail = asked_by_loadgen("Server", 1.0, tmp_path, 0)
    summary = import_file(tmp_path / "mlperf_log_summary.txt").runs[0].summary
    assert told(detail) == told(summary)
    text = (tmp_path / "mlperf_log_summary.txt").read_text()
    found = re.search(r"^50\.00 percentile latency \(ns\)\s*: (\d+)", text, re.MULTILINE)
    assert found is not None
    assert told(summary)[50.0] == int(found.group(1)) / 1e6
