"""Conversion of trtexec's report to a result: its text summary, or the times that it exports as JSON.

trtexec 11 measures with CUDA graphs, with spinning and without data transfers; trtexec 10 uses none of these by
default. Their figures are comparable only with equal settings, so the note of a result states the settings
(tensorrt.md 1.11).
"""

from __future__ import annotations

import datetime
import json
import re
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core.artifact import sha256_file
from ..core.errors import ArtifactError, MissingFileError
from .build_result import tool
from .result import LatencyEntry, LatencyRun, NoiseEntry, PercentileEntry, Result, Spread, StageEntry
from .timing.statistics import median_interval, percentile_interval, samples_needed

_FIGURE = re.compile(r"(min|max|mean|median|percentile\((\d+(?:\.\d+)?)%\)) = ([\d.eE+-]+) ms")
_LINE = re.compile(r"\] (Latency|GPU Compute Time|Enqueue Time|H2D Latency|D2H Latency): (.*)")
_THROUGHPUT = re.compile(r"Throughput: ([\d.]+) qps")
_VERSION = re.compile(r"TensorRT(?:\.trtexec \[TensorRT v| version: )([\d.]+)")
_DEVICE = re.compile(r"Selected Device: (.+)")
_COMMAND = re.compile(r"# (\S*trtexec .*)")
_UNSTABLE = re.compile(r"coefficient of variance = ([\d.]+)%")
_WALL = re.compile(r"Total Host Walltime: ([\d.]+) s")
BLOCKS, CONFIDENCE, STAGE = 30, 0.95, "engine"
PERCENTILES = (50.0, 90.0, 99.0)
"""The percentiles that reports have columns for."""


@dataclass
class Report:
    """One run of trtexec.

    Attributes:
        latency: its figures in ms, by ``min``, ``mean``, ``median``, ``90`` …
        other: the same for its other lines, by name.
        times_ms: all single times, if they were exported.
    """

    latency: dict[str, float] = field(default_factory=dict)
    other: dict[str, dict[str, float]] = field(default_factory=dict)
    times_ms: NDArray[np.float64] | None = None
    throughput: float = 0.0
    version: str = ""
    device: str = ""
    command: str = ""
    seconds: float = 0.0
    unstable_percent: float | None = None


def read_trtexec(path: Path) -> Report:
    """Read a log, or the file of ``--exportTimes``.

    Raises:
        MissingFileError: the file does not exist.
        ArtifactError: the file is neither of the two.
    """
    if not path.is_file():
        raise MissingFileError(f"no such report: {path}", "redirect the output of trtexec to a file")
    text = path.read_text(errors="replace")
    return _from_times(text, path) if text.lstrip().startswith("[{") else _from_log(text, path)


def trtexec_result(path: Path, plan: Path, batch: int) -> Result:
    """A result with one stage, the engine.

    Args:
        path: the log or the exported times.
        plan: the plan that was measured.
        batch: rows per inference.

    Raises:
        MissingFileError: a file does not exist.
        ArtifactError: the report was not written by trtexec.
    """
    report = read_trtexec(path)
    if not plan.is_file():
        raise MissingFileError(f"no such plan: {plan}", "give the plan that trtexec loaded or saved")
    entry = StageEntry(
        stage=STAGE,
        sha256=sha256_file(plan),
        kind="engine",
        file=plan.name,
        size_bytes=plan.stat().st_size,
        latency={batch: _latency(report, batch)},
        notes=tuple(_notes(report)),
        runtime="TensorRT on the GPU",
    )
    return Result(
        id=uuid.uuid4().hex,
        started=datetime.datetime.fromtimestamp(path.stat().st_mtime, datetime.UTC).isoformat(),
        seconds=report.seconds,
        title=f"trtexec: {plan.name}",
        command=report.command or "trtexec",
        tool=tool(),
        env={"device": report.device, "tensorrt": report.version, "measured_by": "trtexec"},
        reference=STAGE,
        stages=(entry,),
        runs=(_run(report, batch),),
    )


def _from_log(text: str, path: Path) -> Report:
    report = Report()
    for name, figures in _LINE.findall(text):
        values = {quantile or word.split("(")[0]: float(number) for word, quantile, number in _FIGURE.findall(figures)}
        if name == "Latency":
            report.latency = values
        else:
            report.other[name] = values
    if "median" not in report.latency:
        raise ArtifactError(f"{path} has no performance summary of trtexec", "run trtexec without --skipInference")
    report.throughput = _number(_THROUGHPUT, text)
    report.seconds = _number(_WALL, text)
    report.version = _dotted(_text(_VERSION, text))
    report.device, report.command = _text(_DEVICE, text), _text(_COMMAND, text)
    report.unstable_percent = _number(_UNSTABLE, text) or None
    return report


