"""The HTML report of a run in one file: the verdict first, then stages, gates, plots, machine and command."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from ...core.metrics.task_metrics import HIGHER_IS_BETTER
from ...core.system.atomic_files import write_atomically
from ..machine import describe, int8_outlook
from ..result import GateEntry, LatencyEntry, PercentileEntry, Result, Spread, StageEntry
from ..stage_details import StageDetails
from . import formatting
from .class_table import class_table
from .plots import all_plots
from .table import measured_with

TEMPLATE = "report.html.jinja"
ENDINGS = ("passed", "MISSED")


def write_report(result: Result, path: Path, title: str | None = None) -> None:
    """Write the report; it loads nothing from the network.

    Args:
        title: title of the report; by default the title of the result.

    Raises:
        StorageError: the disk is full or not writable.
    """
    write_atomically(path, render(result, title).encode())


def render(result: Result, title: str | None = None) -> str:
    """The report as HTML text."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(time=formatting.time_text, bytes=formatting.bytes_text, count=formatting.count_text)
    template = environment.from_string((files(__package__) / TEMPLATE).read_text(encoding="utf-8"))
    return template.render(
        title=title or result.title,
        result=result,
        verdict=verdict(result),
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


def verdict(result: Result) -> list[str]:
    """The verdict in sentences: the last stage against the reference, the gates, and doubts about the machine."""
    stage = last_stage(result)
    sentences = []
    if stage.stage != result.reference:
        speeds = [_speed_words(batch, entry) for batch, entry in sorted(stage.latency.items()) if entry.ratio]
        first = [speeds[0].replace(" at batch", f" than “{result.reference}” at batch", 1)] if speeds else []
        parts = [*first, _size_words(result, stage), _loss_words(result, stage)]
        sentences.append(f"“{stage.stage}” is {_joined([part for part in parts if part])}.")
        sentences += [f"It is {speed}." for speed in speeds[1:]]
    missed = [gate for gate in result.gates if not gate.passed]
    if result.gates:
        number = len(result.gates)
        passed = "The gate passed." if number == 1 else f"All {number} gates passed."
        failed = "The gate was not passed." if number == 1 else f"{len(missed)} of {number} gates were not passed."
        sentences.append(failed if missed else passed)
    noisy = [run for run in result.runs if run.noise.status == "NOISY"]
    if noisy:
        where = ", ".join(str(run.batch) for run in noisy)
        sentences.append(f"Latency at batch {where} was measured on a busy machine, so no decision can be based on it.")
    return sentences


def last_stage(result: Result) -> StageEntry:
    """The stage of the verdict: the last one with accuracy and latency, or else the last one."""
    full = [stage for stage in result.stages if stage.latency and stage.metric]
    return (full or list(result.stages))[-1]


def tiles(result: Result) -> list[dict[str, str]]:
    """The three or four most important numbers."""
    stage, reference = last_stage(result), result.stage(result.reference)
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
        value = formatting.drop_value(name, _negative(name, stage.drop.value), signed=True)
        shown.append({"value": value, "name": name, "note": note})
    return shown


def _change_range(name: str, drop: Spread) -> str:
    """The interval of the change of a metric, with the sign of the change: minus the loss where higher is better."""
    if not HIGHER_IS_BETTER[name]:
        return formatting.drop_range(name, drop)
    ends = {"low": None if drop.high is None else -drop.high, "high": None if drop.low is None else -drop.low}
    return formatting.drop_range(name, drop.model_copy(update=ends))


def _speed_tile(batch: int, entry: LatencyEntry) -> dict[str, str]:
    note = f"{formatting.range_text(entry.ratio)}, {formatting.time_text(entry.median_ms.value)}"
    return {"value": formatting.ratio_text(entry.ratio), "name": f"speed at batch {batch}", "note": note}


def _speed_words(batch: int, entry: LatencyEntry) -> str:
    """``3.1× faster at batch 1 (95 % CI 3.0 to 3.2)``."""
    ratio = entry.ratio
    if ratio is None or not ratio.value:
        return ""
    ends = [ratio.low, ratio.high]
    how = f"{formatting.digits(ratio.value)}× faster"
    if entry.verdict == "slower":
        ends = [1 / end if end else None for end in reversed(ends)]
        how = f"{formatting.digits(1 / ratio.value)}× slower"
    elif entry.verdict == "cannot tell":
        how = "not measurably faster or slower"
    if ends == [None, None]:
        return f"{how} at batch {batch} (not bounded: too few rounds)"
    span = " to ".join("not bounded" if end is None else formatting.digits(end) for end in ends)
    return f"{how} at batch {batch} ({formatting.percent(ratio.confidence)} CI {span})"


def _size_words(result: Result, stage: StageEntry) -> str:
    ratio = result.stage(result.reference).size_bytes / max(stage.size_bytes, 1)
    return f"{formatting.digits(ratio)}× smaller" if ratio >= 1 else f"{formatting.digits(1 / ratio)}× larger"


def _loss_words(result: Result, stage: StageEntry) -> str:
    if stage.metric is None or stage.drop is None or stage.drop.value is None:
        return ""
    name, drop = stage.metric.name, stage.drop
    assert drop.value is not None
    change = formatting.drop_value(name, _negative(name, drop.value), signed=True)
    ends = sorted(_negative(name, end) for end in (drop.high, drop.low) if end is not None)
    span = " to ".join(
        formatting.drop_value(name, end, signed=True).removesuffix(" pp").removesuffix(" dB") for end in ends
    )
    gate = next((g for g in result.gates if g.stage == stage.stage and g.kind == "accuracy_drop"), None)
    remark = ""
    if gate is not None:
        remark = {"passed": ", within the gate", "failed": ", outside the gate"}.get(gate.verdict, ", gate undecided")
    elif (drop.low or 0) <= 0 <= (drop.high or 0):
        remark = ", no difference shown"
    return f"with {name} {change} ({formatting.percent(drop.confidence)} CI {span}{remark})"


def _negative(name: str, loss: float) -> float:
    """The change of the metric: minus the loss, or the loss itself for error metrics."""
    return -loss if HIGHER_IS_BETTER[name] else loss


def _joined(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}".replace(" and with ", ", with ")


def _stage_cells(result: Result, stage: StageEntry) -> dict[str, Any]:
    metric, drop = stage.metric, None if stage.stage == result.reference else stage.drop
    return {
        "stage": stage,
        "reference": stage.stage == result.reference,
        "metric": formatting.metric_value(metric.name, metric.value) if metric else formatting.DASH,
        "metric_range": formatting.metric_range(metric.name, metric) if metric else "",
        "drop": formatting.drop_value(metric.name, drop.value) if metric and drop else formatting.DASH,
        "drop_range": formatting.drop_range(metric.name, drop) if metric and drop else "",
        "latency": [_latency_cell(stage.latency.get(batch)) for batch in _batches(result)],
    }


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
