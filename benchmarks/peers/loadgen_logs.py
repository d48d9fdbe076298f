"""Logs of MLPerf's LoadGen: the summary, and the detailed log with a line of JSON per value."""

from __future__ import annotations

import re
from collections.abc import Callable

from .peer_result import Number, PeerRun, Summary, told
from .peer_text import Gathered, ascending, require, tree_of

TOOL, MARK = "LoadGen", ":::MLLOG "
QUANTILES = (50.0, 90.0, 95.0, 97.0, 99.0, 99.9)
_SPEEDS = ("Completed samples per second", "Samples per second", "QPS w/o loadgen overhead")
_DETAIL_SPEEDS = (
    "result_completed_samples_per_sec",
    "result_samples_per_second",
    "result_qps_without_loadgen_overhead",
)
_END = re.compile(r"^(?:No|\d+) (?:errors?|ERRORS?) encountered.*\n?\Z", re.MULTILINE)
_PROCESSED = re.compile(r"Processed at least \d+ queries \((\d+)\)|[Pp]rocessed (\d+) queries")


def loadgen_summary(text: str, where: str) -> tuple[str, list[PeerRun]]:
    """``mlperf_log_summary.txt``.

    Raises:
        ArtifactError: it is cut off, or its percentiles fall.
    """
    lines = [line for line in text.splitlines() if not line.startswith("===")]
    scenario = next((line.split(":")[1].strip() for line in lines if re.match(r"Scenario\s*:", line)), "")
    require(where, TOOL, bool(scenario), "it names no scenario")
    require(where, TOOL, bool(_END.search(text)), "its end is missing")
    gathered = Gathered(scenario)
    gathered.lines(lines)
    processed = _PROCESSED.search(text)
    count = int(next(group for group in processed.groups() if group)) if processed else None
    summary = _summary(
        gathered, where, count, _SPEEDS, lambda q: f"{q:.2f} percentile latency (ns)",
        ("Min latency (ns)", "Mean latency (ns)", "Max latency (ns)"),
    )  # fmt: skip
    return "", [gathered.run(summary)]


def loadgen_detail(text: str, where: str) -> tuple[str, list[PeerRun]]:
    """``mlperf_log_detail.txt``: every key with its value, and when it was written.

    The process ids and the source lines of LoadGen that each line has are only in the original file.

    Raises:
        ArtifactError: a line is cut off, or there are no results.
    """
    entries = [
        tree_of(line[len(MARK) :], f"{where}, line {number},", TOOL)
        for number, line in enumerate(text.splitlines(), 1)
        if line.startswith(MARK)
    ]
    values = {str(entry["key"]): entry["value"] for entry in entries if "key" in entry and "value" in entry}
    require(where, TOOL, "result_validity" in values and "num_errors" in values, "its end is missing")
    gathered = Gathered(str(values.get("effective_scenario", "LoadGen")))
    for entry in entries:
        gathered.add(str(entry["key"]), entry["value"])
    gathered.add("time_ms", [entry["time_ms"] for entry in entries], "ms")
    count = gathered.value("result_query_count")
    per_query = "result_mean_query_latency_ns" in values  # a multi stream also has those of its samples
    kind, tail = ("query_", "per_query_") if per_query else ("", "")
    summary = _summary(
        gathered, where, None if count is None else int(count), _DETAIL_SPEEDS,
        lambda q: f"result_{q:.2f}_percentile_{tail}latency_ns",
        (f"result_min_{kind}latency_ns", f"result_mean_{kind}latency_ns", f"result_max_{kind}latency_ns"),
    )  # fmt: skip
    return str(values.get("loadgen_version", "")), [gathered.run(summary)]


def _summary(
    gathered: Gathered,
    where: str,
    count: int | None,
    speeds: tuple[str, ...],
    name: Callable[[float], str],
    ends: tuple[str, str, str],
) -> Summary:
    """The common figures, which are in nanoseconds."""
    low, mean, high = (gathered.value(one) for one in ends)
    found = {q: value for q in QUANTILES if (value := gathered.value(name(q))) is not None}
    require(where, TOOL, bool(found), "it has no percentiles")
    require(where, TOOL, ascending([low, *found.values(), high]), "its percentiles are not in order")
    speed = next((value for one in speeds if (value := gathered.value(one)) is not None), None)
    return Summary(
        n=count,
        mean_ms=_ms(mean),
        low_ms=_ms(low),
        high_ms=_ms(high),
        percentiles=tuple(told(q, float(value) / 1e6, count) for q, value in found.items()),
        per_second=None if speed is None else float(speed),
    )


def _ms(value_ns: Number | None) -> float | None:
    return None if value_ns is None else float(value_ns) / 1e6
