"""The table of a run for a terminal: one row per stage, in as many columns as the terminal has room for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ...core.console import Console
from ...core.counts import counted, listed
from ...core.terminal.text_tables import table_width
from ..result import LatencyEntry, Result, SpikesEntry, Spread, StageEntry
from . import formatting

Table = tuple[list[str], list[list[str]]]

DRIFT_PERCENT, SPIKES_PERCENT = 10.0, 10.0
"""Drift in a minute or in a shorter measurement, and share of the time of spikes, from which on they are told."""
MINUTE_S = 60.0


def table_rows(result: Result) -> Table:
    """Columns and rows: parameters, bytes, metric and drop with intervals, latency with its ratio per batch size.

    About 150 characters wide with two batch sizes.
    """
    batches = _batches(result)
    columns = ["stage", "params", "size", *_metric_columns(result)]
    for batch in batches:
        columns += [f"batch {batch}", "× faster"]
    return columns, [_row(result, stage, batches) for stage in result.stages]


def tables_within(result: Result, width: int | None) -> list[Table]:
    """The table in the widest form that fits: in one line per stage, with intervals below their values, or in parts.

    Args:
        width: characters of a line of the terminal; None for any width.
    """
    forms = list(_forms(result))
    if width is None:
        return forms[0]
    fitting = (form for form in forms if all(table_width(*table) <= width for table in form))
    return next(fitting, forms[-1])


def _forms(result: Result) -> Iterator[list[Table]]:
    """All forms of the table, the widest first; the last one has a table for the sizes and one per batch size."""
    whole = table_rows(result)
    batches = _batches(result)
    yield [whole]
    yield [_stacked(result, batches)]
    yield [_without(_stacked(result, batches), "params")]
    yield [_stacked(result, ()), *([_times(result, batches)] if batches else [])]
    half = (len(batches) + 1) // 2
    yield [_stacked(result, ()), *(_times(result, part) for part in (batches[:half], batches[half:]) if part)]
    yield [_stacked(result, ()), *(_times(result, [batch]) for batch in batches)]


def _stacked(result: Result, batches: Sequence[int]) -> Table:
    """Intervals below their values, and ratios below their times."""
    metric = [column.replace(" [", "\n[") for column in _metric_columns(result)]
    times = [f"batch {batch}\n× faster" for batch in batches]
    rows = [
        [*row[:3], *(_below(cell) for cell in row[3 : 3 + len(metric)]), *_pairs(row[3 + len(metric) :])]
        for row in (_row(result, stage, batches) for stage in result.stages)
    ]
    return ["stage", "params", "size", *metric, *times], rows


def _times(result: Result, batches: Sequence[int]) -> Table:
    """The times alone, of the stages that have any."""
    timed = [stage for stage in result.stages if stage.latency]
    rows = [_row(result, stage, batches) for stage in timed]
    skipped = 3 + len(_metric_columns(result))
    return ["stage", *(f"batch {batch}\n× faster" for batch in batches)], [
        [row[0], *_pairs(row[skipped:])] for row in rows
    ]


def _pairs(cells: Sequence[str]) -> list[str]:
    pairs = zip(cells[::2], cells[1::2], strict=True)
    return [time if time == formatting.DASH else f"{time}\n{_below(ratio)}" for time, ratio in pairs]


def _below(cell: str) -> str:
    return cell.replace(" [", "\n[", 1)


def _without(table: Table, column: str) -> Table:
    place = table[0].index(column)
    return [*table[0][:place], *table[0][place + 1 :]], [[*row[:place], *row[place + 1 :]] for row in table[1]]


def _batches(result: Result) -> list[int]:
    return sorted({batch for stage in result.stages for batch in stage.latency})


def _metric_columns(result: Result) -> list[str]:
    metric = next((stage.metric for stage in result.stages if stage.metric), None)
    if metric is None:
        return []
    interval = f"[{formatting.percent(metric.confidence).replace(' ', '')}]"
    return [f"{metric.name} {interval}", f"{formatting.loss_name(metric.name, 'drop')} {interval}"]


def _row(result: Result, stage: StageEntry, batches: Sequence[int]) -> list[str]:
    row = [stage.stage, formatting.count_text(stage.parameters), formatting.bytes_text(stage.size_bytes)]
    if _metric_columns(result):
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
    """Print one row per stage on stdout, with what was measured above it, and notes and doubts below it."""
    tables = tables_within(result, console.width)
    for index, (columns, rows) in enumerate(tables):
        console.table(f"{result.title}: {measured_with(result)}" if index == 0 else "", columns, rows)
    for line in (*legend(result), *result.notes, *within_noise(result), *changes_in_time(result)):
        console.say(line)
    for warning in noise_warnings(result):
        console.warn(warning)


def legend(result: Result) -> list[str]:
    """What the columns mean."""
    if not _batches(result):
        return []
    mark = any(entry.verdict == "cannot tell" for stage in result.stages for entry in stage.latency.values())
    unsure = "; “?”: whether it is faster or slower cannot be told" if mark else ""
    lines = [f"× faster: how many times as fast as {result.reference}{unsure}"]
    if any(gate.kind == "speedup" for gate in result.gates):
        lines.append("speedups of gates were measured on their own, so they differ a little from those of the table")
    return lines


def within_noise(result: Result) -> list[str]:
    """A sentence for every ratio whose verdict the machine's noise floor or the number of candidates withholds."""
    ratios = [
        (batch, entry.ratio.ratio())
        for stage in result.stages
        for batch, entry in stage.latency.items()
        if entry.ratio is not None and entry.ratio.value is not None
    ]
    return [
        f"{ratio.candidate} at batch {batch}: {ratio.why_undecided}"
        for batch, ratio in ratios
        if not ratio.doubts and (ratio.within_noise or (ratio.one_of_many and not ratio.spans_one))
    ]


