"""Entries of a measurement under load: the figures of each candidate from its windows, and how they compare."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ...core.counts import counted
from ...core.metrics.intervals import Floats
from ..result import PercentileEntry
from ..spreads import RatioEntry, Spread
from ..timing.statistics import median_interval, percentile_interval, ratio_interval
from .load_candidates import LoadCandidate
from .load_result import LoadEntry, QueryTimes, WindowEntry
from .query_loops import Served
from .windows import Window

PERCENTILES = (50.0, 90.0, 95.0, 99.0, 99.9)


def load_entry(
    candidate: LoadCandidate, windows: Sequence[Window], per_query: int, clients: int, confidence: float, seed: int
) -> LoadEntry:
    """The measurements of one candidate from its windows.

    Args:
        per_query: samples in one query.
        clients: queries that could be open at once.
    """
    served = [window.served for window in windows]
    late = joined([each.late_ns for each in served]) / 1e6
    return LoadEntry(
        name=candidate.name,
        where=candidate.where,
        kind=candidate.kind,
        runtime=candidate.runtime,
        sha256=candidate.sha256,
        size_bytes=candidate.size_bytes,
        per_query=per_query,
        clients=clients,
        failed=sum(each.failed for each in served),
        late_p99_ms=float(np.percentile(late, 99)) if len(late) else None,
        windows=tuple(map(_window_entry, windows)),
        raw=QueryTimes.of(joined([each.latencies_ns for each in served])),
        **window_figures(served, per_query, confidence, seed),
    )


def window_figures(served: Sequence[Served], per_query: int, confidence: float, seed: int) -> dict[str, Any]:
    """The figures of an entry that follow from the latencies of its windows.

    Args:
        per_query: samples in one query.
    """
    times = joined([each.latencies_ns for each in served])
    medians = np.array([each.median_ms for each in served if each.queries])
    speeds = np.array([each.queries * per_query / each.seconds for each in served if each.seconds > 0])
    return {
        "queries": len(times),
        "median_ms": Spread.of(median_interval(medians, confidence, seed)) if len(medians) else None,
        "mean_ms": float(times.mean()) / 1e6 if len(times) else None,
        "percentiles": tuple(percentile_entry(times / 1e6, percent) for percent in PERCENTILES),
        "rows_per_second": Spread.of(median_interval(speeds, confidence, seed)) if len(speeds) else None,
    }


def _window_entry(window: Window) -> WindowEntry:
    served = window.served
    return WindowEntry(
        round=window.round,
        place=window.place,
        began_s=window.began_s,
        seconds=served.seconds,
        queries=served.queries,
        failed=served.failed,
        median_ms=served.median_ms if served.queries else None,
    )


def percentile_entry(times_ms: Floats, percent: float) -> PercentileEntry:
    """A percentile with its interval; null if there are too few times."""
    return PercentileEntry.of(percentile_interval(times_ms, percent))


def joined(arrays: Sequence[Floats]) -> Floats:
    """Arrays one after another; empty without any."""
    return np.concatenate(arrays) if arrays else np.zeros(0)


def with_ratios(
    entries: Sequence[LoadEntry], windows: Mapping[str, Sequence[Window]], confidence: float, seed: int
) -> list[LoadEntry]:
    """The entries with how many times faster each is than the first, from the times per query of the same rounds."""
    first, *others = entries
    made = [first]
    for entry in others:
        pairs = [
            (theirs.served, ours.served)
            for theirs, ours in zip(windows.get(first.name, ()), windows.get(entry.name, ()), strict=False)
            if theirs.served.queries and ours.served.queries
        ]
        if not pairs:
            made.append(entry)
            continue
        theirs, ours = ([pair[side].median_ms for pair in pairs] for side in (0, 1))
        found = ratio_interval(theirs, ours, confidence, seed, candidate=entry.name, reference=first.name)
        made.append(entry.model_copy(update={"ratio": RatioEntry.of_ratio(found)}))
    return made


def notes_of(entries: Sequence[LoadEntry]) -> list[str]:
    """What a reader of the figures has to know."""
    told = []
    for entry in entries:
        if entry.failed:
            asked = entry.queries + entry.failed
            told.append(
                f"'{entry.name}' did not answer {counted(entry.failed, 'query')} of {asked:,}; percentiles are of the "
                "answered ones"
            )
        if len(entry.warmup_ms) > 1 and entry.warmup_ms[0] > 2 * entry.warmup_ms[-1]:
            told.append(
                f"'{entry.name}' began at {entry.warmup_ms[0]:.3g} ms and was steady at {entry.warmup_ms[-1]:.3g} ms"
            )
    return told
