"""The table of the export suite: one line per model, and counts per part."""

from __future__ import annotations

from typing import Any

from .exporting_shapes import PARTS, Row

COLUMNS = (
    *("model", "free axes", "nodes", "parity", "shapes", "bytes", "parser", "height, width", "imported"),
    *("INT8 cpu dB", "MACs %", "int/float", "INT8 trt dB", "MACs %", "parser", "plan MB", "FP16/FP32", "fault"),
)
NONE = "–"


def line(name: str, rows: dict[str, Row]) -> list[str]:
    """The cells of one model."""
    export, back = rows.get("export", {}), rows.get("import", {})
    faults = [row["fault"] for row in rows.values() if "fault" in row]
    cells = [name, ", ".join(export.get("axes", ())) or NONE, str(export.get("nodes", NONE))]
    cells += [f"{export['parity']:.0e}" if "parity" in export else NONE, _shapes(export)]
    cells += [("same" if export["same_bytes"] else "other") if "same_bytes" in export else NONE]
    cells += [_verdict(export)]
    sized = rows.get("sizes", {})
    cells += [_shapes(sized) if "shapes" in sized else str(sized.get("sizes", NONE)), _shapes(back)]
    other = rows.get("int8-tensorrt", {})
    cells += [*_int8(rows.get("int8", {}), True), *_int8(other, False), _verdict(other)]
    return [*cells, *_engine(rows.get("engine", {})), "; ".join(faults)[:90]]


def _shapes(row: Row) -> str:
    """``3e-07 at 3``: the largest error, and the number of shapes that the program supports."""
    errors = [item["error"] for item in row.get("shapes", ()) if "error" in item]
    return f"{max(errors):.0e} at {len(errors)}" if errors else NONE


def _verdict(row: Row) -> str:
    """The number of layers that the parser makes from the file, or ``refused``."""
    return f"{row['parsed_layers']}" if "parsed_layers" in row else "refused" if "parser" in row else NONE


def _int8(row: Row, kernels: bool) -> list[str]:
    if "sqnr_db" not in row:
        return [NONE] * (3 if kernels else 2)
    ratio = NONE if row["sqnr_db"] is None else f"{row['sqnr_db']:.1f}"
    return [ratio, f"{row['integer_macs']:.0f}", *([f"{row['integer']}/{row['floating']}"] if kernels else [])]


def _engine(row: Row) -> list[str]:
    if "file" not in row:
        return [NONE, NONE]
    full, half = row["file"], row.get("fp16")
    share = f"{half['weights_bytes'] / full['weights_bytes']:.2f}" if half and full["weights_bytes"] else NONE
    return [f"{full['plan_bytes'] / 1e6:.1f}", share]


def counts(found: dict[str, dict[str, Row]]) -> dict[str, Any]:
    """Number of models without a fault, by part; with dynamic axes; and accepted by the parser."""
    rows = list(found.values())
    good = {part: sum(part in row and "fault" not in row[part] for row in rows) for part in PARTS}
    exports = [row["export"] for row in rows if "export" in row]
    return {
        "models": len(rows),
        **{part: count for part, count in good.items() if any(part in row for row in rows)},
        "free_sequence": sum(bool(row.get("axes")) for row in exports),
        "free_sides": sum(bool(row.get("sizes", {}).get("axes")) for row in rows),
        "parsed": sum("parsed_layers" in row for row in exports),
        "parsed_int8": sum("parsed_layers" in row.get("int8-tensorrt", {}) for row in rows),
    }
