"""The tables of a measurement under load, for a terminal and for pages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ...core.console import Console
from ..report.formatting import DASH, digits, range_text, ratio_text, time_text
from ..result import PercentileEntry
from ..scenarios.load_result import LoadEntry, LoadResult, StageSplitEntry
from ..spreads import Spread
from .load_verdict import load_state

Rows = list[list[str]]
TRIALS = "Trials of rates"


class LoadTable(NamedTuple):
    """One table; the first cell of a row names it."""

    title: str
    columns: Sequence[str]
    rows: Rows


def load_tables(result: LoadResult) -> list[LoadTable]:
    """The tables of a measurement, the most important one first."""
    if result.measurement == "cold":
        columns = ["model", "page cache", "until import", "load", "first call", "until steady"]
        return [LoadTable("Starts of new processes", columns, _cold(result))]
    if result.measurement == "sweep":
        columns = ["model", "threads", "batch", "median", "rows/s", "Pareto"]
        return [LoadTable("Threads and batch sizes", columns, _sweep(result))]
    made = [LoadTable("Candidates", _columns(result), [_row(one, result) for one in result.candidates])]
    trials = [
        [one.name, f"{digits(trial.rate)}/s", DASH if trial.bound_ms is None else time_text(trial.bound_ms),
         "kept" if trial.kept else "missed", f"{trial.queries:,}", str(trial.failed)]
        for one in result.candidates
        for trial in one.trials
    ]  # fmt: skip
    if stages := [[one.name, *_stages(one.stages)] for one in result.candidates if one.stages is not None]:
        columns = ["candidate", "prepare", "copy in", "run", "copy out"]
        made.append(LoadTable("Stages of a query", columns, stages))
    if trials:
        columns = ["candidate", "rate", "p99 at most", "bound", "queries", "failed"]
        made.append(LoadTable(TRIALS, columns, trials))
    return made


def print_load(result: LoadResult, console: Console) -> None:
    """Print the tables, the notes, and why the measurement decides nothing, if it is so."""
    title = f"{result.measurement}: {result.title}"
    for place, table in enumerate(load_tables(result)):
        if table.title != TRIALS:  # they were told when they were made
            console.table(table.title.lower() if place else title, table.columns, table.rows)
    for note in result.notes:
        console.say(note)
    state = load_state(result)
    if state.status != "VALID":
        console.warn(f"{state.status}, so no decision can be based on it: {state.reason}")


def _columns(result: LoadResult) -> list[str]:
    shown = ["candidate"]
    if result.measurement == "sustain":
        shown += ["first minute", "last minute"]
    if result.measurement == "server":
        shown += ["queries/s"]
    percentiles = [f"p{one.percentile:g}" for one in result.candidates[0].percentiles]
    return [*shown, *percentiles, "rows/s", "× faster", "failed"]


def _row(one: LoadEntry, result: LoadResult) -> list[str]:
    cells = [one.name]
    if result.measurement == "sustain":
        cells += [time_text(one.first_minute_ms), time_text(one.last_minute_ms)]
    if result.measurement == "server":
        cells += [DASH if one.rate is None else digits(one.rate)]
    cells += [percentile_text(each) for each in one.percentiles]
    return [*cells, speed_text(one.rows_per_second), _ratio(one), str(one.failed)]


def percentile_text(entry: PercentileEntry) -> str:
    """``1.23 ms [1.20, 1.30]``, or how many samples it would need."""
    if entry.value_ms is None:
        return f"n too small ({entry.n} of {entry.needed})"
    return f"{time_text(entry.value_ms)}{_ends(entry.value_ms, entry.low_ms, entry.high_ms)}"


def _ends(value_ms: float, low_ms: float | None, high_ms: float | None) -> str:
    """An interval in the unit in which its value is shown; empty without one."""
    if low_ms is None or high_ms is None:
        return ""
    scale = 1e-3 if value_ms >= 999.5 else 1.0 if value_ms >= 0.09995 else 1e3
    return f" [{digits(scale * low_ms)}, {digits(scale * high_ms)}]"


def speed_text(spread: Spread | None) -> str:
    """Rows per second with the interval."""
    if spread is None or spread.value is None:
        return DASH
    return f"{digits(spread.value)} {range_text(spread)}"


def _ratio(one: LoadEntry) -> str:
    if one.ratio is None:
        return DASH
    doubt = " ?" if one.ratio.ratio().verdict == "cannot tell" else ""
    return f"{ratio_text(one.ratio)} {range_text(one.ratio)}{doubt}"


def _stages(split: StageSplitEntry | None) -> list[str]:
    """The stages of one candidate; a dash for a stage that the runtime does not show apart."""
    if split is None:
        return [DASH] * 4
    return [time_text(value) for value in (split.prepare_ms, split.copy_in_ms, split.run_ms, split.copy_out_ms)]


def _cold(result: LoadResult) -> Rows:
    return [
        [
            one.name,
            each.page_cache,
            *(_step(spread) for spread in (each.import_ms, each.load_ms, each.first_ms, each.steady_ms)),
        ]
        for one in result.candidates
        for each in one.cold
    ]


def _step(spread: Spread) -> str:
    return DASH if spread.value is None else time_text(spread.value) + _ends(spread.value, spread.low, spread.high)


def _sweep(result: LoadResult) -> Rows:
    return [
        [
            one.name,
            str(one.threads),
            str(one.per_query),
            DASH if one.median_ms is None else _step(one.median_ms),
            speed_text(one.rows_per_second),
            "*" if one.pareto else "",
        ]
        for one in result.candidates
    ]
