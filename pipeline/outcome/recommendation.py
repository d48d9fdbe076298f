"""The file that a run recommends: the exported one, unless an earlier program's file is certainly the faster one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ...benchmarks.report import formatting
from ...benchmarks.result import GateEntry, Result, ShipEntry, Spread, StageEntry
from ...core.counts import listed
from ...core.metrics.ratio import Ratio
from ...core.options.stage_table import PROGRAM_STAGES
from ..measure import accuracy, graph_of
from .doubts import doubts

if TYPE_CHECKING:
    from ..line import Line

SAME = 0.02
"""Speedups below 2 % do not decide which file is shipped."""


def recommended(line: Line, result: Result | None) -> ShipEntry | None:
    """The file to ship with its figures; None before anything is exported.

    Args:
        result: the measurement of the run; without it, the exported file is recommended without figures.
    """
    if "export" not in line.outcome.artifacts:
        return None
    ship = _recommended(line, result)
    against = doubts(line.outcome.artifacts, ship.stage)
    if not against:
        return ship
    return ship.model_copy(update={"sentence": f"{ship.sentence}; WARNING: {'; '.join(against)}"})


def _recommended(line: Line, result: Result | None) -> ShipEntry:
    shipped = line.shipped()
    if result is None or shipped not in {stage.stage for stage in result.stages}:
        file = _final(line)
        size = formatting.bytes_text(file.stat().st_size)
        return ShipEntry(stage=shipped, file=str(file), sentence=f"ship {file} ({size}; not measured)")
    own = result.stage(shipped)
    rivals = _rivals(line, result, own)
    for rival, ratios in rivals.items():
        if all(_certain(ratio) for ratio in ratios.values()):
            return _other(line, result, result.stage(rival), own, ratios)
    file = _final(line)
    sentence = f"ship {file} ({_figures(result, own)}){_served(line, file)}"
    for rival, ratios in rivals.items():
        where = {batch: ratio for batch, ratio in ratios.items() if _certain(ratio)}
        if where:
            sentence += f"; {_faster(where, rival, 'it')}: {graph_of(line, rival).main}"
    return ShipEntry(stage=shipped, file=str(file), sentence=sentence)


def _final(line: Line) -> Path:
    made = line.outcome.artifacts
    return made["engine"].main if "engine" in made else made["export"].main


def _served(line: Line, file: Path) -> str:
    pack = line.outcome.artifacts.get("pack")
    return f"; packed for TorchServe as {pack.main}" if pack is not None and file.suffix == ".onnx" else ""


def _other(line: Line, result: Result, stage: StageEntry, shipped: StageEntry, ratios: dict[int, Ratio]) -> ShipEntry:
    file = graph_of(line, stage.stage).main
    reason = _faster(ratios, "it", f"the exported file of `{shipped.stage}`")
    return ShipEntry(
        stage=stage.stage, file=str(file), sentence=f"ship {file} ({_figures(result, stage)}), because {reason}"
    )


def _faster(ratios: dict[int, Ratio], one: str, other: str) -> str:
    """``at batch 1 `prune` is 1.10× [1.05, 1.15] as fast as it``."""
    name = one if one == "it" else f"`{one}`"
    parts = [
        f"at batch {batch} {formatting.digits(ratio.value)}× [{ratio.span.replace(' to ', ', ')}]"
        for batch, ratio in ratios.items()
    ]
    return f"{name} is {listed(parts)} as fast as {other}"


def _figures(result: Result, stage: StageEntry) -> str:
    """``114 kB; accuracy 98.61 %, gained 0.28 pp against train; 6.40× [6.07, 6.74] as fast as train at batch 1; …``."""
    from ...benchmarks.report.table import measured_with

    parts = [formatting.bytes_text(stage.size_bytes)]
    if stage.metric is not None:
        name = stage.metric.name
        parts.append(f"{name} {formatting.metric_value(name, stage.metric.value)}{_change(result, stage)}")
    timed = [(batch, entry.ratio) for batch, entry in sorted(stage.latency.items()) if entry.ratio is not None]
    speeds = [
        f"{formatting.ratio_text(ratio)} {formatting.range_text(ratio)}"
        f"{'' if index else f' as fast as {result.reference}'} at batch {batch}"
        for index, (batch, ratio) in enumerate(timed)
    ]
    if speeds:
        noisy = [str(run.batch) for run in result.runs if run.noise.status == "NOISY"]
        doubt = f", NOISY at batch {listed(noisy)}" if noisy else ""
        parts.append(f"{listed(speeds)}{doubt}")
        parts.append(measured_with(result))
    return "; ".join(parts)


def _change(result: Result, stage: StageEntry) -> str:
    if stage.metric is None or stage.drop is None or stage.drop.value is None or stage.stage == result.reference:
        return ""
    return f", {change_words(stage.metric.name, stage.drop)} against {result.reference}"


def change_words(name: str, drop: Spread) -> str:
    """``lost 0.28 pp``; ``no difference shown (gained 0.28 pp)`` where the interval contains 0."""
    assert drop.value is not None
    change = formatting.change_text(name, drop.value)
    shown = change != "lost nothing" and (drop.low is None or drop.low <= 0) and (drop.high is None or drop.high >= 0)
    return f"no difference shown ({change})" if shown else change


def _rivals(line: Line, result: Result, shipped: StageEntry) -> dict[str, dict[int, Ratio]]:
    """Programs that are as good as the shipped one and keep its gates, with their speed against it by batch size."""
    valid = [run.batch for run in result.runs if run.noise.status == "VALID" and run.batch in shipped.latency]
    found = {}
    for stage in result.stages:
        if stage.stage not in PROGRAM_STAGES or stage.stage == shipped.stage or not stage.latency:
            continue
        ratios = {batch: _ratio(result, stage, shipped, batch) for batch in valid if batch in stage.latency}
        if any(_certain(ratio) for ratio in ratios.values()) and _meets(result, stage, result.gates):
            lost = accuracy(line, stage.stage, shipped.stage).drop
            if lost is None or lost.low <= 0:
                found[stage.stage] = ratios
    return found


def _certain(ratio: Ratio) -> bool:
    return ratio.low is not None and ratio.low > 1 and ratio.value > 1 + SAME


def _ratio(result: Result, stage: StageEntry, shipped: StageEntry, batch: int) -> Ratio:
    from ...benchmarks.timing.statistics import ratio_interval

    own, theirs = stage.latency[batch], shipped.latency[batch]
    return ratio_interval(theirs.blocks_ms, own.blocks_ms, own.median_ms.confidence)


def _meets(result: Result, stage: StageEntry, gates: Sequence[GateEntry]) -> bool:
    """Whether a stage also keeps the bounds of all gates against the reference."""
    reference = result.stage(result.reference)
    for gate in gates:
        if gate.kind == "size_ratio" and stage.size_bytes / max(reference.size_bytes, 1) > gate.bound:
            return False
        if gate.kind == "accuracy_drop" and stage.drop and (stage.drop.high is None or stage.drop.high > gate.bound):
            return False
        if gate.kind == "speedup" and not any(
            entry.ratio is None or (entry.ratio.low or 0) >= gate.bound for entry in stage.latency.values()
        ):
            return False
    return True
