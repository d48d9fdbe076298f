"""All devices in one page: device, model, precision and batch size, as HTML in one file or as Markdown."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...core.counts import counted
from ...core.errors import UserError
from ...core.system.atomic_files import write_atomically
from ...core.system.owned_folders import claim_file
from ..edge.store import Row, newest
from . import formatting
from .html_page import rendered
from .markdown_report import escaped, markdown_table

TEMPLATE = "device_table.html.jinja"
MARK = "retort.edge-table/1"
"""Text in the first lines of a page, by which a later one knows that it may replace it."""
_VALID = "VALID"
Noise = Callable[[Row], float]
"""The largest difference between a file and itself on the device of a row, such as 0.02 for 2 %; 0 if not known."""


@dataclass(frozen=True)
class Cell:
    """One measurement as text.

    Attributes:
        time: the median.
        span: its interval; empty without one.
        ratio: how many times faster than the reference of its run; empty for the reference itself.
        against: the reference.
        mark: ``good``, ``bad`` or ``doubt``, as the ratio is judged; empty without a ratio.
        doubt: why nothing can be decided by it; empty if it is valid.
    """

    time: str
    span: str
    ratio: str
    against: str
    mark: str
    doubt: str


@dataclass(frozen=True)
class Line:
    """A model in one way of running it: its cells by device, in the order of the devices, None where not measured."""

    model: str
    precision: str
    way: str
    batch: int
    cells: tuple[Cell | None, ...]


@dataclass(frozen=True)
class DeviceTable:
    """The tables of a page.

    Attributes:
        devices: names, in the order in which they were first measured.
        lines: the comparison of the devices, of the newest measurements.
        columns: of the details.
        details: rows of every device.
        summary: one sentence.
    """

    devices: tuple[str, ...]
    lines: tuple[Line, ...]
    columns: tuple[str, ...]
    details: tuple[tuple[str, tuple[tuple[str, ...], ...]], ...]
    summary: str


def device_table(rows: Sequence[Row], floor: Noise = lambda _: 0.0) -> DeviceTable:
    """The tables of measurements.

    Args:
        rows: of the store, in its order; the newest of each kind are compared.
        floor: differences within it are none.
    """
    keys = list(dict.fromkeys(row.fingerprint for row in rows))
    names = _names(rows, keys)
    ways: dict[tuple[object, ...], dict[str, Row]] = {}
    for row in newest(rows):
        ways.setdefault((row.model, row.sha256, row.runtime, row.cores, row.threads, row.batch), {})[
            row.fingerprint
        ] = row
    lines = []
    for found in ways.values():
        row = next(iter(found.values()))
        cells = tuple(_cell(found[key], floor) if key in found else None for key in keys)
        lines.append(Line(row.model, row.precision or formatting.DASH, _way(row), row.batch, cells))
    order = list(dict.fromkeys(row.model for row in rows))
    lines.sort(key=lambda line: (order.index(line.model), line.way, line.batch))
    shown = [name for name, has in _optional(rows).items() if has]
    columns = ("model", "precision", "runs in", "batch", "median", "p99", "times faster", *shown, "verdict", "measured")
    details = tuple(
        (names[key], tuple(_detail(row, floor, shown) for row in rows if row.fingerprint == key)) for key in keys
    )
    return DeviceTable(tuple(names[key] for key in keys), tuple(lines), columns, details, _summary(rows, len(keys)))


def _names(rows: Sequence[Row], keys: Sequence[str]) -> dict[str, str]:
    """The name of each device, with its fingerprint where two have the same one, as after an update of the system."""
    named = {key: next(row.device for row in rows if row.fingerprint == key) for key in keys}
    known = list(named.values())
    return {key: f"{name}, {key[:6]}" if known.count(name) > 1 else name for key, name in named.items()}


def _summary(rows: Sequence[Row], devices: int) -> str:
    models = len({(row.model, row.sha256) for row in rows})
    usable = sum(row.verdict == _VALID for row in rows)
    told = f"{counted(models, 'model')} on {counted(devices, 'device')}, {counted(len(rows), 'measurement')}"
    return f"{told}, of which {usable} can decide something" if usable < len(rows) else f"{told}, all valid"


def _cell(row: Row, floor: Noise) -> Cell:
    span = ""
    if row.low_ms is not None and row.high_ms is not None:
        span = f"[{formatting.time_text(row.low_ms)}, {formatting.time_text(row.high_ms)}]"
    doubt = "" if row.verdict == _VALID else row.reasons
    doubt = doubt if doubt.startswith(row.verdict) or row.verdict == _VALID else f"{row.verdict}: {doubt}"
    ratio, mark = _ratio(row, floor)
    return Cell(formatting.time_text(row.median_ms), span, ratio, row.against, mark, doubt)


def _ratio(row: Row, floor: Noise) -> tuple[str, str]:
    """How many times faster than the reference, with the interval, and how that is judged."""
    if row.ratio is None:
        return "", ""
    text = f"{formatting.digits(row.ratio)} ×"
    low, high = row.ratio_low, row.ratio_high
    if low is None or high is None:
        return text, "doubt"
    text = f"{formatting.digits(row.ratio)} × [{formatting.digits(low)}, {formatting.digits(high)}]"
    within = max(row.ratio, 1 / row.ratio) <= 1 + floor(row)
    if row.verdict != _VALID or within or low <= 1 <= high:
        return text, "doubt"
    return text, "good" if low > 1 else "bad"


def _way(row: Row) -> str:
    cores = "" if row.cores == "all" else f" on {row.cores} cores"
    runtime = f"{row.runtime}, " if row.runtime else ""
    return f"{runtime}{counted(row.threads, 'thread')}{cores}"


def _optional(rows: Sequence[Row]) -> dict[str, bool]:
    """The columns that not every store has, and whether this one does."""
    return {
        "metric": any(row.value is not None for row in rows),
        "memory": any(row.peak_bytes for row in rows),
        "mJ per sample": any(row.energy_mj is not None for row in rows),
    }


def _detail(row: Row, floor: Noise, shown: Sequence[str]) -> tuple[str, ...]:
    metric = formatting.DASH
    if row.value is not None:
        metric = f"{row.metric} {formatting.metric_value(row.metric, row.value)}"
    energy = formatting.DASH if row.energy_mj is None else formatting.digits(row.energy_mj)
    more = {"metric": metric, "memory": formatting.bytes_text(row.peak_bytes), "mJ per sample": energy}
    cell = _cell(row, floor)
    return (
        row.model,
        row.precision or formatting.DASH,
        _way(row),
        str(row.batch),
        f"{cell.time} {cell.span}".strip(),
        formatting.time_text(row.p99_ms) if row.p99_ms is not None else "n too small",
        _against(cell) or "reference",
        *(more[name] for name in shown),
        cell.doubt or row.verdict,
        row.started[:10],
    )


def ratio_text(row: Row, floor: Noise) -> str:
    """How many times faster a measurement is than its reference, with interval and judgement; empty for a reference."""
    return _against(_cell(row, floor))


def _against(cell: Cell | None) -> str:
    """The ratio with its reference and its judgement; empty without one."""
    if cell is None or not cell.ratio:
        return ""
    return f"{cell.ratio} {cell.against}{': cannot tell' if cell.mark == 'doubt' else ''}"


def claim_table(path: Path | None, suffix: str) -> None:
    """Fail before any work if a page may not be written to a file.

    Raises:
        UserError: it has another ending, its folder does not exist, or it is a file that Retort did not write.
    """
    if path is None:
        return
    if path.suffix != suffix:
        raise UserError(f"{path} does not end in {suffix}", f"give a path that ends in {suffix}")
    if not path.parent.is_dir():
        raise UserError(f"the folder {path.parent} does not exist", "create it, or choose another path")
    claim_file(path, False, mark=MARK)


def write_table_page(found: DeviceTable, path: Path) -> None:
    """Write the page as HTML; it loads nothing from the network.

    Raises:
        StorageError: the disk is full or not writable.
    """
    now = datetime.datetime.now(datetime.UTC).isoformat(" ", "minutes")[:16]
    page = rendered(__name__.rpartition(".")[0], TEMPLATE, table=found, mark=MARK, written=now)
    write_atomically(path, page.encode())


def write_table_markdown(found: DeviceTable, path: Path) -> None:
    """Write the page as Markdown.

    Raises:
        StorageError: the disk is full or not writable.
    """
    parts = [f"<!-- Retort, {MARK} -->", f"**{escaped(found.summary)}**"]
    heads = ["model", "precision", "runs in", "batch", *found.devices]
    parts.append(markdown_table(heads, [_markdown_line(line) for line in found.lines]))
    for name, rows in found.details:
        parts += [f"### {escaped(name)}", markdown_table(list(found.columns), [list(row) for row in rows])]
    write_atomically(path, ("\n\n".join(parts) + "\n").encode())


def _markdown_line(line: Line) -> list[str]:
    cells = [formatting.DASH if cell is None else _markdown_cell(cell) for cell in line.cells]
    return [line.model, line.precision, line.way, str(line.batch), *cells]


def _markdown_cell(cell: Cell) -> str:
    doubt = f" ({cell.doubt.partition(':')[0]})" if cell.doubt else ""
    return ", ".join(part for part in (cell.time, _against(cell)) if part) + doubt
