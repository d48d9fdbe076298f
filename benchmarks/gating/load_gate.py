"""The gate of measurements under load: whether candidates are still as fast as in a stored result.

Two runs are compared, so that intervals are widened by what two runs of one file differ. A NOISY or INVALID
measurement is never taken for a pass.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ...core.counts import listed
from ...core.errors import UserError
from ...core.metrics.ratio import Ratio
from ..load_report.load_verdict import load_state
from ..machine import describe, identity
from ..repeatability.noise_floor import known_floor
from ..report.compare import BETWEEN_RUNS
from ..result import PercentileEntry
from ..scenarios.load_result import LoadEntry, LoadResult
from ..timing.statistics import unpaired_ratio
from .gate_models import Gated, widened
from .regression_checks import Check, check_latency

TAIL = 99.0
SAME = ("scenario", "samples_per_query", "batch", "rate", "p99_ms", "clients", "threads", "provider", "page_cache")
"""Options without which two measurements are not of the same kind."""
KINDS = ("single-stream", "multi-stream", "server", "offline")


def gate_loads(before: LoadResult, after: LoadResult, slower_percent: float) -> Gated:
    """Compare the median and the 99th percentile of each candidate with those of the baseline.

    Args:
        before: the baseline.
        slower_percent: the slowdown that must be found.

    Raises:
        UserError: the two are not of the same kind, of the same machine, or have no common candidate.
    """
    _require_alike(before, after)
    old = {one.name: one for one in before.candidates}
    shared = [(old[one.name], one) for one in after.candidates if one.name in old]
    if not shared:
        raise UserError(
            "the two results have no common candidate",
            f"the baseline has {listed(list(old))}; the other {listed([one.name for one in after.candidates])}",
        )
    doubts = (*_doubts("the baseline", before), *_doubts("the present result", after))
    apart = max(BETWEEN_RUNS, _floor(before), _floor(after))
    checks = [check for pair in shared for check in _checks(*pair, doubts, apart, slower_percent)]
    if not checks:
        raise UserError("no candidate has times in both results", "measure longer, or look at what failed")
    notes = [f"the times come from two runs, between which one file may differ by {apart:.1%}"]
    notes += [f"{one.name} is not in the present result" for one in before.candidates if one.name not in
              {each.name for _, each in shared}]  # fmt: skip
    return Gated(tuple(checks), False, describe(after.env), tuple(notes))


def _require_alike(before: LoadResult, after: LoadResult) -> None:
    if before.measurement not in KINDS or after.measurement not in KINDS:
        other = next(one.measurement for one in (before, after) if one.measurement not in KINDS)
        raise UserError(f"a result of {other} cannot be gated", f"gate results of `retort bench load`: {listed(KINDS)}")
    if any(one.options.get("p99_ms") is not None for one in (before, after)):
        raise UserError(
            "a search for the highest rate cannot be gated, because its rates have no interval",
            "measure both with the same --rate, and gate the latency",
        )
    theirs, ours = ({"scenario": one.measurement, **one.options} for one in (before, after))
    changed = [key for key in SAME if theirs.get(key) != ours.get(key)]
    if changed:
        told = listed([f"{key} {theirs.get(key)} and {ours.get(key)}" for key in changed])
        raise UserError(f"the two results were measured differently: {told}", "measure both with the same options")
    one, two = identity(before.env), identity(after.env)
    if apart := [key for key in one if one[key] != two[key]]:
        told = listed([f"{key} {one[key]} and {two[key]}" for key in apart])
        raise UserError(f"the two results are of different machines: {told}", "measure both on the same machine")


def _doubts(which: str, result: LoadResult) -> tuple[str, ...]:
    state = load_state(result)
    return () if state.status == "VALID" else (f"{which} is {state.status}: {state.reason}",)


def _floor(result: LoadResult) -> float:
    runtimes = sorted({one.runtime for one in result.candidates if one.sha256})
    return known_floor(result.env, runtimes, sorted({one.threads for one in result.candidates if one.sha256}))


def _checks(
    before: LoadEntry, after: LoadEntry, doubts: tuple[str, ...], apart: float, slower_percent: float
) -> Iterator[Check]:
    """The checks of one candidate."""
    theirs, ours = ([one.median_ms for one in entry.windows if one.median_ms is not None] for entry in (before, after))
    if theirs and ours:
        ratio = unpaired_ratio(theirs, ours, 0.95, doubts=doubts)
        times = (float(np.median(theirs)), float(np.median(ours)))
        yield check_latency(
            f"the median of {after.name}", after.per_query, widened(ratio, apart), times, slower_percent
        )
    tails = [_tail(entry) for entry in (before, after)]
    if tails[0] is not None and tails[1] is not None:
        found = widened(_of_tails(tails[0], tails[1], doubts), apart)
        pair = (tails[0].value_ms, tails[1].value_ms)
        yield check_latency(f"the 99th percentile of {after.name}", after.per_query, found, pair, slower_percent)


def _tail(entry: LoadEntry) -> PercentileEntry | None:
    return next((one for one in entry.percentiles if one.percentile == TAIL and one.value_ms), None)


def _of_tails(before: PercentileEntry, after: PercentileEntry, doubts: tuple[str, ...]) -> Ratio:
    """How many times faster a tail became; its ends are those of both intervals, which is more than 99 % sure."""
    assert before.value_ms is not None
    assert after.value_ms is not None
    ends = (before.low_ms, before.high_ms, after.low_ms, after.high_ms)
    if None in ends:
        return Ratio(before.value_ms / after.value_ms, None, None, 0.99, doubts=doubts)
    low, high = (before.low_ms or 0.0) / (after.high_ms or 1.0), (before.high_ms or 0.0) / (after.low_ms or 1.0)
    return Ratio(before.value_ms / after.value_ms, low, high, 0.99, doubts=doubts)
