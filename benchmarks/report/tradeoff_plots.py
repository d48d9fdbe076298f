"""The metric against what it costs: latency, energy and bytes, with the candidates that none is better than."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...core.metrics.task_metrics import higher_is_better
from ..result import Result, Spread, StageEntry
from . import formatting
from .drawing import COLOUR, Plot, axes, dot, drawn, label_points, scale, whisker

Span = tuple[float, float, float]
P99 = 99.0
MANY = 6
"""Number of candidates above which only those that none is better than have a name, if there is room for it."""


@dataclass(frozen=True)
class Cost:
    """One kind of cost.

    Attributes:
        spans: the cost of each candidate with both ends of its interval.
    """

    title: str
    label: str
    spans: list[Span]


def tradeoffs(result: Result) -> list[Plot]:
    """The metric against each cost that is known of two candidates or more."""
    chosen = [stage for stage in result.stages if stage.metric is not None]
    if len(chosen) < 2:
        return []
    made = []
    for of in (_latency, _energy, _bytes):
        known = of(chosen)
        if known is not None and len(known[0]) > 1:
            made.append(_tradeoff(result, *known))
    return made


def _latency(stages: Sequence[StageEntry]) -> tuple[list[StageEntry], Cost] | None:
    """The 99th percentile at the smallest batch size, or the time of a call where there are too few for it."""
    batches = sorted({batch for stage in stages for batch in stage.latency})
    timed = [stage for stage in stages if batches and batches[0] in stage.latency]
    if not timed:
        return None
    worst = [p99_of(stage, batches[0]) for stage in timed]
    if all(span is not None for span in worst):
        label = f"99th percentile of a call at batch {batches[0]}, ms (log scale)"
        return timed, Cost("p99", label, [span for span in worst if span is not None])
    spans = [span_of(stage.latency[batches[0]].median_ms) for stage in timed]
    return timed, Cost("latency", f"latency at batch {batches[0]}, ms (log scale)", spans)


def p99_of(stage: StageEntry, batch: int) -> Span | None:
    """The 99th percentile with its interval in milliseconds; None if it is not known."""
    for one in stage.latency[batch].percentiles if batch in stage.latency else ():
        if one.percentile == P99 and one.value_ms is not None:
            value = one.value_ms
            return (one.low_ms or value, value, one.high_ms or value)
    return None


def _energy(stages: Sequence[StageEntry]) -> tuple[list[StageEntry], Cost] | None:
    known = [(stage, stage.energy) for stage in stages if stage.energy is not None and stage.energy.net_mj > 0]
    if not known:
        return None
    spans = [(max(one.low_mj, one.net_mj / 1e3), one.net_mj, one.high_mj) for _, one in known]
    return [stage for stage, _ in known], Cost("energy", "energy of a sample, mJ, net (log scale)", spans)


def _bytes(stages: Sequence[StageEntry]) -> tuple[list[StageEntry], Cost] | None:
    sizes = [max(stage.size_bytes, 1) / 1e3 for stage in stages]
    return list(stages), Cost("size", "size of the file, kB (log scale)", [(size, size, size) for size in sizes])


def _tradeoff(result: Result, stages: Sequence[StageEntry], cost: Cost) -> Plot:
    metrics, name = [span_of(stage.metric) for stage in stages], _name(stages)
    up = higher_is_better(name)
    best = front([span[1] for span in cost.spans], [span[1] if up else -span[1] for span in metrics])
    many = len(stages) > MANY
    with axes(330) as ax:
        scale(ax.xaxis, [end for span in cost.spans for end in span], log=True, show=formatting.digits_short)
        ends = [end for span in metrics for end in span]
        scale(ax.yaxis, ends, show=lambda value: formatting.metric_tick(name, value))
        ax.set_xlabel(cost.label)
        line = sorted((cost.spans[place][1], metrics[place][1]) for place in best)
        ax.plot(*zip(*line, strict=True), color=COLOUR["faint"], linewidth=1.6, linestyle=(0, (2, 2)), zorder=1)
        for place in sorted(range(len(stages)), key=best.__contains__):  # the best ones are drawn over the others
            stage, span, metric = stages[place], cost.spans[place], metrics[place]
            colour = COLOUR["ref" if stage.stage == result.reference else "s0" if place in best else "s1"]
            whisker(ax, (metric[0], metric[2]), span[1], colour, vertical=True, faint=many)
            if span[0] < span[2]:
                whisker(ax, (span[0], span[2]), metric[1], colour, faint=many)
            dot(ax, span[1], metric[1], colour)
        shown = [k for k, stage in enumerate(stages) if not many or k in best or stage.stage == result.reference]
        labels = [formatting.short_name(stages[k].stage, 16) for k in shown]
        places = [(cost.spans[k][1], metrics[k][1], label) for k, label in zip(shown, labels, strict=True)]
        label_points(ax, places, all_of_them=not many)
        svg = drawn(ax, f"{name} against {cost.title}")
    better = "Up" if up else "Down"
    caption = f"{better} and to the left is better. Blue, on the dashed line: no other one is better in both."
    return Plot(f"{name} against {cost.title}", caption, svg)


def front(costs: Sequence[float], gains: Sequence[float]) -> list[int]:
    """The Pareto front: those than which no other one is better in one of both and as good in the other."""
    pairs = list(zip(costs, gains, strict=True))
    return [
        place
        for place, (cost, gain) in enumerate(pairs)
        if not any(c <= cost and g >= gain and (c, g) != (cost, gain) for c, g in pairs)
    ]


def span_of(spread: Spread | None) -> Span:
    """Lower end, value and upper end; missing ends are infinite."""
    interval = spread.interval() if spread is not None else Spread(value=0, low=0, high=0, confidence=0.5).interval()
    return interval.low, interval.value, interval.high


def _name(stages: Sequence[StageEntry]) -> str:
    metric = stages[0].metric
    return "" if metric is None else metric.name
