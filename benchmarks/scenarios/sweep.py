"""A sweep over threads and batch sizes in interleaved windows, with the Pareto front of latency against throughput."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack

from ...core.console import Console
from ...core.counts import counted
from ...core.data.splits import Splits
from ...core.errors import UserError
from ...core.options.load_options import SweepOptions
from ...core.system.garbage import no_collections
from ..machine import usable_cores
from .load_candidates import LoadCandidate, described
from .load_result import LoadEntry, LoadResult
from .measure_load import WARMUP_SHARE, Asked, Began, load_result, opened_for, stream_of
from .windows import Window, interleaved, warmed_up

WINDOW_S = 0.25
Point = tuple[int, int, str]
"""Threads, batch size and name."""


def measure_sweep(
    candidates: Sequence[LoadCandidate], splits: Splits, options: SweepOptions, console: Console
) -> LoadResult:
    """Measure every model with every number of threads at every batch size.

    Raises:
        UserError: a candidate is an endpoint, whose threads are those of its server.
        RetortError: a model cannot be opened.
    """
    if any(one.endpoint for one in candidates):
        raise UserError(
            "an endpoint has the threads and batches of its server", "give model files, or use `retort bench load`"
        )
    began, threads = Began(), options.threads or default_threads(usable_cores())
    length_s = min(WINDOW_S, options.seconds)
    rounds = max(1, round(options.seconds / length_s))
    with ExitStack() as stack, no_collections(collect_first=True):
        asked: dict[Point, Asked] = {}
        for count in threads:
            for batch in options.batch_sizes:
                opened = stack.enter_context(opened_for(candidates, count, batch))
                asked.update({(count, batch, name): one for name, one in opened.items()})
        asks = {" · ".join(map(str, point)): stream_of(one) for point, one in asked.items()}
        names = dict(zip(asked, asks, strict=True))
        warmup = warmed_up(asks, WARMUP_SHARE * options.seconds * len(asks), options.seed)
        windows = interleaved(asks, length_s, rounds, options.seed, console)
    entries = [
        _entry(one, point, windows[names[point]], options).model_copy(update={"warmup_ms": warmup[names[point]]})
        for point, one in asked.items()
    ]
    entries.sort(key=lambda entry: ([one.name for one in candidates].index(entry.name), entry.threads, entry.per_query))
    title = f"{described(candidates)}, {counted(threads, 'number')} of threads, {counted(options.batch_sizes, 'batch')}"
    notes = ["Points marked * are the Pareto front: no other point has lower latency and more throughput."]
    result = load_result("sweep", title, pareto_marked(entries), splits, options, began, notes)
    return result.model_copy(update={"interrupted": windows.interrupted})


def _entry(one: Asked, point: Point, windows: Sequence[Window], options: SweepOptions) -> LoadEntry:
    threads, _, _ = point
    found = one.entry(windows, options.confidence, options.seed)
    return found.model_copy(update={"threads": threads, "raw": None, "percentiles": found.percentiles[:4]})


def default_threads(cores: float) -> tuple[int, ...]:
    """1, 2, 4 … up to the processors that may be used."""
    most = max(1, int(cores))
    return tuple(sorted({*(1 << power for power in range(most.bit_length()) if 1 << power <= most), most}))


def pareto_marked(entries: Sequence[LoadEntry]) -> list[LoadEntry]:
    """The entries, those marked to which no other has lower latency and more throughput.

    Args:
        entries: with medians; one without an answered query is not marked.
    """
    points = {index: point for index, entry in enumerate(entries) if (point := _figures(entry)) is not None}
    best = pareto(points)
    return [entry.model_copy(update={"pareto": index in best}) for index, entry in enumerate(entries)]


def pareto(points: Mapping[int, tuple[float, float]]) -> set[int]:
    """The points that no other one dominates.

    Args:
        points: latency, which is better if it is lower, and throughput, which is better if it is higher.
    """
    found, most = set[int](), float("-inf")
    for index, (_, throughput) in sorted(points.items(), key=lambda item: (item[1][0], -item[1][1])):
        if throughput > most:
            found.add(index)
            most = throughput
    return found


def _figures(entry: LoadEntry) -> tuple[float, float] | None:
    median, speed = entry.median_ms, entry.rows_per_second
    if median is None or speed is None or median.value is None or speed.value is None:
        return None
    return median.value, speed.value
