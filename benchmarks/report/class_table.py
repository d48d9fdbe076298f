"""The accuracy of each class in the reference and in the last stage, as a table of the report."""

from __future__ import annotations

from typing import Any

from ...core.counts import counted
from ..result import ClassEntry, Result
from . import formatting

SHOWN = 30
"""Largest number of classes in the table; if there are more, those that fell furthest come first."""


def class_table(result: Result) -> dict[str, Any] | None:
    """Names of the compared stages, and a row per class with its samples and the share that is right in each stage.

    Returns:
        None if the classes have no names, or no stage was judged.
    """
    judged = [stage for stage in result.stages if stage.classes]
    if not judged:
        return None
    first = next((stage for stage in judged if stage.stage == result.reference), judged[0])
    compared = list({stage.stage: stage for stage in (first, judged[-1])}.values())
    known = [{entry.name: entry for entry in stage.classes} for stage in compared]
    names = [entry.name for entry in first.classes]
    if len(names) > SHOWN:
        names = sorted(names, key=lambda name: _change(known, name))[:SHOWN]
    rows = [
        {"name": name, "n": known[0][name].n, "cells": [_cell(stage.get(name)) for stage in known]} for name in names
    ]
    left = len(first.classes) - len(rows)
    worse = ", which fell no further than these," if len(compared) > 1 else ""
    verb = "is" if left == 1 else "are"
    note = f"{counted(left, 'other class')}{worse} {verb} left out." if left else ""
    return {"stages": [stage.stage for stage in compared], "rows": rows, "note": note}


def _change(known: list[dict[str, ClassEntry]], name: str) -> float:
    values = [stage[name].share.value or 0.0 for stage in known if name in stage]
    return values[-1] - values[0]


def _cell(entry: ClassEntry | None) -> dict[str, str]:
    if entry is None:
        return {"share": formatting.DASH, "range": ""}
    return {
        "share": formatting.metric_value("accuracy", entry.share.value),
        "range": formatting.metric_range("accuracy", entry.share),
    }
