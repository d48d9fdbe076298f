"""Plots of a measurement under load: distribution, course, refusals, stages of a query, rates, a sweep, starts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ...core.errors import ArtifactError
from ...core.metrics.intervals import Floats
from ..report import formatting
from ..report.call_plots import distribution_of, over_time_of
from ..report.drawing import COLOUR, SERIES, Plot, axes, beside, dot, drawn, label_points, line_of, named_rows, scale
from ..scenarios.load_result import LoadEntry, LoadResult, StageSplitEntry

ROW, POINTS, MOST, FEWEST = 26, 900, 160, 24
STAGES = (("prepare", "prepare_ms"), ("copy in", "copy_in_ms"), ("run", "run_ms"), ("copy out", "copy_out_ms"))
STEPS = ("import", "load", "first call", "until steady")


def load_plots(result: LoadResult) -> list[Plot]:
    """The plots of a measurement, those that say the most first."""
    made: list[Plot | None]
    if result.measurement == "cold":
        made = [starts(result)]
    elif result.measurement == "sweep":
        made = [tradeoff(result)]
    else:
        made = [distribution(result), over_time(result), stages(result), refusals(result), rates(result)]
        if result.measurement == "sustain":
            made = [made[1], made[0], *made[2:]]
    return [plot for plot in made if plot is not None]


def distribution(result: LoadResult) -> Plot | None:
    """Which share of the queries took at most how long."""
    known = {one.name: times for one in result.candidates if (times := _times_ms(one)) is not None and len(times) > 1}
    label = "ms since a query was due (log scale)" if result.measurement == "server" else "ms of a query (log scale)"
    return distribution_of(known, "distribution of queries", label, _kept(len(known)), "queries")


def over_time(result: LoadResult) -> Plot | None:
    """The median of each window since the first one."""
    known: dict[str, tuple[Sequence[float], Sequence[float]]] = {}
    for one in result.candidates:
        found = [(window.began_s, window.median_ms) for window in one.windows if window.median_ms is not None]
        if len(found) > 1:
            known[one.name] = ([moment for moment, _ in found], [median for _, median in found])
    if not known:
        return None
    title = "without a break" if result.measurement == "sustain" else "latency over time"
    return over_time_of(title, known, None, _kept(len(known)), "Median of the queries in each window.", "window")


def refusals(result: LoadResult) -> Plot | None:
    """The share of the queries of each window that got no answer; None if all were answered."""
    known = {one.name: one for one in result.candidates if one.failed and one.windows}
    if not known:
        return None
    with axes(210) as ax:
        every = [0.0]
        last = max(window.began_s + window.seconds for one in known.values() for window in one.windows)
        for series, one in enumerate(known.values()):
            moments = [window.began_s for window in one.windows]
            shares = [100 * window.failed / max(window.failed + window.queries, 1) for window in one.windows]
            ax.plot(moments, shares, linewidth=2, drawstyle="steps-post", **line_of(series))
            every += shares
        scale(ax.xaxis, [0.0, last], show=formatting.tick)
        scale(ax.yaxis, every, show=lambda value: f"{formatting.tick(value)} %")
        ax.set_ylim(bottom=0)
        ax.set_xlabel("s since the first window")
        svg = drawn(ax, "queries without an answer")
    caption = "Share of the queries of each window that got no answer, or a wrong one."
    return Plot("queries without an answer", caption, svg, _keys(known))


def stages(result: LoadResult) -> Plot | None:
    """Bars of what a query consists of."""
    known = [(one.name, one.stages) for one in result.candidates if one.stages is not None]
    if not known:
        return None
    with axes(50 + len(known) * ROW) as ax:
        named_rows(ax, [name for name, _ in known])
        ax.set_xlim(0, max(_total(split) for _, split in known) or 1)
        ax.set_xlabel("ms of a query")
        for row, (_, split) in enumerate(known):
            left = 0.0
            for part, (_, key) in enumerate(STAGES):
                length = getattr(split, key) or 0.0
                ax.barh(row, length, left=left, height=0.62, color=COLOUR[f"s{part}"])
                left += length
            beside(ax, (left, row), formatting.time_text(left))
        svg = drawn(ax, "stages of a query")
    caption = "Medians of a few queries apart from the timed ones; for an endpoint, run is the whole request."
    return Plot("stages of a query", caption, svg, tuple((name, part) for part, (name, _) in enumerate(STAGES)))


def rates(result: LoadResult) -> Plot | None:
    """The trials of the search for the highest rate: the bound of the 99th percentile at each rate."""
    known = {one.name: one for one in result.candidates if any(trial.bound_ms for trial in one.trials)}
    bound = result.options.get("p99_ms")
    if not known or bound is None:
        return None
    with axes(258) as ax:
        points = [
            (trial.rate, trial.bound_ms) for one in known.values() for trial in one.trials if trial.bound_ms is not None
        ]
        scale(ax.xaxis, [rate for rate, _ in points], log=True, show=formatting.digits_short)
        scale(ax.yaxis, [*(value for _, value in points), bound], log=True, show=formatting.digits_short)
        ax.set_xlabel("queries per second (log scale)")
        ax.set_ylabel("p99, ms (log)")
        ax.axhline(bound, color=COLOUR["bad"], linewidth=1.6)
        for series, one in enumerate(known.values()):
            for trial in one.trials:
                if trial.bound_ms is not None:
                    dot(ax, trial.rate, trial.bound_ms, COLOUR[f"s{series % SERIES}"])
        svg = drawn(ax, "trials of rates")
    missed = sum(trial.bound_ms is None for one in result.candidates for trial in one.trials)
    without = f" {missed} trials had no bound, because queries failed or came too late." if missed else ""
    caption = f"Upper bound of the 99th percentile in each trial; the line is the wanted {bound:g} ms.{without}"
    return Plot("trials of rates", caption, svg, _keys(known))


def tradeoff(result: LoadResult) -> Plot | None:
    """Latency against throughput of every point of a sweep, with the Pareto front."""
    known: dict[str, list[tuple[float, float, LoadEntry]]] = {}
    for one in result.candidates:
        median, speed = one.median_ms, one.rows_per_second
        if median is not None and speed is not None and median.value and speed.value:
            known.setdefault(one.name, []).append((median.value, speed.value, one))
    if not known:
        return None
    every = [point for points in known.values() for point in points]
    with axes(330) as ax:
        scale(ax.xaxis, [point[0] for point in every], log=True, show=formatting.digits_short)
        scale(ax.yaxis, [point[1] for point in every], log=True, show=formatting.count_text)
        ax.set_xlabel("median of a call, ms (log scale)")
        ax.set_ylabel("samples per second (log)")
        front = sorted((point for point in every if point[2].pareto), key=lambda point: point[0])
        ax.plot([point[0] for point in front], [point[1] for point in front], color=COLOUR["faint"], linewidth=1.6)
        for series, points in enumerate(known.values()):
            for latency_ms, per_s, _ in points:
                dot(ax, latency_ms, per_s, COLOUR[f"s{series % SERIES}"])
        shown = [(latency, speed, f"{one.threads}t b{one.per_query}") for latency, speed, one in front]
        label_points(ax, shown, all_of_them=False)
        svg = drawn(ax, "latency and throughput")
    caption = "The line is the Pareto front; 2t b8 are 2 threads at batch 8."
    return Plot("latency and throughput", caption, svg, _keys(known))


def starts(result: LoadResult) -> Plot | None:
    """Bars of what a cold start consists of, for each state of the page cache."""
    known = [(one.name, cold) for one in result.candidates for cold in one.cold]
    if not known:
        return None
    both = len({cold.page_cache for _, cold in known}) > 1
    names = [f"{name}, {cold.page_cache}" if both else name for name, cold in known]
    with axes(50 + len(known) * ROW) as ax:
        named_rows(ax, names)
        ax.set_xlim(0, max(cold.steady_ms.value or 0.0 for _, cold in known) or 1)
        ax.set_xlabel("ms since the start of the process")
        for row, (_, cold) in enumerate(known):
            parts = [cold.import_ms.value or 0.0, cold.load_ms.value or 0.0, cold.first_ms.value or 0.0]
            parts.append(max(0.0, (cold.steady_ms.value or 0.0) - sum(parts)))
            left = 0.0
            for part, length in enumerate(parts):
                ax.barh(row, length, left=left, height=0.62, color=COLOUR[f"s{part}"])
                left += length
            beside(ax, (left, row), formatting.time_text(left))
        svg = drawn(ax, "start of a model")
    caption = "Medians over new processes, until a call is as fast as later ones."
    return Plot("start of a model", caption, svg, tuple((name, part) for part, name in enumerate(STEPS)))


def _times_ms(one: LoadEntry) -> Floats | None:
    """The latencies of a candidate; None if they were altered or left out."""
    try:
        return None if one.raw is None else one.raw.times_ns() / 1e6
    except ArtifactError:  # the page says INVALID
        return None


def _total(split: StageSplitEntry) -> float:
    return float(sum(getattr(split, key) or 0.0 for _, key in STAGES))


def _kept(lines: int) -> int:
    return max(FEWEST, min(MOST, POINTS // max(1, lines)))


def _keys(names: Mapping[str, object]) -> tuple[tuple[str, int], ...]:
    return tuple((name, series) for series, name in enumerate(names))
