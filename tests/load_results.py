"""Results of loads that no machine measured, for tests of verdicts, gates and pages."""

from __future__ import annotations

from typing import Any, cast

import numpy as np

from retort.benchmarks.scenarios.load_entries import window_figures, with_ratios
from retort.benchmarks.scenarios.load_result import (
    ColdEntry,
    LoadEntry,
    LoadResult,
    Measurement,
    QueryTimes,
    StageSplitEntry,
    StartEntry,
    TrialEntry,
    WindowEntry,
)
from retort.benchmarks.scenarios.query_loops import Served
from retort.benchmarks.scenarios.sweep import pareto_marked
from retort.benchmarks.spreads import Spread
from retort.benchmarks.timing.statistics import median_interval
from retort.benchmarks.validation.load_recomputation import rebuilt

NAMES = ("fp32", "int8")


def load_result(
    measurement: str,
    *,
    names: tuple[str, ...] = NAMES,
    windows: int = 12,
    queries: int = 100,
    failed: int = 0,
    scatter: float = 0.01,
    drift: float = 0.0,
    slower: float = 1.0,
    threads: int = 1,
    cores: int = 4,
    kind: str = "graph",
    p99_ms: float | None = None,
    cached_percent: float = 0.0,
    seed: int = 0,
    **more: Any,
) -> LoadResult:
    """A result of a measurement in which the first candidate takes 2 ms, and each other one half as long as the last.

    Args:
        windows: of each candidate, with ``queries`` answered ones each.
        failed: queries of the last window of the first candidate that got no answer.
        scatter: standard deviation of the logarithms of the windows' medians.
        drift: change from the first to the last window.
        slower: factor of all times.
        cached_percent: share of a dropped file that was still in the page cache.
        more: fields of the result.
    """
    rng = np.random.default_rng(seed)
    entries = []
    for place, name in enumerate(names):
        base_ns = slower * 2e6 / 2**place
        if measurement == "cold":
            entries.append(_cold(name, base_ns / 1e4, cached_percent, rng))
            continue
        served = [
            Served(
                np.rint(base_ns * (1 + drift * number / windows) * rng.lognormal(0, scatter)
                        * rng.lognormal(0, 0.02, queries)),
                failed if not place and number == windows - 1 else 0, 0.5, np.zeros(0),
            )
            for number in range(windows)
        ]  # fmt: skip
        entries.append(_entry(name, place, served, kind, threads, measurement, p99_ms))
    if measurement == "sweep":
        entries = pareto_marked(entries)
    elif measurement != "cold":
        entries = with_ratios(entries, {one.name: rebuilt(one) for one in entries}, 0.95, 0)
    options: dict[str, Any] = {"confidence": 0.95, "seed": 0, "threads": threads}
    fields: dict[str, Any] = {
        "pressure_percent": 0.5,
        "steal_percent": 0.0,
        "options": options | ({"p99_ms": p99_ms} if p99_ms is not None else {}),
        "command": "retort bench load fp32.onnx int8.onnx",
        **more,
    }
    cpu = {"model": "a processor", "features": [], "logical": cores, "usable": float(cores)}
    return LoadResult(
        id="r", started="2026-12-01T10:00:00+00:00", seconds=20.0, measurement=cast(Measurement, measurement),
        title=f"{len(names)} candidates", tool={"version": "1"}, candidates=tuple(entries),
        env={"cpu": cpu, "memory_bytes": 1 << 34, "gpu": [], "machine": "x86_64", "kernel": "6"}, **fields,
    )  # fmt: skip


def _entry(
    name: str, place: int, served: list[Served], kind: str, threads: int, measurement: str, p99_ms: float | None
) -> LoadEntry:
    figures = window_figures(served, 1, 0.95, 0)
    windows = tuple(
        WindowEntry(
            round=number, place=0, began_s=float(number), seconds=one.seconds, queries=one.queries, failed=one.failed,
            median_ms=one.median_ms if one.queries else None,
        )
        for number, one in enumerate(served)
    )  # fmt: skip
    times = np.concatenate([one.latencies_ns for one in served])
    trials = (
        TrialEntry(rate=200.0, bound_ms=p99_ms * 0.9, kept=True, queries=800, failed=0),
        TrialEntry(rate=400.0, bound_ms=None, kept=False, queries=800, failed=9),
    ) if p99_ms is not None else ()  # fmt: skip
    return LoadEntry(
        name=name, where=f"/{name}.onnx", kind=cast(Any, kind), runtime="ONNX Runtime on the CPU",
        sha256="" if kind == "endpoint" else "a" * 64, size_bytes=1000, threads=threads,
        failed=sum(one.failed for one in served), windows=windows, trials=trials,
        rate=200.0 * (1 + place) if measurement == "server" else None,
        raw=None if measurement == "sweep" else QueryTimes.of(times),
        stages=StageSplitEntry(prepare_ms=0.1, copy_in_ms=0.02, run_ms=1.0, copy_out_ms=None), **figures,
    )  # fmt: skip


def _cold(name: str, base_ms: float, cached_percent: float, rng: np.random.Generator) -> LoadEntry:
    starts, cold = [], []
    for state in ("warm", "dropped"):
        times = base_ms * rng.lognormal(0, 0.02, (10, 4)) * np.array([1.0, 0.3, 0.02, 1.4])
        starts += [
            StartEntry(
                page_cache=cast(Any, state), cached_percent=100.0 if state == "warm" else cached_percent,
                import_ms=row[0], load_ms=row[1], first_ms=row[2], steady_ms=row[3], calls_ms=(1.0,), peak_bytes=1,
            )
            for row in times.tolist()
        ]  # fmt: skip
        spreads = [Spread.of(median_interval(column, 0.95)) for column in times.T]
        steps = dict(zip(("import_ms", "load_ms", "first_ms", "steady_ms"), spreads, strict=True))
        cold.append(ColdEntry(page_cache=cast(Any, state), **steps))
    return LoadEntry(
        name=name, where=f"/{name}.onnx", kind="graph", runtime="ONNX Runtime on the CPU", sha256="a" * 64,
        size_bytes=1000, threads=1, cold=tuple(cold), starts=tuple(starts),
    )  # fmt: skip
