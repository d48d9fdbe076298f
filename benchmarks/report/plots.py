"""All plots of the report as inline SVG; here those of intervals, sizes and training curves."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from ..result import Result, Spread
from . import formatting
from .call_plots import blocks, distribution, over_time, sustained
from .drawing import COLOUR, SERIES, Plot, axes, beside, dot, drawn, named_rows, no_difference, scale, whisker
from .start_plot import starts
from .tradeoff_plots import span_of, tradeoffs

ROW = 26
MANY = 40
"""Rows of a figure of speeds above which it has the smallest and the largest batch size alone."""
NOT_CURVES = {"epoch", "lr", "learning_rate", "seconds", "step", "time"}


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
    made = [*tradeoffs(result), forest(result), drops(result), sizes(result), starts(result)]
    made += [plot for run in result.runs for plot in (distribution(result, run), over_time(result, run))]
    made += [sustained(result), *(blocks(result, run) for run in result.runs), *curves(result)]
    return [plot for plot in made if plot is not None]


def forest(result: Result) -> Plot | None:
    """How many times faster than the reference, with intervals, per stage and batch size."""
    timed = sorted({batch for stage in result.stages for batch in stage.latency})
    many = len(result.stages) * len(timed) > MANY
    batches = [timed[0], timed[-1]] if many else timed
    rows = [
        Row(
            stage.stage,
            entry.ratio,
            f"{formatting.ratio_text(entry.ratio)} {formatting.range_text(entry.ratio)}",
            index,
        )
        for stage in result.stages
        for index, entry in ((k, stage.latency[batch]) for k, batch in enumerate(batches) if batch in stage.latency)
        if entry.ratio is not None
    ]
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
        named_rows(ax, [stage.stage for stage in result.stages])
        ax.set_xlim(0, max(stage.size_bytes for stage in result.stages) or 1)
        ax.xaxis.set_visible(False)
        ax.grid(visible=False)
        ax.spines["bottom"].set_visible(False)
        for row, stage in enumerate(result.stages):
            first = stage.stage == result.reference
            share = "" if first else f", ÷ {formatting.digits(reference / max(stage.size_bytes, 1))}"
            ax.barh(row, stage.size_bytes, height=0.62, color=COLOUR["ref" if first else "s0"])
            beside(ax, (stage.size_bytes, row), formatting.bytes_text(stage.size_bytes) + share)
        svg = drawn(ax, "size on disk")
    smaller = f", and how many times smaller than {result.reference} it is" if len(result.stages) > 1 else ""
    return Plot("size on disk", f"Bytes of the file{smaller}.", svg)


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
    spans = [span_of(row.spread) for row in rows]
    bounds = [row.bound for row in rows if row.bound is not None]
    with axes(50 + len(rows) * ROW) as ax:
        named_rows(ax, ["" if k and rows[k - 1].label == row.label else row.label for k, row in enumerate(rows)])
        scale(ax.xaxis, [*(end for span in spans for end in span), *bounds, zero], log, show)
        ax.set_xlabel(label)
        no_difference(ax.axvline, zero)
        for k, (row, span) in enumerate(zip(rows, spans, strict=True)):
            colour = COLOUR[f"s{row.series % SERIES}"]
            whisker(ax, (span[0], span[2]), k, colour)
            dot(ax, min(max(span[1], ax.get_xlim()[0]), ax.get_xlim()[1]), k, colour)
            beside(ax, (1.0, k), row.shown, ("axes fraction", "data"))
            if row.bound is not None:
                ax.vlines(row.bound, k - 0.35, k + 0.35, colors=COLOUR["bad"], linewidth=2.5)
        svg = drawn(ax, title)
    return Plot(title, caption, svg)


def _scaled(spread: Spread, scale: float) -> Spread:
    return Spread.of(spread.interval().scaled(scale))


def _drop_text(name: str, drop: Spread) -> str:
    return f"{formatting.drop_value(name, drop.value)} {formatting.drop_range(name, drop)}"
