"""The HTML report of a run in one file: the verdict first, then stages, gates, plots, machine and command."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...core.metrics.task_metrics import higher_is_better
from ...core.system.atomic_files import write_atomically
from ..machine import describe, int8_outlook
from ..result import GateEntry, LatencyEntry, PercentileEntry, Result, Spread, StageEntry
from ..stage_details import StageDetails
from . import formatting
from .class_table import class_table, confusion_table
from .html_page import rendered
from .plots import all_plots
from .table import measured_with
from .verdict import change_of, headline, verdict

TEMPLATE = "report.html.jinja"
ENDINGS = ("passed", "MISSED")


def write_report(result: Result, path: Path, title: str | None = None, faults: Sequence[str] = ()) -> None:
    """Write the report; it loads nothing from the network.

    Args:
        title: title of the report; by default the title of the result.
        faults: see :func:`render`.

    Raises:
        StorageError: the disk is full or not writable.
    """
    write_atomically(path, render(result, title, faults).encode())


def render(result: Result, title: str | None = None, faults: Sequence[str] = ()) -> str:
    """The report as HTML text.

    Args:
        faults: figures that do not follow from the raw times, because the result was edited; it is INVALID then.
    """
    return rendered(
        __name__.rpartition(".")[0],
        TEMPLATE,
        title=title or result.title,
        result=result,
        verdict=verdict(result, faults),
        faults=faults,
        starts=starts_of(result),
        noun="stage" if result.details or result.gates else "model",
        has_parameters=any(stage.parameters is not None for stage in result.stages),
        has_energy=any(stage.energy is not None for stage in result.stages),
        has_macs=any(stage.macs is not None for stage in result.stages),
        tiles=tiles(result),
        batches=_batches(result),
        metric=_metric_name(result),
        loss=formatting.loss_name(_metric_name(result) or "accuracy"),
        stages=[_stage_cells(result, stage) for stage in result.stages],
        plots=[{"plot": plot, "drawing": plot.svg} for plot in all_plots(result)],
        machine=describe(result.env) if "cpu" in result.env else "",
        outlook=int8_outlook(result.env["cpu"]["features"])[1] if "cpu" in result.env else "",
        percentiles=_percentiles(result),
        gates=[_gate(gate) for gate in result.gates],
        details=[_told(item) for item in result.details],
        proofs=[(item.stage, proof) for item in result.details for proof in item.proofs],
        outputs=[(item.stage, noise) for item in result.details for noise in item.outputs],
        int8=[item for item in result.details if item.integer or item.floating],
        measured_with=measured_with(result),
        classes=class_table(result),
        confusion=confusion_table(result),
    )  # fmt: skip


def _gate(gate: GateEntry) -> dict[str, str]:
    """A gate with its verdict once: the sentence ends with the reason of "cannot tell", if there is one."""
    sentence, _, ending = gate.sentence.rpartition(": ")
    if not sentence or not ending.startswith(ENDINGS):
        sentence, because = gate.sentence.partition(": CANNOT TELL, ")[::2]
        ending = f": {because}" if because else ""
        return {"verdict": gate.verdict, "sentence": sentence + ending}
    return {"verdict": gate.verdict, "sentence": sentence}


def _told(item: StageDetails) -> dict[str, Any]:
    """A stage's options as text: those that the recipe sets, and all others."""
    options = {name: _option_text(value) for name, value in item.options.items()}
    own = {name: item.options[name] for name in ("model",) if name in item.options}
    chosen = {name: _option_text(value) for name, value in {**own, **item.chosen}.items()}
    return {"stage": item.stage, "did": item.did, "chosen": chosen, "all": options}


def _option_text(value: Any) -> str:
    """An option as in a recipe; options inside of it that have their zero value are left out."""
    if isinstance(value, dict):
        parts = (f"{name}: {_option_text(inner)}" for name, inner in value.items() if inner not in (None, {}, []))
        return f"{{{', '.join(parts)}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_option_text, value))}]"
    if isinstance(value, float):
        return f"{value:g}"
    return {"True": "true", "False": "false", "None": "null"}.get(str(value), str(value))


