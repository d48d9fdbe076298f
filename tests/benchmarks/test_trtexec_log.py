"""trtexec's reports as results: its log, its exported times, and other texts."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from retort.__main__ import main
from retort.benchmarks.result import load_result, save_result
from retort.benchmarks.trtexec_log import read_trtexec, trtexec_result
from retort.core.errors import ArtifactError, MissingFileError

HEAD = "[11/22/2026-10:00:05]"
SUMMARY = """\
[I] Selected Device: NVIDIA L4
[I] TensorRT version: 10.16.0
[I] Average on 10 runs - GPU latency: 1.51 ms - Host latency: 1.73 ms (enqueue 0.2 ms)
[I] === Performance summary ===
[I] Throughput: 655.25 qps
[I] Latency: min = 1.50122 ms, max = 2.1 ms, mean = 1.73 ms, median = 1.72 ms, {tails}
[I] Enqueue Time: min = 0.1 ms, max = 1.5 ms, mean = 1.3 ms, median = 1.3 ms, percentile(99%) = 1.4 ms
[I] H2D Latency: min = 0.1 ms, max = 0.3 ms, mean = 0.2 ms, median = 0.2 ms, percentile(99%) = 0.3 ms
[I] GPU Compute Time: min = 1.4 ms, max = 1.9 ms, mean = 1.52 ms, median = 1.51 ms, percentile(99%) = 1.8 ms
[I] D2H Latency: min = 0.005 ms, max = 0.01 ms, mean = 0.006 ms, median = 0.006 ms, percentile(99%) = 0.01 ms
[I] Total Host Walltime: 3.00342 s
[I] Total GPU Compute Time: 2.99 s
[W] * GPU compute time is unstable, with coefficient of variance = 4.23%.
[W]   If not already in use, locking GPU clock frequency may improve the stability.
"""
TAILS = "percentile(90%) = 1.8 ms, percentile(95%) = 1.85 ms, percentile(99%) = 2.01 ms"
COMMAND = "trtexec --loadEngine=m.plan --shapes=x:8x3x224x224 --useCudaGraph"
LOG = "\n".join(
    [
        f"&&&& RUNNING TensorRT.trtexec [TensorRT v101600] [b11] # {COMMAND}",
        *(f"{HEAD} {line}" for line in SUMMARY.format(tails=TAILS).splitlines()),
        f"&&&& PASSED TensorRT.trtexec [TensorRT v101600] [b11] # {COMMAND}",
    ]
)


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    """A plan."""
    (tmp_path / "m.plan").write_bytes(b"plan")
    return tmp_path / "m.plan"


def test_a_log_is_read(tmp_path: Path) -> None:
    """Times, version, device, command and the warning are read from the text."""
    (tmp_path / "log.txt").write_text(LOG)
    report = read_trtexec(tmp_path / "log.txt")
    assert report.latency["median"] == 1.72
    assert report.latency["99"] == 2.01
    assert report.other["GPU Compute Time"]["median"] == 1.51
    assert (report.version, report.device) == ("10.16.0", "NVIDIA L4")
    assert (report.throughput, report.seconds, report.unstable_percent) == (655.25, 3.00342, 4.23)
    assert report.command.startswith("trtexec --loadEngine=m.plan")


def test_a_log_becomes_a_result(tmp_path: Path, plan: Path) -> None:
    """The result is about the plan; trtexec's times have no interval, and its warnings are included."""
    (tmp_path / "log.txt").write_text(LOG)
    result = trtexec_result(tmp_path / "log.txt", plan, 8)
    entry = result.stage("engine").latency[8]
    assert (entry.median_ms.value, entry.median_ms.low) == (1.72, None)
    assert entry.rows_per_second == 655.25 * 8
    assert [item.value_ms for item in entry.percentiles] == [1.72, 1.8, 2.01]
    assert result.runs[0].noise.status == "NOISY"
    assert result.env["device"] == "NVIDIA L4"
    assert any("enqueueing" in note for note in result.stages[0].notes)
    save_result(result, tmp_path / "r.json")
    assert load_result(tmp_path / "r.json") == result


def test_exported_times_have_an_interval(tmp_path: Path, plan: Path) -> None:
    """From single times, the median and the percentiles have intervals."""
    times = np.random.default_rng(0).gamma(50, 0.03, 2000)
    ends = np.cumsum(times)
    rows = [
        {"startComputeMs": float(end - time), "endComputeMs": float(end), "latencyMs": float(time), "computeMs": 1.0}
        for time, end in zip(times, ends)
    ]
    (tmp_path / "times.json").write_text(json.dumps(rows))
    entry = trtexec_result(tmp_path / "times.json", plan, 4).stage("engine").latency[4]
    assert len(entry.blocks_ms) == 30
    assert entry.median_ms.low is not None
    assert entry.median_ms.low < float(np.median(times)) < float(entry.median_ms.high or 0)
    assert entry.percentiles[1].n == 2000
    assert entry.rows_per_second == pytest.approx(4 * 2000 / (ends[-1] / 1000), rel=1e-6)


@pytest.mark.parametrize("text", ["nothing of the kind", '[{"other": 1}]', "[{broken", '[{"latencyMs": NaN}]'])
def test_what_is_no_report_is_refused(tmp_path: Path, text: str) -> None:
    """Other texts are rejected with the command that makes a report."""
    (tmp_path / "log.txt").write_text(text)
    with pytest.raises(ArtifactError) as caught:
        read_trtexec(tmp_path / "log.txt")
    assert caught.value.remedy


def test_missing_files_are_named(tmp_path: Path, plan: Path) -> None:
    """Missing reports and missing plans are reported with their names."""
    with pytest.raises(MissingFileError, match="no such report"):
        read_trtexec(tmp_path / "none.txt")
    (tmp_path / "log.txt").write_text(LOG)
    with pytest.raises(MissingFileError, match="no such plan"):
        trtexec_result(tmp_path / "log.txt", tmp_path / "none.plan", 1)


def test_the_command_writes_a_report(tmp_path: Path, plan: Path) -> None:
    """`retort trtexec` converts a log to the same HTML report that other results have."""
    (tmp_path / "log.txt").write_text(LOG)
    arguments = [str(tmp_path / "log.txt"), "--plan", str(plan), "--batch", "8", "--out", str(tmp_path / "r.html")]
    with pytest.raises(SystemExit) as caught:
        main(["trtexec", *arguments])
    assert not caught.value.code
    assert "1.72 ms" in (tmp_path / "r.html").read_text()
