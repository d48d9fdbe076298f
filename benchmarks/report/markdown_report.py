"""A result as Markdown for a pull request or a README: the verdict first, the tables, the machine and the command."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape
from pathlib import Path

from ...core.system.atomic_files import write_atomically
from ..machine import describe
from ..result import LatencyEntry, Result, StageEntry
from . import formatting
from .html_report import starts_of
from .table import measured_with
from .tradeoff_plots import p99_of
from .verdict import verdict


def write_markdown(result: Result, path: Path, faults: Sequence[str] = ()) -> None:
    """Write the page.

    Args:
        faults: figures that do not follow from the raw times; the result is INVALID then.

    Raises:
        StorageError: the disk is full or not writable.
    """
    write_atomically(path, markdown(result, faults).encode())


def markdown(result: Result, faults: Sequence[str] = ()) -> str:
    """The page as text."""
    first, *more = [*verdict(result, faults), ""]
    parts = [
        f"<!-- Retort, {result.schema_} -->",
        f"**{escaped(first)}**" if first else f"**{escaped(result.title)}**",
        escaped(" ".join(more)),
        markdown_table(*_measured(result)),
    ]
    if faults:
        parts.append("\n".join(f"* {escaped(fault)}" for fault in faults[:20]))
    if starts := starts_of(result):
        columns = ["stage", "import", "load", "cold", "first", "steady", "memory", "starts"]
        heads = ["model", "import", "load", "load, file not cached", "first", "steady after", "memory", "starts"]
        parts += ["Starts of new processes:", markdown_table(heads, [[row[key] for key in columns] for row in starts])]
    if result.gates:
        parts.append("\n".join(f"* {gate.verdict}: {escaped(gate.sentence)}" for gate in result.gates))
    parts += [f"* {escaped(line)}" for line in ("; ".join(_facts(result)), *result.notes) if line]
    parts.append(command_block(result.command))
    return "\n\n".join(part for part in parts if part) + "\n"


def _measured(result: Result) -> tuple[list[str], list[list[str]]]:
    """Columns and rows: one row for each model."""
    batches = sorted({batch for stage in result.stages for batch in stage.latency})
    metric = next((stage.metric.name for stage in result.stages if stage.metric), None)
    energy = any(stage.energy is not None for stage in result.stages)
    columns = ["model", "size", *([metric, formatting.loss_name(metric)] if metric else [])]
    columns += [name for batch in batches for name in (f"batch {batch}", "p99", "× faster")]
    columns += ["mJ per sample"] if energy else []
    return columns, [_row(result, stage, batches, metric is not None, energy) for stage in result.stages]


def _row(result: Result, stage: StageEntry, batches: Sequence[int], metric: bool, energy: bool) -> list[str]:
    row = [stage.stage, formatting.bytes_text(stage.size_bytes)]
    if metric:
        row += _accuracy(stage, stage.stage == result.reference)
    for batch in batches:
        row += _latency(stage, batch)
    if energy:
        used = stage.energy
        row.append(formatting.DASH if used is None else f"{formatting.digits(used.net_mj)} net")
    return row


def _accuracy(stage: StageEntry, is_reference: bool) -> list[str]:
    if stage.metric is None:
        return [formatting.DASH] * 2
    name, drop = stage.metric.name, stage.drop
    shown = f"{formatting.metric_value(name, stage.metric.value)} {formatting.metric_range(name, stage.metric)}"
    if drop is None or is_reference:
        return [shown, formatting.DASH]
    return [shown, f"{formatting.drop_value(name, drop.value)} {formatting.drop_range(name, drop)}"]


def _latency(stage: StageEntry, batch: int) -> list[str]:
    entry: LatencyEntry | None = stage.latency.get(batch)
    if entry is None:
        return [formatting.DASH] * 3
    worst = p99_of(stage, batch)
    p99 = formatting.time_text(worst[1]) if worst else "n too small"
    if entry.ratio is None:
        return [formatting.time_text(entry.median_ms.value), p99, "1×"]
    doubt = " ?" if entry.verdict == "cannot tell" else ""
    ratio = f"{formatting.ratio_text(entry.ratio)} {formatting.range_text(entry.ratio)}{doubt}"
    return [formatting.time_text(entry.median_ms.value), p99, ratio]


def _facts(result: Result) -> list[str]:
    facts = [measured_with(result), describe(result.env) if "cpu" in result.env else ""]
    facts += [f"Retort {result.tool.get('version', 'unknown')}", f"measured {result.started[:16]} UTC"]
    return [fact for fact in facts if fact]


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table whose first column is aligned to the left, and the others to the right."""
    aligned = ["---", *["---:"] * (len(columns) - 1)]
    lines = [[escaped(cell) for cell in columns], aligned, *([escaped(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def command_block(command: str) -> str:
    """A block of code with a fence that the command does not contain."""
    longest = max((len(run) for run in re.findall("`+", command)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}\n{command}\n{fence}"


def escaped(text: str) -> str:
    """Text in which nothing is markup, a mention or an end of a cell."""
    plain = escape(" ".join(text.split()), quote=False).replace("@", "&#64;")
    return re.sub(r"([\\`*_\[\]|~#$])", r"\\\1", plain)
