"""The table of a run for a terminal: one row per stage."""

from __future__ import annotations

from . import words
from .result import LatencyEntry, Result, StageEntry

Table = tuple[list[str], list[list[str]]]


def table_rows(result: Result) -> Table:
    """Columns and rows: parameters, bytes, metric and drop with intervals, latency with its ratio per batch size.

    About 150 characters wide with two batch sizes.
    """
    batches = sorted({batch for stage in result.stages for batch in stage.latency})
    metric = next((stage.metric for stage in result.stages if stage.metric), None)
    columns = ["stage", "params", "size"]
    if metric is not None:
        interval = f"[{words.percent(metric.confidence).replace(' ', '')}]"
        columns += [f"{metric.name} {interval}", f"drop {interval}"]
    for batch in batches:
        columns += [f"batch {batch}", "× faster"]
    return columns, [_row(result, stage, batches, metric is not None) for stage in result.stages]


def _row(result: Result, stage: StageEntry, batches: list[int], judged: bool) -> list[str]:
    row = [stage.stage, words.count_text(stage.parameters), words.bytes_text(stage.size_bytes)]
    if judged:
        row += _accuracy(stage, stage.stage == result.reference)
    for batch in batches:
        row += _latency(stage.latency.get(batch), stage.stage == result.reference)
    return row


def _accuracy(stage: StageEntry, is_reference: bool) -> list[str]:
    if stage.metric is None:
        return [words.DASH, words.DASH]
    name = stage.metric.name
    shown = f"{words.metric_value(name, stage.metric.value)} {words.metric_range(name, stage.metric)}"
    if stage.drop is None or is_reference:
        return [shown, words.DASH]
    return [shown, f"{words.drop_value(name, stage.drop.value)} {words.drop_range(name, stage.drop)}"]


def _latency(entry: LatencyEntry | None, is_reference: bool) -> list[str]:
    if entry is None:
        return [words.DASH, words.DASH]
    if is_reference or entry.ratio is None:
        return [words.time_text(entry.median_ms.value), "1×"]
    doubt = " ?" if entry.verdict == "cannot tell" else ""
    ratio = f"{words.ratio_text(entry.ratio)} {words.range_text(entry.ratio)}{doubt}"
    return [words.time_text(entry.median_ms.value), ratio]
