"""The table of an imported result of another tool."""

from __future__ import annotations

from ...core.console import Console
from ..peers.peer_result import PeerResult, PeerRun
from ..result import PercentileEntry
from .formatting import DASH, digits, time_text


def print_peer(result: PeerResult, console: Console) -> None:
    """Print a row per run, with the percentiles that the tool told or that follow from its times."""
    percents = sorted({one.percentile for run in result.runs for one in run.summary.percentiles})
    columns = ["run", "n", "mean", "shortest", *(f"p{one:g}" for one in percents), "longest", "per second"]
    rows = [_row(run, percents) for run in result.runs]
    console.table(f"{result.tool} {result.version}".strip(), columns, rows)


def _row(run: PeerRun, percents: list[float]) -> list[str]:
    told = {one.percentile: one for one in run.summary.percentiles}
    summary = run.summary
    return [
        run.name,
        DASH if summary.n is None else f"{summary.n:,}",
        time_text(summary.mean_ms),
        time_text(summary.low_ms),
        *(_percentile(told.get(percent)) for percent in percents),
        time_text(summary.high_ms),
        DASH if summary.per_second is None else digits(summary.per_second),
    ]


def _percentile(entry: PercentileEntry | None) -> str:
    if entry is None:
        return DASH
    return f"n too small ({entry.n} of {entry.needed})" if entry.value_ms is None else time_text(entry.value_ms)
