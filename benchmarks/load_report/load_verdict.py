"""The verdict of a measurement under load in sentences, the first of which says the most important."""

from __future__ import annotations

from collections.abc import Sequence

from ...core.counts import counted, listed
from ..report.formatting import digits, percent, time_text
from ..report.verdict import State
from ..result import PercentileEntry
from ..scenarios.load_result import ColdEntry, LoadEntry, LoadResult
from ..scenarios.load_state import state_of
from ..spreads import Spread

REASONS = 3
"""Reasons of a verdict that a sentence tells; the page lists all."""
WHAT = {
    "single-stream": "one query after another",
    "multi-stream": "several samples in a query",
    "server": "queries at random moments",
    "offline": "all samples at once",
}


def load_verdict(result: LoadResult, faults: Sequence[str] = ()) -> list[str]:
    """The verdict in sentences; the first one begins with the state of the measurement if it is not VALID.

    Args:
        faults: figures that do not follow from what the result keeps, because it was edited.
    """
    state = load_state(result, faults)
    first, *more = _said(result)
    if state.status == "VALID":
        return [first, *more]
    on = "this result" if state.status == "INVALID" else "these times"
    first = first if first.startswith("“") else first[0].lower() + first[1:]
    opening = f"{state.status}, so no decision can be based on {on}: {first}"
    return [opening, *more, f"{state.status}: {state.reason}."]


def load_state(result: LoadResult, faults: Sequence[str] = ()) -> State:
    """Whether decisions can be based on a result, and why not."""
    if faults:
        return State("INVALID", f"{counted(len(faults), 'figure')} of it do not follow from what it keeps")
    found = state_of(result)
    more = len(found.reasons) - REASONS
    told = [*found.reasons[:REASONS], *([f"and {counted(more, 'reason')} more"] if more > 0 else [])]
    return State(found.status, "; ".join(told))


def headline(result: LoadResult) -> LoadEntry:
    """The candidate of the verdict: the fastest, or that of the highest rate; the first if nothing was answered."""
    known = [one for one in result.candidates if one.queries or one.cold]
    if not known:
        return result.candidates[0]
    if result.options.get("p99_ms") is not None:
        return max(known, key=lambda one: one.rate or 0.0)
    if result.measurement == "cold":
        return min(known, key=lambda one: one.cold[0].steady_ms.value or float("inf"))
    if result.measurement == "sustain":
        return min(known, key=lambda one: one.last_minute_ms or float("inf"))
    if result.measurement == "offline":
        return max(known, key=speed_of)
    return min(known, key=lambda one: median_of(one) or float("inf"))


def _said(result: LoadResult) -> list[str]:
    best = headline(result)
    if result.measurement == "cold":
        return _cold(result, best)
    if not best.queries:
        return [f"“{best.name}” answered no query."]
    if result.measurement == "sweep":
        return _sweep(result)
    if result.measurement == "sustain":
        return _sustained(result, best)
    if result.options.get("p99_ms") is not None:
        return _rates(result, best)
    return _stream(result, best)


def _stream(result: LoadResult, best: LoadEntry) -> list[str]:
    """A scenario: the fastest candidate against the first, its tail and its throughput."""
    what = f"with {WHAT[result.measurement]}"
    if best.ratio is not None and best.ratio.value is not None:
        compared = f" {_against(best)} {what}"
    else:
        compared = f" takes {time_text(median_of(best))} for a query {what}"
    tail = [text for one in (99.0, 99.9) if (text := _tail(best, one))]
    more = f": {listed([*tail, f'{digits(speed_of(best))} samples per second'])}"
    said = [f"“{best.name}”{compared}{more}."]
    others = [one for one in result.candidates if one is not best and one.queries]
    if others:
        told = [f"“{one.name}” {'takes ' * (not place)}{time_text(median_of(one))}{_p99(one)}" for place, one in
                enumerate(others[:6])]  # fmt: skip
        said.append(f"{listed(told)}.")
    return said + _refused(result)


def _against(best: LoadEntry) -> str:
    """``is 2.91× faster than “fp32” (95 % CI 2.8 to 3.0)``."""
    ratio = best.ratio
    assert ratio is not None
    known = ratio.ratio()
    span = f"({percent(ratio.confidence)} CI {known.span})"
    seemingly = "seemingly " * bool(known.doubts)
    if known.tendency == "cannot tell":
        return f"is not measurably faster or slower than “{ratio.reference}” {span}"
    if known.tendency == "slower":
        return f"is {seemingly}{digits(1 / known.value)}× slower than “{ratio.reference}” {span}"
    return f"is {seemingly}{digits(known.value)}× faster than “{ratio.reference}” {span}"


