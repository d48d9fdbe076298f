"""Comparison of two results: the change of each stage that both contain, and whether it is certain."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...core.errors import UserError
from ...core.metrics.intervals import Interval
from ...core.metrics.ratio import Ratio
from ...core.metrics.task_metrics import higher_is_better
from ..repeatability.noise_floor import known_floor
from ..result import LatencyEntry, Result, Spread, StageEntry, load_result
from ..spreads import RatioEntry
from ..timing.statistics import Verdict, unpaired_ratio
from . import formatting

# Two runs of one file on one machine differ by memory layout and other load; benchmarks.md B9 allows 5 % under load.
BETWEEN_RUNS = 0.05
MACHINE_KEYS = ("machine", "kernel", "memory_bytes")


@dataclass(frozen=True)
class Change:
    """One stage in both results.

    Attributes:
        size_ratio: bytes after / before.
        drop: how much worse the metric became, with an interval for independent samples; on the same samples it is
            wider than necessary. Exactly 0 for the same file with the same metric on the same data. None if either
            stage has no metric, or another one.
        speed: by batch size, how many times faster the second is.
        verdicts: by batch size; ``cannot tell`` for changes within 5 %, the spread between runs, or within the noise
            floor of the machine if that is larger, and if either run is NOISY or the two were timed by different
            clocks.
    """

    stage: str
    before: StageEntry
    after: StageEntry
    size_ratio: float
    drop: Interval | None
    speed: dict[int, Ratio]
    verdicts: dict[int, Verdict]


@dataclass(frozen=True)
class Comparison:
    """Two results; ``notes`` explain what limits the comparison."""

    changes: tuple[Change, ...]
    notes: tuple[str, ...]


def compare_files(before: Path, after: Path) -> Comparison:
    """Compare two result files.

    Raises:
        MissingFileError: a file does not exist.
        ArtifactError: a file is not a result.
        UserError: the results have no common stage.
    """
    return compare_results(load_result(before), load_result(after))


def compare_results(before: Result, after: Result) -> Comparison:
    """Compare two results stage by stage.

    Raises:
        UserError: the results have no common stage.
    """
    known = {stage.stage: stage for stage in before.stages}
    shared = [stage for stage in after.stages if stage.stage in known]
    if not shared:
        raise UserError(
            "the two results have no common stage",
            f"the first has {', '.join(known)}; the second {', '.join(stage.stage for stage in after.stages)}",
        )
    doubts = {batch: _doubts(before, after, batch) for batch in {run.batch for run in after.runs}}
    same = _data(before) is not None and _data(before) == _data(after)
    apart = max(BETWEEN_RUNS, floor_of(before), floor_of(after))
    changes = (_change(known[stage.stage], stage, doubts, same, apart) for stage in shared)
    return Comparison(tuple(changes), tuple(_notes(before, after)))


def floor_of(result: Result) -> float:
    """The noise floor of the machine of a result that is stored here, such as 0.012; 0 if there is none."""
    runtimes = sorted({stage.runtime for stage in result.stages if stage.runtime})
    return known_floor(result.env, runtimes, sorted({run.threads for run in result.runs}))


def comparison_rows(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    """Columns and rows of the table for a terminal."""
    batches = sorted({batch for change in comparison.changes for batch in change.speed})
    metric = next((change.before.metric for change in comparison.changes if change.before.metric), None)
    columns = [
        "stage",
        "size",
        "metric",
        formatting.loss_name(metric.name) if metric else "loss",
        *(name for batch in batches for name in (f"batch {batch}", "× faster")),
    ]
    return columns, [_row(change, batches) for change in comparison.changes]


def to_dict(comparison: Comparison) -> dict[str, Any]:
    """The comparison as JSON-ready values."""
    return {
        "notes": list(comparison.notes),
        "stages": [
            {
                "stage": change.stage,
                "same_file": change.before.sha256 == change.after.sha256,
                "size_ratio": change.size_ratio,
                "drop": None if change.drop is None else Spread.of(change.drop).model_dump(),
                "speed": {str(batch): speed.to_dict() for batch, speed in change.speed.items()},
                "verdicts": {str(batch): verdict for batch, verdict in change.verdicts.items()},
            }
            for change in comparison.changes
        ],
    }


def unpaired_drop(name: str, before: Spread, after: Spread) -> Interval:
    """How much worse a metric became between two sets of samples.

    The two intervals are combined by method 10 of R. G. Newcombe, Statistics in Medicine 17 (1998), 873-890.
    """
    one, two = (before, after) if higher_is_better(name) else (after, before)
    first, second = one.interval(), two.interval()
    value = first.value - second.value
    low = value - math.hypot(first.value - first.low, second.high - second.value)
    high = value + math.hypot(first.high - first.value, second.value - second.low)
    return Interval(value, low, high, min(before.confidence, after.confidence))


def unpaired_speed(
    before: LatencyEntry, after: LatencyEntry, confidence: float, seed: int = 0, **attributes: Any
) -> Ratio:
    """How many times faster ``after`` is, from the blocks of two separate runs.

    Args:
        attributes: further attributes of the ratio.
    """
    if before.blocks_ms and after.blocks_ms:
        return unpaired_ratio(before.blocks_ms, after.blocks_ms, confidence, seed, **attributes)
    first, second = (entry.median_ms.value or math.inf for entry in (before, after))
    return Ratio(first / second, None, None, confidence, rounds=0, **attributes)


def _change(
    before: StageEntry, after: StageEntry, doubts: Mapping[int, tuple[str, ...]], same_data: bool, apart: float
) -> Change:
    """One stage in both results; the same file on the same samples has no difference, without an interval around it.

    Args:
        apart: how far two runs of one file may differ.
    """
    one, two = before.metric, after.metric
    drop = unpaired_drop(one.name, one, two) if one and two and one.name == two.name else None
    if drop is not None and one == two and same_data and before.sha256 == after.sha256:
        drop = Interval(0.0, 0.0, 0.0, drop.confidence)
    shared = sorted(set(before.latency) & set(after.latency))
    speed = {
        batch: unpaired_speed(
            before.latency[batch],
            after.latency[batch],
            after.latency[batch].median_ms.confidence,
            candidate=f"{after.stage} after",
            reference=f"{before.stage} before",
            doubts=doubts.get(batch, ()),
        )
        for batch in shared
    }
    verdicts = {batch: _verdict(ratio, apart) for batch, ratio in speed.items()}
    ratio = after.size_bytes / max(before.size_bytes, 1)
    return Change(after.stage, before, after, ratio, drop, speed, verdicts)


def _verdict(speed: Ratio, apart: float) -> Verdict:
    if speed.doubts:
        return "cannot tell"
    if speed.low is not None and speed.low > 1 + apart:
        return "faster"
    return "slower" if speed.high is not None and speed.high < 1 / (1 + apart) else "cannot tell"


def _doubts(before: Result, after: Result, batch: int) -> tuple[str, ...]:
    """The reasons why times at a batch size cannot be compared between two results."""
    runs = [next((run for run in result.runs if run.batch == batch), None) for result in (before, after)]
    pairs = [(name, run) for name, run in zip(("first", "second"), runs, strict=True) if run is not None]
    found = [
        f"the {name} run was NOISY at batch {batch}: {'; '.join(run.noise.reasons) or 'the machine was busy'}"
        for name, run in pairs
        if run.noise.status == "NOISY"
    ]
    if len({run.clock for _, run in pairs}) > 1:
        found.append("one was timed by the CPU time of the thread, the other by wall-clock time")
    return tuple(found)


def _notes(before: Result, after: Result) -> list[str]:
    notes = []
    if [before.env.get(key) for key in MACHINE_KEYS] != [after.env.get(key) for key in MACHINE_KEYS] or _cpu(
        before
    ) != _cpu(after):
        notes.append("the results come from different machines, so times cannot be compared")
    if _data(before) != _data(after):
        notes.append("the test data differ, so the loss compares two different sets of samples")
    for name, result in (("first", before), ("second", after)):
        if any(run.noise.status == "NOISY" for run in result.runs):
            notes.append(f"the {name} run was NOISY, so no decision can be based on its times")
    if {run.clock for run in before.runs} != {run.clock for run in after.runs} and before.runs and after.runs:
        notes.append("the results were timed by different clocks, so their times cannot be compared")
    return notes


def _data(result: Result) -> object:
    return result.data.get("fingerprint") or result.data.get("sha256")


def _cpu(result: Result) -> object:
    return (result.env.get("cpu") or {}).get("model")


def _row(change: Change, batches: list[int]) -> list[str]:
    sizes = f"{formatting.bytes_text(change.before.size_bytes)} → {formatting.bytes_text(change.after.size_bytes)}"
    row = [change.stage, sizes if change.size_ratio != 1 else formatting.bytes_text(change.after.size_bytes)]
    one, two = change.before.metric, change.after.metric
    if change.drop is None or one is None or two is None:
        row += [formatting.DASH, formatting.DASH]
    else:
        row.append(f"{formatting.metric_value(one.name, one.value)} → {formatting.metric_value(two.name, two.value)}")
        drop = Spread.of(change.drop)
        row.append(f"{formatting.drop_value(one.name, drop.value)} {formatting.drop_range(one.name, drop)}")
    for batch in batches:
        row += _times(change, batch)
    return row


def _times(change: Change, batch: int) -> list[str]:
    if batch not in change.speed:
        return [formatting.DASH, formatting.DASH]
    times = [formatting.time_text(stage.latency[batch].median_ms.value) for stage in (change.before, change.after)]
    speed = RatioEntry.of_ratio(change.speed[batch])
    doubt = " ?" if change.verdicts[batch] == "cannot tell" else ""
    return [" → ".join(times), f"{formatting.ratio_text(speed)} {formatting.range_text(speed)}{doubt}"]
