"""The table and the result page of the suite ``real_networks``: one line per network and file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

COLUMNS = (
    *("net", "metric", "file", "value", "drop", "agreement", "SQNR dB", "INT8 MACs", "kB"),
    *("batch 1", "larger batch", "remarks"),
)
NONE = "–"
Row = dict[str, Any]


def lines(rows: Sequence[Row]) -> list[list[str]]:
    """The cells of the table."""
    found = []
    for row in rows:
        files = dict(row.get("files", {}))
        if "fault" in row:
            files.setdefault("INT8", {"error": row["fault"]})
        for name, state in files.items():
            own = name == "INT8" and "integer_macs" in row
            share = f"{row['integer_macs']:.0f} %" if own else ""
            remark = "`prefer: fastest` ships FP32" if own and row.get("ships") == "FP32" else ""
            found.append([row["net"], row["metric"], name, *_cells(state, row.get("unit", "%"), share, remark)])
    return found


def _cells(state: Row, unit: str, share: str, remark: str) -> list[str]:
    if "metric" not in state:
        return [*[NONE] * 5, "", *[NONE] * 2, " ".join(str(state.get("error", "")).partition("\n")[0].split())[:200]]
    noise = ", ".join("equal" if value is None else f"{value:.1f}" for value in state.get("sqnr_db", {}).values())
    agreement = state.get("agreement")
    scale, form, apart = (1, ".2f", " dB") if unit == "dB" else (100, ".1f", " pp")
    return [
        f"{scale * state['metric'][0]:{form}} {unit}",
        _interval([scale * value for value in state["drop"]], f"+{form}", apart) if "drop" in state else NONE,
        f"{agreement:.1%}" if agreement is not None else NONE,
        noise or NONE,
        share,
        f"{state['size_bytes'] / 1000:,.0f}",
        *_speeds(state),
        remark,
    ]


def _speeds(state: Row) -> list[str]:
    found = state.get("speedup", {})
    times = state.get("ms", {})
    cells = [_interval(found[batch], ".2f", "×") if batch in found else f"{times[batch]:.2f} ms" for batch in times]
    sizes = list(times)
    return [cells[0] if cells else NONE, f"{sizes[1]}: {cells[1]}" if len(cells) > 1 else NONE]


def _interval(values: Sequence[float | None], form: str, unit: str = "") -> str:
    shown = ["?" if value is None else f"{value:{form}}".replace("-", "−") for value in values]
    return f"{shown[0]}{unit} [{shown[1]}, {shown[2]}]"


def page(rows: Sequence[Row]) -> str:
    """The tables of the result page in Markdown."""
    table = ["| " + " | ".join(COLUMNS) + " |", "| --- | --- | --- |" + " ---: |" * (len(COLUMNS) - 4) + " --- |"]
    before = ""
    for cells in lines(rows):
        repeated = cells[0] == before
        before = cells[0]
        shown = ["", "", *cells[2:]] if repeated else cells
        table.append("| " + " | ".join(cell.replace("|", "\\|") for cell in shown) + " |")
    spent = ["| net | INT8 MACs | CPU s of `quantize` | s of all | peak MB |", "| --- |" + " ---: |" * 4]
    for row in rows:
        keys = ("integer_macs", "quantize_cpu_s", "seconds", "peak_mb")
        cells = [f"{row[key]:,.0f}" if key in row else NONE for key in keys]
        spent.append("| " + " | ".join([row["net"], *cells]) + " |")
    return "\n".join([*table, "", *spent]) + "\n"