def changes_in_time(result: Result) -> list[str]:
    """A sentence for every stage whose times drifted, or of whose time spikes cost a notable share."""
    lines, lasted = [], {run.batch: run.seconds for run in result.runs}
    for stage in result.stages:
        for batch, entry in stage.latency.items():
            place = f"{stage.stage} at batch {batch}"
            if entry.drift is not None:
                lines += _drift(place, entry.drift, lasted.get(batch) or MINUTE_S)
            if entry.spikes is not None and entry.spikes.time_percent > SPIKES_PERCENT:
                lines.append(f"{place}: {_spikes(entry.spikes)}")
    return lines


def _drift(place: str, drift: Spread, lasted_s: float) -> list[str]:
    """The drift of a minute; of a shorter measurement only what it saw, because it need not have gone on."""
    span_s = min(lasted_s, MINUTE_S)
    value, low, high = (
        None if end is None else 100 * ((1 + end / 100) ** (span_s / MINUTE_S) - 1)
        for end in (drift.value, drift.low, drift.high)
    )
    if value is None or not (beyond(low, DRIFT_PERCENT) or beyond(high, -DRIFT_PERCENT)):
        return []
    span = "per minute" if span_s == MINUTE_S else f"in {span_s:.1f} s"
    return [f"{place} became {'slower' if value > 0 else 'faster'} by {abs(value):.0f} % {span}"]


def _spikes(spikes: SpikesEntry) -> str:
    times = spikes.longest_ms / max(spikes.median_ms, 1e-9)
    share = f"{spikes.share_percent:.1f} % of the calls took more than twice the median, the longest {times:.0f} times"
    return f"{share}; that is {spikes.time_percent:.0f} % of the time"


def beyond(end: float | None, bound: float) -> bool:
    """Whether the end of an interval is at least as far from zero as the bound, on the same side."""
    return end is not None and end * bound > 0 and abs(end) >= abs(bound)


def measured_with(result: Result) -> str:
    """``ONNX Runtime on the CPU, 1 thread``: the runtimes and the threads of the times."""
    runtimes = runtimes_of(result)
    on_cpu = not runtimes or any("CPU" in runtime for runtime in runtimes)
    threads = sorted({run.threads for run in result.runs}) if on_cpu else []
    shown = [listed(runtimes)] if runtimes else []
    shown += [listed("all threads" if count == 0 else counted(count, "thread") for count in threads)] if threads else []
    return ", ".join(shown) or "not timed"


def runtimes_of(result: Result) -> list[str]:
    """The runtimes of all timed stages, each once."""
    return list(dict.fromkeys(stage.runtime for stage in result.stages if stage.latency and stage.runtime))


def noise_warnings(result: Result) -> list[str]:
    """A sentence for every batch size whose times are NOISY."""
    return [
        f"the times at batch {run.batch} are NOISY, so no decision can be based on them: "
        f"{'; '.join(run.noise.reasons) or 'the machine was busy'}"
        for run in result.runs
        if run.noise.status == "NOISY"
    ]
