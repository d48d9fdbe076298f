"""The file that a run recommends: the exported one, unless an earlier program's file is certainly the faster one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ...benchmarks.report import formatting
from ...benchmarks.result import GateEntry, Result, ShipEntry, Spread, StageEntry
from ...core.counts import listed
from ...core.metrics.ratio import Ratio, mean_of
from ...core.options.stage_table import PROGRAM_STAGES
from ..measure import accuracy, graph_bytes, graph_of
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
    faster = [rival for rival, ratios in rivals.items() if all(_certain(ratio) for ratio in ratios.values())]
    if faster:
        return _other(line, result, result.stage(faster[0]), own, rivals[faster[0]])
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
    if pack is None or file.suffix != ".onnx":
        return ""
    if pack.kind == "deployment":
        return f"; packed for {pack.manifest.options['target']} in {pack.path}"
    return f"; packed for TorchServe as {pack.main}"


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
    """Programs that are as good as the shipped one and keep its gates, with their speed against it by batch size.

    The fastest is the first.
    """
    valid = [run.batch for run in result.runs if run.noise.status == "VALID" and run.batch in shipped.latency]
    found = {}
    for stage in result.stages:
        if stage.stage not in PROGRAM_STAGES or stage.stage == shipped.stage or not stage.latency:
            continue
        ratios = {batch: _ratio(stage, shipped, batch) for batch in valid if batch in stage.latency}
        if any(_certain(ratio) for ratio in ratios.values()) and all(
            _keeps(line, result, stage, gate) for gate in result.gates
        ):
            lost = accuracy(line, stage.stage, shipped.stage).drop
            if lost is None or lost.low <= 0:
                found[stage.stage] = ratios
    return dict(sorted(found.items(), key=lambda item: -mean_of(item[1].values())))


def _certain(ratio: Ratio) -> bool:
    return ratio.low is not None and ratio.low > 1 and ratio.value > 1 + SAME


def _ratio(stage: StageEntry, other: StageEntry, batch: int, confidence: float | None = None) -> Ratio:
    """How many times as fast as another stage one is."""
    from ...benchmarks.timing.statistics import ratio_interval

    own, theirs = stage.latency[batch], other.latency[batch]
    return ratio_interval(theirs.blocks_ms, own.blocks_ms, confidence or own.median_ms.confidence)


def _keeps(line: Line, result: Result, stage: StageEntry, gate: GateEntry) -> bool:
    """Whether a stage certainly keeps the bound of a gate, too."""
    if gate.kind == "size_ratio":
        return stage.size_bytes <= gate.bound * max(graph_bytes(line, gate.against), 1)
    if gate.kind == "accuracy_drop":
        lost = accuracy(line, stage.stage, gate.against, gate.confidence).drop
        return lost is None or lost.high <= gate.bound
    against = next((other for other in result.stages if other.stage == gate.against), None)
    if against is stage:
        return gate.bound <= 1
    batches = [batch for batch in (against.latency if against else ()) if gate.batch_size in (None, batch)]
    return bool(batches) and all(_is_faster(result, stage, against, batch, gate) for batch in batches)


def _is_faster(result: Result, stage: StageEntry, against: StageEntry | None, batch: int, gate: GateEntry) -> bool:
    """Whether a measurement that is VALID shows the speedup of a gate at a batch size."""
    valid = any(run.batch == batch and run.noise.status == "VALID" for run in result.runs)
    if not valid or against is None or batch not in stage.latency:
        return False
    low = _ratio(stage, against, batch, gate.confidence).low
    return low is not None and low >= gate.bound
