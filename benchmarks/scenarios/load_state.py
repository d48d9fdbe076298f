"""Whether decisions can be based on a measurement under load: VALID, NOISY or INVALID, with every reason.

Loads are timed by the wall clock, so that other processes count. The verdict follows from what a result keeps, so that
it is computed again when a result is read.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from ...core.counts import counted
from ..timing.machine_noise import (
    DRIFT_LIMIT_PERCENT,
    PRESSURE_LIMIT_PERCENT,
    SPREAD_LIMIT_PERCENT,
    STEAL_LIMIT_PERCENT,
    drift_percent,
    spread_percent,
)
from ..timing.statistics import rounds_needed
from .load_result import LoadEntry, LoadResult, LoadStatus

UNANSWERED_PERCENT = 1.0
"""Share of the queries without an answer above which the 99th percentile is later than any time."""
CACHED_PERCENT = 10.0
"""Share of a file in the page cache above which a start was not a cold one."""


class LoadState(NamedTuple):
    """A verdict with its reasons; none for VALID."""

    status: LoadStatus
    reasons: tuple[str, ...] = ()


def state_of(result: LoadResult) -> LoadState:
    """The verdict on a measurement."""
    if invalid := [reason for entry in result.candidates for reason in _unusable(entry, result)]:
        return LoadState("INVALID", tuple(invalid))
    noisy = [*_disturbed(result), *(reason for entry in result.candidates for reason in _unsteady(entry, result))]
    return LoadState("NOISY", tuple(noisy)) if noisy else LoadState("VALID")


def judged(result: LoadResult) -> LoadResult:
    """The result with its verdict; a ratio of a measurement that is not VALID decides nothing."""
    state = state_of(result)
    candidates = tuple(
        entry
        if entry.ratio is None
        else entry.model_copy(update={"ratio": entry.ratio.model_copy(update={"doubts": state.reasons})})
        for entry in result.candidates
    )
    return result.model_copy(update={"status": state.status, "reasons": state.reasons, "candidates": candidates})


def _unusable(entry: LoadEntry, result: LoadResult) -> Iterator[str]:
    """Why the figures of a candidate mean nothing."""
    asked = entry.queries + entry.failed
    if result.measurement == "cold":
        dropped = [start for start in entry.starts if start.page_cache == "dropped"]
        kept = [start for start in dropped if (start.cached_percent or 0.0) > CACHED_PERCENT]
        if 2 * len(kept) > len(dropped):
            yield (
                f"the kernel kept the files of '{entry.name}' in the page cache at {counted(kept, 'start')} of "
                f"{len(dropped)}, so these were no cold starts"
            )
    elif entry.windows and not entry.queries:
        yield f"'{entry.name}' answered no query"
    elif asked and 100 * entry.failed > UNANSWERED_PERCENT * asked:
        yield f"'{entry.name}' did not answer {counted(entry.failed, 'query')} of {asked:,}"


def _disturbed(result: LoadResult) -> Iterator[str]:
    """What other processes did, where a wait for a processor is not made by the load itself."""
    pressure, steal = result.pressure_percent, result.steal_percent
    if steal is not None and steal > STEAL_LIMIT_PERCENT:
        yield f"the hypervisor took {steal:.1f} % of the CPU time (limit {STEAL_LIMIT_PERCENT:.0f} %)"
    if pressure is not None and pressure > PRESSURE_LIMIT_PERCENT and not _crowded(result):
        yield f"processes waited for a CPU in {pressure:.0f} % of the time (limit {PRESSURE_LIMIT_PERCENT:.0f} %)"


def _crowded(result: LoadResult) -> bool:
    """Whether the load has more threads than processors, or a server on this machine, and waits for them itself."""
    cores = (result.env.get("cpu") or {}).get("usable") or 1
    return any(
        one.kind == "endpoint" or one.clients * max(one.threads, 1) > cores or one.threads >= cores > 1
        for one in result.candidates
    )


def _unsteady(entry: LoadEntry, result: LoadResult) -> Iterator[str]:
    """What the windows of a candidate show of the machine."""
    medians = np.array([window.median_ms for window in entry.windows if window.median_ms is not None])
    if result.measurement in ("server", "cold") or not len(medians):
        if result.measurement == "server":
            yield from _not_kept(entry, result)
        return  # a queue scatters by itself
    where = f"'{entry.name}'" + (f" at {counted(entry.threads, 'thread')} and batch {entry.per_query}"
                                 if result.measurement == "sweep" else "")  # fmt: skip
    needed = rounds_needed(float(result.options.get("confidence", 0.95)))
    if len(medians) < needed:
        yield f"an interval needs {needed} windows, and {where} had {len(medians)}"
        return
    if (spread := spread_percent(medians)) > SPREAD_LIMIT_PERCENT and result.measurement != "sustain":
        yield f"windows of {where} scatter by {spread:.0f} % (limit {SPREAD_LIMIT_PERCENT:.0f} %)"
    if abs(drift := drift_percent(medians)) > DRIFT_LIMIT_PERCENT and result.measurement != "sustain":
        yield f"{where} drifted by {drift:+.0f} % from the first to the last third"


def _not_kept(entry: LoadEntry, result: LoadResult) -> Iterator[str]:
    """A bound that was kept while the rate was looked for, and not in the windows afterwards."""
    bound = result.options.get("p99_ms")
    p99 = next((one for one in entry.percentiles if one.percentile == 99.0), None)
    if bound and p99 is not None and p99.low_ms is not None and p99.low_ms > bound:
        yield (
            f"'{entry.name}' kept a 99th percentile of {bound:g} ms while its rate was looked for, and not afterwards "
            f"(at least {p99.low_ms:.3g} ms)"
        )