def _from_times(text: str, path: Path) -> Report:
    try:
        rows: list[dict[str, Any]] = json.loads(text)
        times = np.asarray([float(row["latencyMs"]) for row in rows], np.float64)
    except (ValueError, KeyError, TypeError) as error:
        raise ArtifactError(
            f"{path} is not the output of trtexec --exportTimes: {error!r}", "export it again"
        ) from error
    if not np.isfinite(times).all() or not times.size:
        raise ArtifactError(f"{path} contains times that are not numbers", "measure again")
    spread = {str(int(q)): float(np.percentile(times, q)) for q in PERCENTILES}
    figures = {"min": times.min(), "max": times.max(), "mean": times.mean(), "median": np.median(times)}
    ends = [float(row.get("endComputeMs", row.get("endD2hMs", 0.0))) for row in rows]
    starts = [float(row.get("startComputeMs", row.get("startH2dMs", 0.0))) for row in rows]
    seconds = max(max(ends) - min(starts), 0.0) / 1000
    report = Report({**{name: float(value) for name, value in figures.items()}, **spread}, times_ms=times)
    report.seconds, report.throughput = seconds, len(times) / seconds if seconds else 1000.0 / float(times.mean())
    return report


def _latency(report: Report, batch: int) -> LatencyEntry:
    times = report.times_ms
    if times is None:
        median = report.latency["median"]
        blocks: tuple[float, ...] = ()
        spread = Spread(value=median, low=None, high=None, confidence=CONFIDENCE)
    else:
        parts = np.array_split(times, min(BLOCKS, len(times)))
        blocks = tuple(float(np.median(part)) for part in parts)
        spread = Spread.of(median_interval(np.asarray(blocks), CONFIDENCE))
    return LatencyEntry(
        median_ms=spread,
        percentiles=tuple(_percentile(report, q) for q in PERCENTILES),
        mean_ms=report.latency["mean"],
        rows_per_second=report.throughput * batch,
        ratio=None,
        verdict="reference",
        calls_per_sample=1,
        samples_per_block=max(1, 0 if times is None else len(times) // BLOCKS),
        blocks_ms=blocks,
    )


def _percentile(report: Report, q: float) -> PercentileEntry:
    if report.times_ms is None:  # trtexec reports a nearest rank without an interval and without the number of runs
        value = report.latency.get(f"{q:g}", report.latency["median"] if q == 50 else None)
        return PercentileEntry(percentile=q, value_ms=value, low_ms=None, high_ms=None, n=0, needed=samples_needed(q))
    return PercentileEntry.of(percentile_interval(report.times_ms, q))


def _run(report: Report, batch: int) -> LatencyRun:
    noisy = report.unstable_percent is not None
    reasons = (f"GPU time varies by {report.unstable_percent} %, so the clocks should be locked",) if noisy else ()
    return LatencyRun(
        batch=batch,
        reference=STAGE,
        threads=0,
        rounds=BLOCKS if report.times_ms is not None else 1,
        stopped="trtexec",
        resolution_ns=0,
        seconds=report.seconds,
        noise=NoiseEntry(status="NOISY" if noisy else "VALID", reasons=reasons, spread_percent=report.unstable_percent),
    )


def _notes(report: Report) -> list[str]:
    like_11 = report.version.startswith("11") or "--useCudaGraph" in report.command
    modes = "CUDA graphs, no data transfers" if like_11 else "no CUDA graph, data transfers included"
    known = report.version or report.command
    notes = [f"measured by trtexec {report.version}, {modes}".replace("  ", " ")] if known else ["measured by trtexec"]
    compute = report.other.get("GPU Compute Time", {}).get("median")
    enqueue = report.other.get("Enqueue Time", {}).get("median")
    if compute is not None:
        notes.append(f"GPU compute time, median: {compute:g} ms")
    if compute and enqueue and enqueue > 0.8 * compute:
        notes.append("bound by enqueueing: use CUDA graphs")
    return notes


def _number(pattern: re.Pattern[str], text: str) -> float:
    found = pattern.search(text)
    return float(found.group(1)) if found else 0.0


def _text(pattern: re.Pattern[str], text: str) -> str:
    found = pattern.search(text)
    return found.group(1).strip() if found else ""


def _dotted(version: str) -> str:
    """``10.3.0`` for trtexec's own ``100300``."""
    if "." in version or not version.isdigit():
        return version
    number = int(version)
    return f"{number // 10000}.{number // 100 % 100}.{number % 100}"
