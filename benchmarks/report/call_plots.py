"""Plots of the times of calls: their distribution, their course with the sensors of a device, and ratios by round."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
from matplotlib.axes import Axes

from ...core.metrics.intervals import Floats
from ..device_entries import SensorSeries
from ..result import LatencyEntry, LatencyRun, Result
from ..timing.statistics import log_ratios
from . import formatting
from .drawing import COLOUR, Plot, axes, dots, drawn, line_of, no_difference, panels, scale

POINTS = 3000
"""Points of all figures of one kind on a page."""
MOST, FEWEST = 160, 24
"""Points of a line."""
SHARES = (0.0, 0.5, 0.9, 0.99, 0.999, 0.9999)
GAP = 3.5
"""Longest gap between two moments of throttling, in readings, within one shaded span."""


def distribution(result: Result, run: LatencyRun) -> Plot | None:
    """Which share of the calls took at most how long, from the raw times."""
    known = {name: entry.raw.calls_ms() for name, entry in _entries(result, run).items() if entry.raw is not None}
    title = f"distribution of calls at batch {run.batch}"
    label = f"time of a call at batch {run.batch}, ms (log scale)"
    return distribution_of(known, title, label, _points(result, len(known)), "calls")


def distribution_of(known: Mapping[str, Floats], title: str, label: str, kept: int, what: str) -> Plot | None:
    """Which share of the times took at most how long; None without times.

    Args:
        known: times in milliseconds by the name of their series.
        label: of the horizontal axis.
        kept: points of a line.
        what: calls or queries.
    """
    if not known:
        return None
    with axes(300) as ax:
        deepest = 0.0
        every: list[float] = []
        for series, times in enumerate(known.values()):
            levels = np.linspace(0, max(math.log10(len(times)), 0.3), kept)
            values = np.quantile(times, 1 - 10**-levels)
            ax.plot(values, levels, linewidth=2, **line_of(series))
            deepest, every = max(deepest, float(levels[-1])), [*every, float(values[0]), float(values[-1])]
        scale(ax.xaxis, every, log=True, show=formatting.digits_short)
        ax.set_xlabel(label)
        shares = [share for share in SHARES if -math.log10(1 - share) <= deepest + 1e-9]
        ax.set_yticks([-math.log10(1 - share) for share in shares], [f"{100 * share:g} %" for share in shares])
        ax.set_ylim(-0.05 * deepest, 1.03 * deepest)
        svg = drawn(ax, title)
    caption = f"Share of the {what} that took at most so long, in wall-clock time; the slow end is stretched."
    return Plot(title, caption, svg, _keys(known))


def over_time(result: Result, run: LatencyRun) -> Plot | None:
    """The time of each round since the first one, with the sensors where a device has any."""
    known: dict[str, tuple[Sequence[float], Sequence[float]]] = {}
    for name, entry in _entries(result, run).items():
        begun = entry.raw.begun_s() if entry.raw is not None else []
        if len(begun) >= len(entry.blocks_ms) > 1:
            known[name] = (begun[: len(entry.blocks_ms)], entry.blocks_ms)
    if not known or (run.sensors is None and max(moments[-1] for moments, _ in known.values()) < 1):
        return None
    title = f"latency over time at batch {run.batch}"
    return over_time_of(title, known, run.sensors, _points(result, len(known)))


def sustained(result: Result) -> Plot | None:
    """The long timing of a device."""
    long = result.sustained
    if long is None or len(long.moments_s) < 2:
        return None
    order = {stage.stage: place for place, stage in enumerate(result.stages)}  # the colours are those of other figures
    names = sorted(long.times_ms, key=lambda name: order.get(name, len(order)))
    known = {name: (long.moments_s, long.times_ms[name]) for name in names}
    return over_time_of(f"without a break at batch {long.batch}", known, long.sensors, MOST)


def over_time_of(
    title: str,
    known: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    sensors: SensorSeries | None,
    kept: int,
    said: str = "Time of a call in each round.",
    since: str = "round",
) -> Plot:
    """Times by their moments, with the sensors below where there are any.

    Args:
        known: moments in seconds and times in milliseconds, by the name of their series.
        kept: points of a line.
        said: the caption.
        since: what the first moment is that of.
    """
    rows = [
        (label, values)
        for label, values in (
            ("°C", sensors.celsius), ("MHz", sensors.mhz), ("W", sensors.watts),
        )
        if any(value is not None for value in values)
    ] if sensors is not None else []  # fmt: skip
    moments_of = () if sensors is None else sensors.moments_s
    seconds = max(moments[-1] for moments, _ in known.values())
    per, unit = (60.0, "min") if seconds > 180 else (1.0, "s")
    with panels(230, *(90 for _ in rows)) as made:
        if sensors is not None:
            for ax in made:
                _mark(ax, sensors, per)
        every: list[float] = []
        for series, (moments, times) in enumerate(known.values()):
            spans = _spans(len(times), kept)
            xs = [float(np.mean(moments[span])) / per for span in spans]
            ys = [float(np.median(times[span])) for span in spans]
            made[0].plot(xs, ys, linewidth=1.8, **line_of(series))
            every += ys
        scale(made[0].yaxis, every, log=True, show=formatting.digits_short)
        made[0].set_ylabel("ms (log)")
        for ax, (label, values) in zip(made[1:], rows, strict=True):
            _sensor(ax, label, [moment / per for moment in moments_of], values)
        scale(made[-1].xaxis, [0.0, seconds / per], show=formatting.tick)
        made[-1].set_xlabel(f"{unit} since the first {since}")
        svg = drawn(made[0], title)
    throttled = " The shaded moments were throttled." if sensors is not None and sensors.throttled_s else ""
    heat = " Below: " + ", ".join({"°C": "temperature", "MHz": "frequency", "W": "power"}[label] for label, _ in rows)
    caption = f"{said}{heat + '.' if rows else ''}{throttled}"
    return Plot(title, caption, svg, _keys(known))


def _sensor(ax: Axes, label: str, moments: Sequence[float], values: Sequence[float | None]) -> None:
    spans = _spans(len(values), MOST)
    pairs = [(moments[span.start], [value for value in values[span] if value is not None]) for span in spans]
    choose = min if label == "MHz" else max
    shown = [(moment, choose(found)) for moment, found in pairs if found]
    ax.plot(*zip(*shown, strict=True), color=COLOUR["soft"], linewidth=1.8)
    scale(ax.yaxis, [value for _, value in shown], show=formatting.digits_short)
    ax.locator_params(axis="y", nbins=3)
    ax.set_ylabel(label)


def _mark(ax: Axes, sensors: SensorSeries, per: float) -> None:
    """Shade the spans of moments at which the device was throttled; a gap of a few readings ends a span."""
    if not sensors.throttled_s:
        return
    steps = np.diff(sensors.moments_s) if len(sensors.moments_s) > 1 else np.ones(1)
    step = float(np.median(steps))
    start = sensors.throttled_s[0]
    for before, after in pairwise([*sensors.throttled_s, math.inf]):
        if after - before > GAP * step:
            ax.axvspan(
                (start - step / 2) / per, (before + step / 2) / per, color=COLOUR["bad"], alpha=0.16, linewidth=0
            )
            start = after


def blocks(result: Result, run: LatencyRun) -> Plot | None:
    """The ratio of every round, in order of time, with the interval of the ratio as a band."""
    entries = _entries(result, run)
    reference = entries.pop(run.reference, None)
    shown = {name: entry for name, entry in entries.items() if entry.blocks_ms and reference is not None}
    if reference is None or not reference.blocks_ms or not shown:
        return None
    kept = _points(result, len(shown))
    ratios = {name: np.exp(log_ratios(reference.blocks_ms, entry.blocks_ms)) for name, entry in shown.items()}
    per_point = max(math.ceil(len(values) / kept) for values in ratios.values())
    with axes(258) as ax:
        scale(ax.xaxis, [1, max(run.rounds, 2)], show=lambda value: f"{value:g}", whole=True)
        drawn_values = {name: _binned(values, kept) for name, values in ratios.items()}
        every = [value for _, values in drawn_values.values() for value in values]
        scale(ax.yaxis, [*every, 1.0], log=True, show=lambda value: f"{formatting.digits_short(value)}×")
        ax.set_xlabel("round")
        no_difference(ax.axhline, 1.0)
        for series, (name, (places, values)) in enumerate(drawn_values.items()):
            style, ratio = line_of(series), shown[name].ratio
            if ratio is not None and ratio.low is not None and ratio.high is not None:
                ax.axhspan(ratio.low, ratio.high, color=style["color"], alpha=0.18, linewidth=0)
            dots(ax, places, values, style["color"])
            if ratio is not None and ratio.value is not None:
                ax.axhline(ratio.value, linewidth=1.6, alpha=0.75, **style)
        svg = drawn(ax, f"ratios by round at batch {run.batch}")
    noise = "" if run.noise.status == "VALID" else f" The machine was busy: {'; '.join(run.noise.reasons)}."
    each = "Each point" if per_point == 1 else f"Each point is the median of up to {per_point} rounds; it"
    caption = f"{each} compares a block with that of {run.reference} in the same round; bands are intervals.{noise}"
    return Plot(f"rounds at batch {run.batch}", caption, svg, _keys(shown))


def _binned(values: Floats, kept: int) -> tuple[list[float], list[float]]:
    spans = _spans(len(values), kept)
    places = [(span.start + span.stop + 1) / 2 for span in spans]
    return places, [float(np.median(values[span])) for span in spans]


def _entries(result: Result, run: LatencyRun) -> dict[str, LatencyEntry]:
    return {stage.stage: stage.latency[run.batch] for stage in result.stages if run.batch in stage.latency}


def _points(result: Result, lines: int) -> int:
    """Points of a line, so that all figures of this kind together stay small."""
    return max(FEWEST, min(MOST, POINTS // max(1, lines * len(result.runs))))


def _spans(count: int, kept: int) -> list[slice]:
    ends = np.linspace(0, count, min(count, kept) + 1).round().astype(int)
    return [slice(int(start), int(stop)) for start, stop in pairwise(ends)]


def _keys(names: Mapping[str, object]) -> tuple[tuple[str, int], ...]:
    return tuple((name, series) for series, name in enumerate(names))
