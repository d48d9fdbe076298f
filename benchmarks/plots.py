"""The report's plots as inline SVG: accuracy against latency, sizes, intervals, blocks and training curves."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from . import svg, words
from .result import Result, Spread, StageEntry
from .statistics import log_ratios

LEFT, RIGHT = 58.0, svg.WIDTH - 14.0
SERIES = 6
ROW = 26.0
NOT_CURVES = {"epoch", "lr", "learning_rate", "seconds", "step", "time"}


@dataclass(frozen=True)
class Plot:
    """A drawing with its heading and a sentence on how to read it."""

    title: str
    caption: str
    svg: str
    keys: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True)
class Row:
    """One line of an interval plot."""

    label: str
    spread: Spread
    shown: str
    series: int
    bound: float | None = None


def all_plots(result: Result) -> list[Plot]:
    """Every plot for which there are numbers, the most telling first."""
    made = [pareto(result), forest(result), drops(result), sizes(result)]
    made += [blocks(result, run.batch) for run in result.runs]
    made += curves(result)
    return [plot for plot in made if plot is not None]


def pareto(result: Result) -> Plot | None:
    """The metric against latency at the smallest batch size, both with intervals."""
    batches = sorted({batch for stage in result.stages for batch in stage.latency})
    chosen = [stage for stage in result.stages if stage.metric and batches and batches[0] in stage.latency]
    if len(chosen) < 2:
        return None
    height, top, bottom = 330.0, 12.0, 284.0
    times = [_span(stage.latency[batches[0]].median_ms) for stage in chosen]
    metrics = [_span(stage.metric) for stage in chosen if stage.metric]
    name = chosen[0].metric.name if chosen[0].metric else ""
    x = svg.fitted([end for span in times for end in span], LEFT, RIGHT, log=True, margin=0.12)
    y = svg.fitted([end for span in metrics for end in span], bottom, top, margin=0.1)
    body = [svg.y_axis(y, LEFT, RIGHT, lambda value: words.metric_tick(name, value))]
    body.append(svg.x_axis(x, top, bottom, words.digits_short, f"median latency at batch {batches[0]}, ms (log scale)"))
    points: list[tuple[float, float, str]] = []
    for stage, span, metric in zip(chosen, times, metrics, strict=True):
        kind = "ref" if stage.stage == result.reference else "s0"
        px, py = x(span[1]), y(metric[1])
        body.append(svg.whisker(y, metric[0], metric[2], px, f"w {kind}", vertical=True))
        body.append(svg.whisker(x, span[0], span[2], py, f"w {kind}"))
        body.append(svg.dot(px, py, f"d {kind}", title=f"{stage.stage}: {words.time_text(span[1])}"))
        points.append((px, py, stage.stage))
    body += svg.place_labels(_merged(points), (LEFT, 0.0, RIGHT, bottom))
    caption = "Up and to the left is better. Bars are the intervals."
    return Plot(f"{name} against latency", caption, svg.figure(f"{name} against latency", body, height))


def forest(result: Result) -> Plot | None:
    """How many times faster than the reference, with intervals, per stage and batch size."""
    rows = [
        Row(stage.stage, entry.ratio, f"{words.ratio_text(entry.ratio)} {words.range_text(entry.ratio)}", index)
        for stage in result.stages
        for index, (_, entry) in enumerate(sorted(stage.latency.items()))
        if entry.ratio is not None
    ]
    batches = sorted({batch for stage in result.stages for batch in stage.latency})
    caption = f"Times faster than {result.reference}; an interval that crosses the line at 1 decides nothing."
    keys = tuple((f"batch {batch}", index) for index, batch in enumerate(batches))
    return _intervals(
        "speed", caption, rows, 1.0, True, "times faster (log scale)", lambda v: f"{words.digits_short(v)}×", keys
    )


def drops(result: Result) -> Plot | None:
    """What every stage lost against the reference, with intervals and the gates' bounds."""
    metric = next((stage.metric for stage in result.stages if stage.metric), None)
    if metric is None:
        return None
    scale = 1.0 if metric.name in words.PLAIN else 100.0
    bounds = {gate.stage: gate.bound * scale for gate in result.gates if gate.kind == "accuracy_drop"}
    rows = [
        Row(stage.stage, _scaled(stage.drop, scale), _drop_text(metric.name, stage.drop), 0, bounds.get(stage.stage))
        for stage in result.stages
        if stage.drop is not None and stage.stage != result.reference
    ]
    unit = "" if metric.name in words.PLAIN else ", percentage points"
    limit = " The tick is the gate's bound." if any(row.bound is not None for row in rows) else ""
    caption = (
        f"Loss of {metric.name} against {result.reference} on the same {metric.n:,} samples; right is worse.{limit}"
    )
    return _intervals(f"loss of {metric.name}", caption, rows, 0.0, False, f"loss{unit}", words.tick)


