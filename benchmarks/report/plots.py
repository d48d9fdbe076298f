"""Plots of the report as inline SVG: accuracy against latency, sizes, intervals, blocks and training curves."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from matplotlib.axes import Axes

from ...core.metrics.task_metrics import HIGHER_IS_BETTER
from ..result import Result, Spread
from ..timing.statistics import log_ratios
from . import formatting
from .drawing import COLOUR, SERIES, axes, dot, drawn, label_points, scale, whisker

ROW = 26
NOT_CURVES = {"epoch", "lr", "learning_rate", "seconds", "step", "time"}
Coordinates = str | tuple[str, str]


@dataclass(frozen=True)
class Plot:
    """A drawing with its heading and a sentence that explains it."""

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
    """All plots for which there are numbers, the most informative first."""
    made = [pareto(result), forest(result), drops(result), sizes(result)]
    made += [blocks(result, run.batch) for run in result.runs]
    made += curves(result)
    return [plot for plot in made if plot is not None]


def pareto(result: Result) -> Plot | None:
    """The metric against latency at the smallest batch size, both with intervals."""
    batches = sorted({batch for stage in result.stages for batch in stage.latency})
    chosen = [stage for stage in result.stages if stage.metric and batches and batches[0] in stage.latency]
    if len(chosen) < 2 or chosen[0].metric is None:
        return None
    times = [_span(stage.latency[batches[0]].median_ms) for stage in chosen]
    metrics = [_span(stage.metric) for stage in chosen]
    name = chosen[0].metric.name
    better = "Up" if HIGHER_IS_BETTER[name] else "Down"
    with axes(330) as ax:
        scale(ax.xaxis, [end for span in times for end in span], log=True, show=formatting.digits_short)
        scale(
            ax.yaxis, [end for span in metrics for end in span], show=lambda value: formatting.metric_tick(name, value)
        )
        ax.set_xlabel(f"latency at batch {batches[0]}, ms (log scale)")
        for stage, time, metric in zip(chosen, times, metrics, strict=True):
            colour = COLOUR["ref" if stage.stage == result.reference else "s0"]
            whisker(ax, (metric[0], metric[2]), time[1], colour, vertical=True)
            whisker(ax, (time[0], time[2]), metric[1], colour)
            dot(ax, time[1], metric[1], colour)
        places = [(time[1], metric[1], stage.stage) for stage, time, metric in zip(chosen, times, metrics, strict=True)]
        label_points(ax, places)
        svg = drawn(ax, f"{name} against latency")
    return Plot(f"{name} against latency", f"{better} and to the left is better. Bars show the intervals.", svg)


def forest(result: Result) -> Plot | None:
    """How many times faster than the reference, with intervals, per stage and batch size."""
    rows = [
        Row(
            stage.stage,
            entry.ratio,
            f"{formatting.ratio_text(entry.ratio)} {formatting.range_text(entry.ratio)}",
            index,
        )
        for stage in result.stages
        for index, (_, entry) in enumerate(sorted(stage.latency.items()))
        if entry.ratio is not None
    ]
    batches = sorted({batch for stage in result.stages for batch in stage.latency})
    caption = f"Speedup over {result.reference}. An interval that crosses the line at 1 shows no difference."
    keys = tuple((f"batch {batch}", index) for index, batch in enumerate(batches))
    label, show = "times faster (log scale)", lambda value: f"{formatting.digits_short(value)}×"
    plot = _intervals("speed", caption, rows, 1.0, True, label, show)
    return replace(plot, keys=keys) if plot else None


def drops(result: Result) -> Plot | None:
    """Loss of every stage against the reference, with intervals and the bounds of gates."""
    metric = next((stage.metric for stage in result.stages if stage.metric), None)
    if metric is None:
        return None
    scale = formatting.metric_scale(metric.name)
    bounds = {gate.stage: gate.bound * scale for gate in result.gates if gate.kind == "accuracy_drop"}
    rows = [
        Row(stage.stage, _scaled(stage.drop, scale), _drop_text(metric.name, stage.drop), 0, bounds.get(stage.stage))
        for stage in result.stages
        if stage.drop is not None and stage.stage != result.reference
    ]
    loss, unit = formatting.loss_name(metric.name), formatting.drop_unit(metric.name)
    limit = " The tick is the gate's bound." if any(row.bound is not None for row in rows) else ""
    against = f"{metric.name} against {result.reference} on the same {metric.n:,} samples"
    caption = f"{loss.capitalize()} of {against}. Right is worse.{limit}"
    return _intervals(f"{loss} of {metric.name}", caption, rows, 0.0, False, f"{loss}{unit}", formatting.tick)


def sizes(result: Result) -> Plot:
    """Bytes of every stage's file."""
    reference = result.stage(result.reference).size_bytes
    with axes(16 + len(result.stages) * ROW) as ax:
        _rows(ax, [stage.stage for stage in result.stages])
        ax.set_xlim(0, max(stage.size_bytes for stage in result.stages) or 1)
        ax.xaxis.set_visible(False)
        ax.grid(visible=False)
        ax.spines["bottom"].set_visible(False)
        for row, stage in enumerate(result.stages):
            first = stage.stage == result.reference
            share = "" if first else f", ÷ {formatting.digits(reference / max(stage.size_bytes, 1))}"
            ax.barh(row, stage.size_bytes, height=0.62, color=COLOUR["ref" if first else "s0"])
            _label(ax, (stage.size_bytes, row), formatting.bytes_text(stage.size_bytes) + share)
        svg = drawn(ax, "size on disk")
    return Plot("size on disk", f"Bytes of the file, and how many times smaller than {result.reference} it is.", svg)


