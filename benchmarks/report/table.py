"""The table of a run for a terminal: one row per stage."""

from __future__ import annotations

from ...core.console import Console
from ..result import LatencyEntry, Result, StageEntry
from . import formatting

Table = tuple[list[str], list[list[str]]]


def table_rows(result: Result) -> Table:
    """Columns and rows: parameters, bytes, metric and drop with intervals, latency with its ratio per batch size.

    About 150 characters wide with two batch sizes.
    """
    batches = sorted({batch for stage in result.stages for batch in stage.latency})
    metric = next((stage.metric for stage in result.stages if stage.metric), None)
    columns = ["stage", "params", "size"]
    if metric is not None:
        interval = f"[{formatting.percent(metric.confidence).replace(' ', '')}]"
        columns += [f"{metric.name} {interval}", f"drop {interval}"]
    for batch in batches:
        columns += [f"batch {batch}", "× faster"]
    return columns, [_row(result, stage, batches, metric is not None) for stage in result.stages]


def _row(result: Result, stage: StageEntry, batches: list[int], judged: bool) -> list[str]:
    row = [stage.stage, formatting.count_text(stage.parameters), formatting.bytes_text(stage.size_bytes)]
    if judged:
        row += _accuracy(stage, stage.stage == result.reference)
    for batch in batches:
        row += _latency(stage.latency.get(batch), stage.stage == result.reference)
    return row


def _accuracy(stage: StageEntry, is_reference: bool) -> list[str]:
    if stage.metric is None:
        return [formatting.DASH, formatting.DASH]
    name = stage.metric.name
    shown = f"{formatting.metric_value(name, stage.metric.value)} {formatting.metric_range(name, stage.metric)}"
    if stage.drop is None or is_reference:
        return [shown, formatting.DASH]
    return [shown, f"{formatting.drop_value(name, stage.drop.value)} {formatting.drop_range(name, stage.drop)}"]


def _latency(entry: LatencyEntry | None, is_reference: bool) -> list[str]:
    if entry is None:
        return [formatting.DASH, formatting.DASH]
    if is_reference or entry.ratio is None:
        return [formatting.time_text(entry.median_ms.value), "1×"]
    doubt = " ?" if entry.verdict == "cannot tell" else ""
    ratio = f"{formatting.ratio_text(entry.ratio)} {formatting.range_text(entry.ratio)}{doubt}"
    return [formatting.time_text(entry.median_ms.value), ratio]


def print_table(result: Result, console: Console) -> None:
    """Print one row per stage on stdout."""

    columns, rows = table_rows(result)
    console.table(result.title, columns, rows)
