"""Tables of ONNX's node tests by verdict, on the console and for the result page."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import onnx

VERDICTS = ("right", "refused", "wrong", "crash")
_REMEDY = "\n  → "


def table(rows: Sequence[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """One line per operator that is not right in every test, and what it is refused for."""
    found: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        found.setdefault(row["operator"], []).append(row)
    lines = []
    for operator, group in sorted(found.items()):
        counts = Counter(row["verdict"] for row in group)
        reasons = [row["reason"].partition(_REMEDY)[0] for row in group if row["verdict"] != "right"]
        if reasons:
            lines.append([operator, *(str(counts[verdict]) for verdict in VERDICTS), _plain(reasons[0])])
    return ["operator", *VERDICTS, "reason"], lines


def _plain(reason: str) -> str:
    """A reason without the folders of this run."""
    return re.sub(r"/\S*/(\w+\.onnx)", r"\1", reason)[:160]


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Counts by verdict of all tests, and of those that compute floating-point numbers."""
    result: dict[str, Any] = {}
    for key, group in (("all", rows), ("float", [row for row in rows if row["floating"]])):
        counts = Counter(row["verdict"] for row in group)
        result[key] = {"tests": len(group), **{verdict: counts[verdict] for verdict in VERDICTS}}
    return result


def page(rows: Sequence[dict[str, Any]], total: int) -> str:
    """The result page in Markdown: counts by verdict, and each operator that is not right in every test."""
    counts = summary(rows)
    head = ["tests", *VERDICTS]
    names = {"all": "all", "float": "floating point, from tensors of numbers"}
    lines = ["| | " + " | ".join(head) + " |", "| --- |" + " ---: |" * len(head)]
    lines += [
        f"| {names[key]} | " + " | ".join(f"{counts[key][item]:,}" for item in head) + " |" for key in ("all", "float")
    ]
    columns, refused = table(rows)
    lines += ["", "| " + " | ".join(columns) + " |", "| --- |" + " ---: |" * len(VERDICTS) + " --- |"]
    lines += ["| " + " | ".join(item.replace("|", "\\|").replace("\n", " ") for item in row) + " |" for row in refused]
    measured = f"{len(rows):,} of the {total:,} node tests of onnx {onnx.__version__} were run.\n"
    return measured + "\n" + "\n".join(lines) + "\n"