def _rates(result: LoadResult, best: LoadEntry) -> list[str]:
    bound = result.options["p99_ms"]
    if best.rate is None:
        return [f"No candidate keeps a 99th percentile of {bound:g} ms at any rate.", *_refused(result)]
    said = [
        f"“{best.name}” keeps a 99th percentile of {bound:g} ms up to {digits(best.rate)} queries per second"
        f"{_at_rate(best)}."
    ]
    others = [one for one in result.candidates if one is not best]
    if others:
        told = [f"“{one.name}” {f'up to {digits(one.rate)}' if one.rate else 'at no rate'}" for one in others[:6]]
        said.append(f"The others: {listed(told)}.")
    return said + _refused(result)


def _at_rate(best: LoadEntry) -> str:
    known = _tail(best, 99.0)
    return f", with {known} in the windows afterwards" if known else ""


def _cold(result: LoadResult, best: LoadEntry) -> list[str]:
    said = []
    for index, cold in enumerate(best.cold):
        state = "not in the page cache" if cold.page_cache == "dropped" else "in the page cache"
        name = f"“{best.name}” answers as fast as later" if not index else "It takes"
        moment = _spread(cold.steady_ms)
        parts = (
            f"import {time_text(cold.import_ms.value)}, load {time_text(cold.load_ms.value)}, first call "
            f"{time_text(cold.first_ms.value)}"
        )
        verb = f"{name} {moment} after a new process begins" if not index else f"{name} {moment}"
        said.append(f"{verb} where its files are {state} ({parts}).")
    others = [one for one in result.candidates if one is not best and one.cold]
    if others:
        told = [f"“{one.name}” {time_text(_steady(one.cold))}" for one in others[:6]]
        said.append(f"The others: {listed(told)}.")
    return said


def _steady(cold: Sequence[ColdEntry]) -> float | None:
    return cold[0].steady_ms.value


def _sweep(result: LoadResult) -> list[str]:
    known = [one for one in result.candidates if one.queries]
    quick = min(known, key=lambda one: median_of(one) or float("inf"))
    most = max(known, key=speed_of)
    front = sum(bool(one.pareto) for one in known)
    return [
        f"The lowest latency is {time_text(median_of(quick))}, of {point_of(quick)}; the most throughput is "
        f"{digits(speed_of(most))} samples per second, of {point_of(most)}.",
        f"{counted(front, 'point')} of {len(known)} {'is' if front == 1 else 'are'} on the Pareto front.",
    ]


def point_of(one: LoadEntry) -> str:
    """A point of a sweep in words."""
    return f"“{one.name}” with {counted(one.threads, 'thread')} at batch {one.per_query}"


def _sustained(result: LoadResult, best: LoadEntry) -> list[str]:
    first, last = best.first_minute_ms, best.last_minute_ms
    if first is None or last is None:
        return _stream(result.model_copy(update={"measurement": "single-stream"}), best)
    part = "minute" if float(result.options.get("minutes", 3)) >= 3 else "third"  # of a shorter one, see `sustain`
    change = f"{digits(last / first)}× the {time_text(first)} of its first {part}"
    said = [f"“{best.name}” takes {time_text(last)} in its last {part}, {change}."]
    others = [one for one in result.candidates if one is not best and one.last_minute_ms is not None]
    if others:
        told = [f"“{one.name}” {time_text(one.last_minute_ms)}" for one in others[:6]]
        said.append(f"The others in their last {part}: {listed(told)}.")
    return said + _refused(result)


def _refused(result: LoadResult) -> list[str]:
    failed = [one for one in result.candidates if one.failed]
    return [
        f"“{one.name}” did not answer {counted(one.failed, 'query')} of {one.queries + one.failed:,}." for one in failed
    ]


def _tail(one: LoadEntry, percentile: float) -> str:
    found = _percentile(one, percentile)
    return f"p{percentile:g} {time_text(found.value_ms)}" if found is not None else ""


def _p99(one: LoadEntry) -> str:
    found = _percentile(one, 99.0)
    return f" (p99 {time_text(found.value_ms)})" if found is not None else ""


def _percentile(one: LoadEntry, percentile: float) -> PercentileEntry | None:
    return next((each for each in one.percentiles if each.percentile == percentile and each.value_ms is not None), None)


def _spread(spread: Spread) -> str:
    if spread.low is None or spread.high is None:
        return time_text(spread.value)
    span = f"{time_text(spread.low)} to {time_text(spread.high)}"
    return f"{time_text(spread.value)} ({percent(spread.confidence)} CI {span})"


def median_of(one: LoadEntry) -> float | None:
    """The median of a query in milliseconds."""
    return None if one.median_ms is None else one.median_ms.value


def speed_of(one: LoadEntry) -> float:
    """Samples per second; 0 if they are not known."""
    return 0.0 if one.rows_per_second is None else one.rows_per_second.value or 0.0
