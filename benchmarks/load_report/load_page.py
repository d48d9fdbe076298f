"""The page of a measurement under load as one HTML file: the verdict first, then tables, plots, machine and command."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...core.system.atomic_files import write_atomically
from ..machine import describe
from ..report import formatting
from ..report.html_page import rendered
from ..scenarios.load_result import LoadEntry, LoadResult
from ..spreads import Spread
from .load_plots import load_plots
from .load_table import TRIALS, load_tables
from .load_verdict import headline, load_state, load_verdict, median_of, point_of, speed_of

TEMPLATE = "load.html.jinja"
NO_INTERVAL = "too few for an interval"


def write_load_page(result: LoadResult, path: Path, faults: Sequence[str] = ()) -> None:
    """Write the page; it loads nothing from the network.

    Args:
        faults: see :func:`load_page`.

    Raises:
        StorageError: the disk is full or not writable.
    """
    write_atomically(path, load_page(result, faults).encode())


def load_page(result: LoadResult, faults: Sequence[str] = ()) -> str:
    """The page as text.

    Args:
        faults: figures that do not follow from what the result keeps, because it was edited; it is INVALID then.
    """
    state = load_state(result, faults)
    return rendered(
        __name__.rpartition(".")[0],
        TEMPLATE,
        result=result,
        verdict=load_verdict(result, faults),
        status=state.status,
        reasons=() if faults else result.reasons,
        faults=faults,
        tiles=load_tiles(result),
        tables=[table for table in load_tables(result) if table.title != TRIALS],
        trials=next((table for table in load_tables(result) if table.title == TRIALS), None),
        split_cell=split_cell,
        plots=load_plots(result),
        machine=describe(result.env) if "cpu" in result.env else "",
        asked=_asked(result),
    )


def load_tiles(result: LoadResult) -> list[dict[str, str]]:
    """The three or four most important numbers of the candidate of the verdict."""
    best = headline(result)
    if result.measurement == "cold":
        return _start_tiles(best)
    if result.measurement == "sweep":
        return _sweep_tiles(result)
    tiles = []
    if best.rate is not None and result.options.get("p99_ms") is not None:
        note = f"99th percentile of {result.options['p99_ms']:g} ms"
        tiles.append({"name": "highest rate", "value": f"{formatting.digits(best.rate)}/s", "note": note})
    elif best.ratio is not None and best.ratio.value is not None and not best.ratio.doubts:
        note = f"{formatting.range_text(best.ratio)}, than {formatting.short_name(best.ratio.reference)}"
        tiles.append({"name": "times faster", "value": formatting.ratio_text(best.ratio), "note": note})
    for one in best.percentiles:
        if one.percentile in (50.0, 99.0) and one.value_ms is not None:
            note = f"{formatting.time_text(one.low_ms)} to {formatting.time_text(one.high_ms)}"
            tiles.append(
                {"name": f"p{one.percentile:g} of a query", "value": formatting.time_text(one.value_ms), "note": note}
            )
    if best.rows_per_second is not None and best.rows_per_second.value is not None:
        speed = best.rows_per_second
        note = NO_INTERVAL if speed.low is None else formatting.range_text(speed)
        tiles.append({"name": "samples per second", "value": formatting.count_text(speed.value), "note": note})
    asked = best.queries + best.failed
    if best.failed:
        share = f"{100 * best.failed / asked:.2g} %"
        tiles.append({"name": "without an answer", "value": share, "note": f"{best.failed:,} of {asked:,} queries"})
    return tiles


def _start_tiles(best: LoadEntry) -> list[dict[str, str]]:
    return [
        {
            "name": "start, not in the page cache" if cold.page_cache == "dropped" else "start, in the page cache",
            "value": formatting.time_text(cold.steady_ms.value),
            "note": _span(cold.steady_ms),
        }
        for cold in best.cold
    ]


def _sweep_tiles(result: LoadResult) -> list[dict[str, str]]:
    known = [one for one in result.candidates if one.queries and one.median_ms and one.rows_per_second]
    if not known:
        return []
    quick = min(known, key=lambda one: median_of(one) or float("inf"))
    most = max(known, key=speed_of)
    return [
        {"name": "lowest latency", "value": formatting.time_text(median_of(quick)), "note": point_of(quick)},
        {"name": "samples per second", "value": formatting.count_text(speed_of(most)), "note": point_of(most)},
    ]


def _span(spread: Spread) -> str:
    if spread.low is None or spread.high is None:
        return NO_INTERVAL
    return f"{formatting.time_text(spread.low)} to {formatting.time_text(spread.high)}"


def split_cell(cell: str) -> tuple[str, str]:
    """A figure, and what stands below it: its interval, or how many times it would need."""
    found = re.match(r"(.*?) ([\[(].*)", cell)
    return (found[1], found[2]) if found else (cell, "")


def _asked(result: LoadResult) -> dict[str, str]:
    """The options that were given or have a meaning here, as text."""
    shown: dict[str, Any] = {name: value for name, value in result.options.items() if value not in (None, [], ())}
    return {
        name: ", ".join(map(str, value)) if isinstance(value, list) else str(value) for name, value in shown.items()
    }
