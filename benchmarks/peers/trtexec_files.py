"""What trtexec prints, and the times that it exports, as an imported result beside the other tools'."""

from __future__ import annotations

from pathlib import Path

from ..trtexec_log import read_trtexec
from .peer_result import PeerRun, Summary, of_times, told
from .peer_text import Gathered, number, require, require_last_line, tree_of

TOOL = "trtexec"


def trtexec_log(text: str, where: str, path: Path) -> tuple[str, list[PeerRun]]:
    """The log of a run; every line of its performance summary is kept as it stands, besides the latencies.

    Raises:
        ArtifactError: it has no performance summary.
    """
    require(
        where, TOOL, "&&&& RUNNING" not in text or "&&&& PASSED" in text, "the run did not pass, or its end is missing"
    )
    require_last_line(text, where, TOOL)
    report, gathered = read_trtexec(path), Gathered(path.stem)
    for line, figures in {"Latency": report.latency, **report.other}.items():
        for name, value in figures.items():
            shown = f"percentile({name}%)" if name[0].isdigit() else name
            gathered.add(f"{line}.{shown}", value, "ms")
    gathered.add("Throughput", report.throughput, "1/s")
    for line in text.splitlines():
        if any(sign.isdigit() for sign in line):
            gathered.tell("line", line)
    values = report.latency
    summary = Summary(
        mean_ms=values.get("mean"),
        low_ms=values.get("min"),
        high_ms=values.get("max"),
        percentiles=(
            told(50.0, values["median"], None),
            *(told(float(name), value, None) for name, value in values.items() if name[0].isdigit()),
        ),
        per_second=report.throughput or None,
    )
    return report.version, [gathered.run(summary)]


def trtexec_times(text: str, where: str) -> tuple[str, list[PeerRun]]:
    """The file of ``trtexec --exportTimes``: every column as a series.

    Raises:
        ArtifactError: it is cut off, or a row has no latency.
    """
    rows = tree_of(text, where, TOOL)
    require(where, TOOL, isinstance(rows, list) and bool(rows), "it has no rows")
    keys = list(rows[0])
    for index, row in enumerate(rows):
        require(where, TOOL, isinstance(row, dict) and list(row) == keys, f"row {index} has other columns")
    gathered = Gathered("engine")
    for key in keys:
        values = [number(row[key]) if isinstance(row[key], str) else row[key] for row in rows]
        gathered.add(key, values, "ms" if key.endswith("Ms") else "")
    require(where, TOOL, "latencyMs" in keys, "it has no latencies")
    return "", [gathered.run(of_times([row["latencyMs"] for row in rows], "ms"))]