def tiles(result: Result) -> list[dict[str, str]]:
    """The three or four most important numbers."""
    stage, reference = headline(result), result.stage(result.reference)
    if stage.stage == reference.stage:
        return []
    shown = [_speed_tile(batch, entry) for batch, entry in sorted(stage.latency.items())[:2] if entry.ratio]
    size = f"{formatting.bytes_text(reference.size_bytes)} → {formatting.bytes_text(stage.size_bytes)}"
    shown.append(
        {"value": f"÷ {formatting.digits(reference.size_bytes / stage.size_bytes)}", "name": "size", "note": size}
    )
    if stage.metric and stage.drop and stage.drop.value is not None:
        name = stage.metric.name
        note = f"{_change_range(name, stage.drop)}, {formatting.percent(stage.drop.confidence)} interval"
        value = formatting.drop_value(name, change_of(name, stage.drop.value), signed=True)
        shown.append({"value": value, "name": name, "note": note})
    return shown


def _change_range(name: str, drop: Spread) -> str:
    """The interval of the change of a metric, with the sign of the change: minus the loss where higher is better."""
    if not higher_is_better(name):
        return formatting.drop_range(name, drop)
    ends = {"low": None if drop.high is None else -drop.high, "high": None if drop.low is None else -drop.low}
    return formatting.drop_range(name, drop.model_copy(update=ends))


def _speed_tile(batch: int, entry: LatencyEntry) -> dict[str, str]:
    note = f"{formatting.range_text(entry.ratio)}, {formatting.time_text(entry.median_ms.value)}"
    return {"value": formatting.ratio_text(entry.ratio), "name": f"speed at batch {batch}", "note": note}


def _stage_cells(result: Result, stage: StageEntry) -> dict[str, Any]:
    metric, drop = stage.metric, None if stage.stage == result.reference else stage.drop
    return {
        "stage": stage,
        "reference": stage.stage == result.reference,
        "metric": formatting.metric_value(metric.name, metric.value) if metric else formatting.DASH,
        "metric_range": formatting.metric_range(metric.name, metric) if metric else "",
        "drop": formatting.drop_value(metric.name, drop.value) if metric and drop else formatting.DASH,
        "drop_range": formatting.drop_range(metric.name, drop) if metric and drop else "",
        "energy": _energy_cell(stage),
        "latency": [_latency_cell(stage.latency.get(batch)) for batch in _batches(result)],
    }


def _energy_cell(stage: StageEntry) -> dict[str, str]:
    if stage.energy is None:
        return {"value": formatting.DASH, "note": ""}
    used = stage.energy
    ends = f"[{formatting.digits(used.low_mj)}, {formatting.digits(used.high_mj)}]"
    return {"value": f"{formatting.digits(used.net_mj)} mJ", "note": f"{ends}, {used.source}"}


def _latency_cell(entry: LatencyEntry | None) -> dict[str, str]:
    if entry is None:
        return {"time": formatting.DASH, "ratio": "", "range": "", "verdict": ""}
    ratio = "reference" if entry.ratio is None else formatting.ratio_text(entry.ratio)
    shown = {
        "time": formatting.time_text(entry.median_ms.value),
        "ratio": ratio,
        "range": formatting.range_text(entry.ratio),
    }
    return {**shown, "verdict": {"faster": "good", "slower": "bad", "cannot tell": "doubt"}.get(entry.verdict, "")}


def starts_of(result: Result) -> list[dict[str, str]]:
    """The start of each model in milliseconds, as text."""
    return [
        {
            "stage": stage.stage,
            "import": formatting.time_text(1e3 * start.import_s),
            "load": formatting.time_text(1e3 * start.load_s),
            "cold": formatting.time_text(None if start.cold_file_load_s is None else 1e3 * start.cold_file_load_s),
            "first": formatting.time_text(1e3 * start.first_s),
            "steady": formatting.time_text(1e3 * start.steady_s),
            "memory": formatting.bytes_text(stage.memory.model_bytes if stage.memory else None),
            "starts": str(start.starts),
        }
        for stage in result.stages
        if (start := stage.start) is not None
    ]


def _percentiles(result: Result) -> list[dict[str, Any]]:
    return [
        {
            "stage": stage.stage,
            "batch": batch,
            "cells": [_percentile_cell(item) for item in entry.percentiles],
            "rows": formatting.count_text(entry.rows_per_second),
        }
        for stage in result.stages
        for batch, entry in sorted(stage.latency.items())
    ]


def _percentile_cell(item: PercentileEntry) -> dict[str, str]:
    if item.value_ms is None:
        return {"value": "n too small", "range": f"{item.n} of {item.needed} samples"}
    span = f"[{formatting.time_text(item.low_ms)}, {formatting.time_text(item.high_ms)}]"
    return {"value": formatting.time_text(item.value_ms), "range": span}


def _batches(result: Result) -> list[int]:
    return sorted({batch for stage in result.stages for batch in stage.latency})


def _metric_name(result: Result) -> str:
    return next((stage.metric.name for stage in result.stages if stage.metric), "")