def sizes(result: Result) -> Plot:
    """Bytes of every stage's file."""
    largest = max(stage.size_bytes for stage in result.stages)
    left, body = _label_width([stage.stage for stage in result.stages]), []
    reference = result.stage(result.reference).size_bytes
    x = svg.Scale(0, largest, left, RIGHT - 112)
    for index, stage in enumerate(result.stages):
        y = 8 + index * ROW
        kind = "b ref" if stage.stage == result.reference else "b s0"
        share = "" if stage.stage == result.reference else f", ÷ {words.digits(reference / max(stage.size_bytes, 1))}"
        body.append(svg.text(left - 9, y + 13, stage.stage, "end", "label"))
        body.append(svg.bar(left, y + 1, x(stage.size_bytes) - left, ROW - 9, kind))
        body.append(
            svg.text(x(stage.size_bytes) + 8, y + 13, words.bytes_text(stage.size_bytes) + share, "start", "value")
        )
    height = 16 + len(result.stages) * ROW
    return Plot("size on disk", f"Bytes of the file, and how many times smaller than {result.reference}.", svg.figure("size on disk", body, height))  # fmt: skip  # noqa: E501


def blocks(result: Result, batch: int) -> Plot | None:
    """The ratio of every round, in order of time: what drift and disturbance did, and that the ratio held."""
    timed = {stage.stage: stage.latency[batch].blocks_ms for stage in result.stages if batch in stage.latency}
    run = next(run for run in result.runs if run.batch == batch)
    reference = timed.pop(run.reference, None)
    if reference is None or not timed:
        return None
    shown = dict(list(timed.items())[-SERIES:])
    ratios = {name: [math.exp(log) for log in log_ratios(reference, values)] for name, values in shown.items()}
    height, top, bottom = 258.0, 8.0, 212.0
    x = svg.Scale(1, max(run.rounds, 2), LEFT, RIGHT)
    y = svg.fitted([*(value for values in ratios.values() for value in values), 1.0], bottom, top, log=True)
    body = [svg.y_axis(y, LEFT, RIGHT, lambda value: f"{words.digits_short(value)}×")]
    body.append(svg.x_axis(x, bottom, bottom, lambda value: f"{value:g}", "round"))
    body.append(svg.line(LEFT, y(1.0), RIGHT, y(1.0), "one"))
    for index, values in enumerate(ratios.values()):
        body += [svg.dot(x(k + 1), y(value), f"d s{index}", 2.4) for k, value in enumerate(values)]
        middle = y(sorted(values)[len(values) // 2])
        body.append(svg.line(LEFT, middle, RIGHT, middle, f"m s{index}"))
    noise = "" if run.noise.status == "VALID" else f" Not quiet: {'; '.join(run.noise.reasons)}."
    caption = f"Each point is one block of a stage against the block of {run.reference} in the same round.{noise}"
    keys = tuple((name, index) for index, name in enumerate(ratios))
    return Plot(
        f"rounds at batch {batch}", caption, svg.figure(f"ratios by round at batch {batch}", body, height), keys
    )


def curves(result: Result) -> list[Plot]:
    """Training curves: one plot per recorded quantity, one line per stage that trained."""
    trained = [stage for stage in result.stages if len(stage.history) > 1][:SERIES]
    keys = dict.fromkeys(key for stage in trained for epoch in stage.history for key in epoch if key not in NOT_CURVES)
    return [_curve(trained, key) for key in list(keys)[:4]]


def _curve(trained: Sequence[StageEntry], key: str) -> Plot:
    lines = {
        stage.stage: [(epoch.get("epoch", k + 1), epoch[key]) for k, epoch in enumerate(stage.history) if key in epoch]
        for stage in trained
    }
    lines = {name: points for name, points in lines.items() if points}
    height, top, bottom = 258.0, 8.0, 212.0
    x = svg.Scale(*_ends([point[0] for points in lines.values() for point in points]), LEFT, RIGHT)
    values = [point[1] for points in lines.values() for point in points]
    y = svg.fitted(values, bottom, top, log=min(values) > 0 and max(values) > 30 * min(values))
    body = [svg.y_axis(y, LEFT, RIGHT, words.tick), svg.x_axis(x, bottom, bottom, lambda v: f"{v:g}", "epoch")]
    for index, points in enumerate(lines.values()):
        body.append(svg.path([(x(a), y(b)) for a, b in points], f"c s{index}"))
    keys = tuple((name, index) for index, name in enumerate(lines))
    title = key.replace("_", " ")
    return Plot(title, "One line per stage that trained.", svg.figure(f"{title} by epoch", body, height), keys)


def _intervals(
    title: str,
    caption: str,
    rows: Sequence[Row],
    zero: float,
    log: bool,
    label: str,
    show: Callable[[float], str],
    keys: tuple[tuple[str, int], ...] = (),
) -> Plot | None:
    """One row per interval, with a line at ``zero`` and the numbers to the right."""
    if not rows:
        return None
    left, right = _label_width([row.label for row in rows]), svg.WIDTH - _text_width([row.shown for row in rows])
    ends = [end for row in rows for end in (*_span(row.spread), row.bound) if end is not None and math.isfinite(end)]
    x = svg.fitted([*ends, zero], left, right, log)
    bottom = 6 + len(rows) * ROW
    body = [svg.x_axis(x, 4, bottom, show, label), svg.line(x(zero), 4, x(zero), bottom, "one")]
    before = ""
    for index, row in enumerate(rows):
        y = 4 + (index + 0.5) * ROW
        low, value, high = _span(row.spread)
        body += [svg.text(left - 9, y + 4, row.label, "end", "label")] * (row.label != before)
        body.append(svg.whisker(x, low, high, y, f"w s{row.series}") + svg.dot(x(value), y, f"d s{row.series}"))
        body.append(svg.text(right + 10, y + 4, row.shown, "start", "value"))
        if row.bound is not None:
            body.append(svg.line(x(row.bound), y - 9, x(row.bound), y + 9, "bound"))
        before = row.label
    return Plot(title, caption, svg.figure(title, body, bottom + 44), keys)


def _span(spread: Spread | None) -> tuple[float, float, float]:
    interval = spread.interval() if spread is not None else Spread(value=0, low=0, high=0, confidence=0.5).interval()
    return interval.low, interval.value, interval.high


def _scaled(spread: Spread, scale: float) -> Spread:
    return Spread.of(spread.interval().scaled(scale))


def _ends(values: Sequence[float]) -> tuple[float, float]:
    return min(values), max(max(values), min(values) + 1)


def _label_width(labels: Sequence[str]) -> float:
    return min(150.0, 18 + max(map(len, labels)) * svg.CHARACTER)


def _text_width(labels: Sequence[str]) -> float:
    return min(190.0, 16 + max(map(len, labels)) * 6.2)


def _drop_text(name: str, drop: Spread) -> str:
    return f"{words.drop_value(name, drop.value)} {words.drop_range(name, drop)}"


def _merged(points: Sequence[tuple[float, float, str]]) -> list[tuple[float, float, str]]:
    """Points that lie on one another share a label."""
    groups: list[tuple[float, float, list[str]]] = []
    for x, y, words_of in points:
        near = next((group for group in groups if math.hypot(group[0] - x, group[1] - y) < 12), None)
        if near is None:
            groups.append((x, y, [words_of]))
        else:
            near[2].append(words_of)
    return [(x, y, " · ".join(names)) for x, y, names in groups]
