"""The figures of each class in the reference and in the last stage, and what is taken for what, as tables."""

from __future__ import annotations

from typing import Any

from ...core.counts import counted
from ..result import ClassEntry, Result
from . import formatting

MOST_CONFUSED = 20
"""Largest number of classes of a table of what is taken for what."""
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
        return {"share": formatting.DASH, "range": "", "more": ""}
    precision = formatting.DASH if entry.precision is None else formatting.metric_value("precision", entry.precision)
    return {
        "share": formatting.metric_value("accuracy", entry.share.value),
        "range": formatting.metric_range("accuracy", entry.share),
        "more": "" if entry.f1 is None else f"precision {precision}, F1 {formatting.metric_value('f1', entry.f1)}",
    }


def confusion_table(result: Result) -> dict[str, Any] | None:
    """What the last judged stage takes for what: its name, the classes, and a row of counts per true class.

    Returns:
        None if there are no counts, or more than 20 classes.
    """
    judged = [stage for stage in result.stages if stage.confusion]
    if not judged or len(judged[-1].confusion) > MOST_CONFUSED:
        return None
    last = judged[-1]
    names = {index: str(index) for index in range(len(last.confusion))}
    occurring = (index for index, row in enumerate(last.confusion) if sum(row))
    names |= dict(zip(occurring, (entry.name for entry in last.classes), strict=False))
    rows = [
        {"name": names[index], "cells": [{"count": count, "right": index == place} for place, count in enumerate(row)]}
        for index, row in enumerate(last.confusion)
    ]
    return {"stage": last.stage, "names": list(names.values()), "rows": rows}