def blocks(result: Result, batch: int) -> Plot | None:
    """The ratio of every round, in order of time, which shows drift and disturbances."""
    timed = {stage.stage: stage.latency[batch].blocks_ms for stage in result.stages if batch in stage.latency}
    run = next(run for run in result.runs if run.batch == batch)
    reference = timed.pop(run.reference, None)
    if reference is None or not timed:
        return None
    shown = dict(list(timed.items())[-SERIES:])
    ratios = {name: [math.exp(log) for log in log_ratios(reference, values)] for name, values in shown.items()}
    with axes(258) as ax:
        scale(ax.xaxis, [1, max(run.rounds, 2)], show=lambda value: f"{value:g}", whole=True)
        every = [value for values in ratios.values() for value in values]
        scale(ax.yaxis, [*every, 1.0], log=True, show=lambda value: f"{formatting.digits_short(value)}×")
        ax.set_xlabel("round")
        _zero(ax.axhline, 1.0)
        for index, values in enumerate(ratios.values()):
            colour = COLOUR[f"s{index}"]
            ax.scatter(range(1, len(values) + 1), values, s=20, color=colour, alpha=0.7, linewidths=0)
            ax.axhline(sorted(values)[len(values) // 2], color=colour, linewidth=1.6, alpha=0.75)
        svg = drawn(ax, f"ratios by round at batch {batch}")
    noise = "" if run.noise.status == "VALID" else f" The machine was busy: {'; '.join(run.noise.reasons)}."
    caption = f"Each point compares one block of a stage with the block of {run.reference} in the same round.{noise}"
    keys = tuple((name, index) for index, name in enumerate(ratios))
    return Plot(f"rounds at batch {batch}", caption, svg, keys)


def curves(result: Result) -> list[Plot]:
    """Training curves: one plot per recorded quantity, one line per stage that trained."""
    trained = {stage.stage: stage.history for stage in result.stages if len(stage.history) > 1}
    for details in result.details:
        for curve in details.curves:
            if len(curve.epochs) > 1:
                name = details.stage if curve.name == details.stage else f"{details.stage}: {curve.name}"
                trained[name] = curve.epochs
    shown = dict(list(trained.items())[:SERIES])
    keys = dict.fromkeys(
        key for history in shown.values() for epoch in history for key in epoch if key not in NOT_CURVES
    )
    return [_curve(shown, key) for key in list(keys)[:4]]


def _curve(trained: Mapping[str, Sequence[Mapping[str, float]]], key: str) -> Plot:
    lines = {
        name: [(epoch.get("epoch", k + 1), epoch[key]) for k, epoch in enumerate(history) if key in epoch]
        for name, history in trained.items()
    }
    lines = {name: points for name, points in lines.items() if points}
    values = [point[1] for points in lines.values() for point in points if math.isfinite(point[1])]
    title = key.replace("_", " ")
    with axes(258) as ax:
        scale(
            ax.xaxis, [point[0] for points in lines.values() for point in points], show=lambda v: f"{v:g}", whole=True
        )
        scale(ax.yaxis, values, log=bool(values) and 0 < 30 * min(values) < max(values), show=formatting.tick)
        ax.set_xlabel("epoch")
        for index, points in enumerate(lines.values()):
            ax.plot(*zip(*points, strict=True), color=COLOUR[f"s{index}"], linewidth=2.2)
        svg = drawn(ax, f"{title} by epoch")
    keys = tuple((name, index) for index, name in enumerate(lines))
    return Plot(f"{title} by epoch", "One line per training; the recovery after a cut is a training, too.", svg, keys)


def _intervals(
    title: str,
    caption: str,
    rows: Sequence[Row],
    zero: float,
    log: bool,
    label: str,
    show: Callable[[float], str],
) -> Plot | None:
    """One row per interval, with a line at ``zero`` and the numbers to the right."""
    if not rows:
        return None
    spans = [_span(row.spread) for row in rows]
    bounds = [row.bound for row in rows if row.bound is not None]
    with axes(50 + len(rows) * ROW) as ax:
        _rows(ax, ["" if k and rows[k - 1].label == row.label else row.label for k, row in enumerate(rows)])
        scale(ax.xaxis, [*(end for span in spans for end in span), *bounds, zero], log, show)
        ax.set_xlabel(label)
        _zero(ax.axvline, zero)
        for k, (row, span) in enumerate(zip(rows, spans, strict=True)):
            colour = COLOUR[f"s{row.series % SERIES}"]
            whisker(ax, (span[0], span[2]), k, colour)
            dot(ax, min(max(span[1], ax.get_xlim()[0]), ax.get_xlim()[1]), k, colour)
            _label(ax, (1.0, k), row.shown, ("axes fraction", "data"))
            if row.bound is not None:
                ax.vlines(row.bound, k - 0.35, k + 0.35, colors=COLOUR["bad"], linewidth=2.5)
        svg = drawn(ax, title)
    return Plot(title, caption, svg)


def _rows(ax: Axes, labels: Sequence[str]) -> None:
    """One row per label, the first on top."""
    ax.set_ylim(len(labels) - 0.5, -0.5)
    ax.set_yticks(range(len(labels)), labels)
    ax.tick_params("y", labelcolor=COLOUR["ink"], labelsize=12)
    for text in ax.get_yticklabels():
        text.set_fontweight("bold")
    ax.grid(visible=False, axis="y")


def _label(ax: Axes, place: tuple[float, float], text: str, coordinates: Coordinates = "data") -> None:
    """Text to the right of a place, also outside the plot."""
    ax.annotate(text, place, xycoords=coordinates, xytext=(8, 0), textcoords="offset points", va="center",
                color=COLOUR["soft"], annotation_clip=False)  # fmt: skip


def _zero(draw: Callable[..., object], place: float) -> None:
    """The line of no difference."""
    draw(place, color=COLOUR["faint"], linewidth=1.4, linestyle=(0, (3, 3)))


def _span(spread: Spread | None) -> tuple[float, float, float]:
    interval = spread.interval() if spread is not None else Spread(value=0, low=0, high=0, confidence=0.5).interval()
    return interval.low, interval.value, interval.high


def _scaled(spread: Spread, scale: float) -> Spread:
    return Spread.of(spread.interval().scaled(scale))


def _drop_text(name: str, drop: Spread) -> str:
    return f"{formatting.drop_value(name, drop.value)} {formatting.drop_range(name, drop)}"
