"""A measurement without a break: candidates in interleaved windows for minutes, ranked by their last minute."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

from ...core.console import Console
from ...core.data.splits import Splits
from ...core.options.load_options import SustainOptions
from ...core.system.garbage import no_collections
from ..edge.sustained import MINUTE_S, Sustained, lines_of
from .load_candidates import LoadCandidate, described
from .load_entries import notes_of, with_ratios
from .load_result import LoadEntry, LoadResult
from .measure_load import (
    WARMUP_SHARE,
    Began,
    load_result,
    opened_for,
    splits_of,
    stream_of,
)
from .windows import Window, interleaved, warmed_up


def measure_sustained(
    candidates: Sequence[LoadCandidate], splits: Splits, options: SustainOptions, console: Console
) -> LoadResult:
    """Ask all candidates without a break.

    Raises:
        RetortError: a candidate cannot be opened, or rejects its first query.
    """
    began, span_s = Began(), 60 * options.minutes
    with opened_for(candidates, options.threads, options.batch) as asked, no_collections(collect_first=True):
        asks = {name: stream_of(one) for name, one in asked.items()}
        warmup = warmed_up(asks, min(30.0, WARMUP_SHARE * span_s), options.seed)
        length_s = min(options.window_s, span_s / len(asks) / 3)
        rounds, end = max(3, round(span_s / length_s / len(asks))), time.monotonic() + span_s
        windows = interleaved(asks, length_s, rounds, options.seed, console, lambda: time.monotonic() >= end)
        split = {name: splits_of(one) for name, one in asked.items()}
    entries = [
        one.entry(windows[name], options.confidence, options.seed).model_copy(
            update={
                "threads": 0 if one.candidate.endpoint else options.threads,
                "warmup_ms": warmup[name],
                "stages": split[name],
            }
        )
        for name, one in asked.items()
    ]
    entries = with_ratios(entries, windows, options.confidence, options.seed)
    ranked, lines = by_last_minute(entries, windows)
    notes = [*lines, *notes_of(entries)]
    result = load_result("sustain", described(candidates), ranked, splits, options, began, notes)
    return result.model_copy(update={"interrupted": windows.interrupted})


def by_last_minute(entries: Sequence[LoadEntry], windows: dict[str, list[Window]]) -> tuple[list[LoadEntry], list[str]]:
    """The entries with the medians of their first and last minute, the fastest of the last minute first.

    Returns:
        The entries, and sentences about the order and about what became slower.
    """
    found = {name: _minutes(name, mine) for name, mine in windows.items()}
    made = [
        entry.model_copy(update={"first_minute_ms": one.first_ms, "last_minute_ms": one.last_ms})
        if (one := found[entry.name]) is not None
        else entry
        for entry in entries
    ]
    made.sort(key=lambda entry: float("inf") if entry.last_minute_ms is None else entry.last_minute_ms)
    known = sorted((one for one in found.values() if one is not None), key=lambda one: one.last_ms)
    return made, lines_of(known)


def _minutes(name: str, windows: Sequence[Window]) -> Sustained | None:
    """The first and the last minute of a candidate, or the thirds of a shorter run; None without answers in them."""
    answered = [window for window in windows if window.served.queries]
    if len(answered) < 3:
        return None
    moments = np.array([window.began_s for window in answered])
    medians = np.array([window.served.median_ms for window in answered])
    last = float(moments[-1])
    span_s = min(MINUTE_S, last / 3)
    early, late = moments <= moments[0] + span_s, moments >= last - span_s
    return Sustained(name, float(np.median(medians[early])), float(np.median(medians[late])), last / 60)
