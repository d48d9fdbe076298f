"""Latency of several models compared with a reference, in randomised interleaved blocks in one process.

A block is a series of calls of one candidate. A round has a few blocks of every candidate in random order; its time is
a low quantile of its slots (see :mod:`.blocks`). Rounds are the independent observations of the statistics. The time of
a candidate is a low quantile over the rounds, and a ratio uses times of the same rounds, so that disturbances of the
machine affect both sides (benchmarks.md 2.2, 2.3). If one thread does all of the work, its CPU time decides, because
other processes hardly influence it, and wall-clock time is reported too. Otherwise wall-clock time decides.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ...core.console import SILENT, Console
from ...core.errors import UserError
from ...core.metrics.intervals import Interval
from ...core.metrics.ratio import ClockName, Ratio
from ...core.options.stage_options import BenchOptions
from ...core.session import Session
from ...core.system.garbage import no_collections
from ...core.tensors import Feeds
from ..edge.runner.slots import Plan
from ..raw_times import RawTimes, raw_times
from .candidates import Bench, Candidate, Floor, Opener
from .clocks import Clocks
from .drift_and_spikes import Spikes, spikes
from .holm import holm
from .machine_noise import Noise
from .rounds import Run
from .statistics import Percentile, Verdict, log_ratios, low_interval, ratio_interval, sign_flip_p
from .timed_rounds import Timed

PERCENTILES = (50.0, 90.0, 99.0)


@dataclass(frozen=True)
class CandidateLatency:
    """The measurements of one candidate. Times are per call, in milliseconds.

    Attributes:
        median_ms: low quantile over the rounds, by the deciding clock, with its interval.
        wall_ms: the same in wall-clock time; equal to ``median_ms`` if that clock decides.
        percentiles: percentiles of the wall-clock time over all calls; the value is None if there are too few calls.
        ratio: how many times faster than the reference, with its interval; None for the reference itself.
        raw: every reading of the clocks; None if the rounds differ in length.
        p_value: p value of the hypothesis "as fast as the reference", by sign flips over rounds.
        block_medians_ms: time of each round, in order, by the deciding clock.
        warmup_ms: times of the warm-up blocks.
        rows_per_second: throughput at ``median_ms``.
        drift: change of the round's times in percent per minute; None if it is not known when they were measured.
        spikes: calls that took more than twice the median, in wall-clock time.
    """

    name: str
    median_ms: Interval
    wall_ms: Interval
    percentiles: tuple[Percentile, ...]
    mean_ms: float
    rows_per_second: float
    ratio: Ratio | None
    p_value: float | None
    plan: Plan
    raw: RawTimes | None
    block_medians_ms: tuple[float, ...]
    warmup_ms: tuple[float, ...]
    drift: Interval | None
    spikes: Spikes

    @property
    def verdict(self) -> Verdict:
        """Faster, slower or "cannot tell"; a NOISY measurement cannot tell."""
        return "reference" if self.ratio is None else self.ratio.verdict


@dataclass(frozen=True)
class LatencyComparison:
    """All candidates at one batch size.

    Attributes:
        candidates: by name, in the given order.
        clock: name of the deciding clock.
        noise: whether the measurement is valid, and what disturbed it.
        rounds: number of rounds.
        stopped: ``precise`` if all intervals were narrow enough, ``budget`` if the time was used up.
        resolution_ns: smallest observed step of the clock.
        turns: rounds at which sessions were opened again.
    """

    reference: str
    batch: int
    threads: int
    confidence: float
    candidates: dict[str, CandidateLatency]
    clock: ClockName
    noise: Noise
    rounds: int
    stopped: str
    resolution_ns: int
    seconds: float
    turns: tuple[int, ...] = ()

    def ratio_of(self, name: str) -> Ratio:
        """The speedup of a candidate over the reference.

        Raises:
            KeyError: the name is the reference, or not a candidate.
        """
        ratio = self.candidates[name].ratio
        if ratio is None:
            raise KeyError(name)
        return ratio

    def between(self, name: str, against: str, seed: int = 0) -> Ratio:
        """The speedup of one candidate over another one that is not the reference, from the same rounds."""
        theirs, ours = (self.candidates[item].block_medians_ms for item in (against, name))
        names: dict[str, Any] = {"candidate": name, "reference": against}
        return ratio_interval(theirs, ours, self.confidence, seed, **names, clock=self.clock, doubts=self.doubts)

    @property
    def doubts(self) -> tuple[str, ...]:
        """Why no decision can be based on the measurement; empty if it is valid."""
        return self.noise.reasons if self.noise.status == "NOISY" else ()


def compare_sessions(
    sessions: Mapping[str, Session | Opener],
    samples: Feeds,
    options: BenchOptions,
    console: Console = SILENT,
    *,
    reference: str | None = None,
    noise_floor: Floor = lambda seconds: 0.0,
) -> dict[int, LatencyComparison]:
    """Compare sessions that share their inputs, at every batch size of the options.

    Args:
        sessions: sessions with the options' threads, or functions that open them. Functions are called several times,
            so that intervals include the differences between sessions.
        samples: real inputs, which are repeated to the batch size.
        reference: name of the reference of the ratios; the first candidate by default.
        noise_floor: the largest difference between a file and itself on this machine in comparisons of a length.

    Returns:
        One comparison per batch size.
    """
    pairs: dict[str, Candidate] = {name: (session, samples) for name, session in sessions.items()}
    return {
        batch: above_floor(compare_latency(pairs, options, console, batch=batch, reference=reference), noise_floor)
        for batch in options.batch_sizes
    }


def above_floor(found: LatencyComparison, noise_floor: Floor) -> LatencyComparison:
    """The comparison with a machine's noise floor, within which a ratio is no difference."""
    least = noise_floor(found.seconds)
    return _with_ratios(found, lambda ratio: replace(ratio, noise_floor=least)) if least else found


def _with_ratios(found: LatencyComparison, change: Callable[[Ratio], Ratio]) -> LatencyComparison:
    changed = {
        name: replace(one, ratio=None if one.ratio is None else change(one.ratio))
        for name, one in found.candidates.items()
    }
    return replace(found, candidates=changed)


def compare_latency(
    candidates: Mapping[str, Candidate],
    options: BenchOptions,
    console: Console = SILENT,
    *,
    batch: int = 1,
    reference: str | None = None,
    clocks: Clocks | None = None,
) -> LatencyComparison:
    """Time all candidates in one process, in rounds of randomly ordered blocks.

    Rounds continue until there are ``options.blocks`` and every ratio is known to ± 2 %, or ``options.budget_s`` is
    used up; calls that are too slow for an interval in that time get up to 30 budgets. A NOISY measurement starts
    again if the budget allows it; if it stays NOISY, this is reported, and no decision is based on it.

    Args:
        candidates: calls without arguments, or sessions with real samples that are repeated to ``batch`` rows.
        reference: name of the reference of the ratios; the first candidate by default.
        clocks: by default CPU time if one thread does all of the work, otherwise wall-clock time.

    Raises:
        UserError: there is no candidate, or none has the reference's name.
        InputError: the samples do not fit a session.
    """
    if not candidates or (reference is not None and reference not in candidates):
        raise UserError(f"no candidate named '{reference}' to compare with", f"there are: {', '.join(candidates)}")
    reference = reference or next(iter(candidates))
    bench = Bench(candidates, batch, options.seed)
    try:
        chosen = clocks or bench.clocks(options)
        run = Run(bench.open, options, chosen, reference, bench.opening_s if bench.openers else None)
        with console.progress(f"batch {batch}", options.blocks) as bar, no_collections(collect_first=True):
            run.prepare()
            while run.step():
                bar.advance(note=f"{len(run.rounds)} rounds")
                bar.resize(max(options.blocks, len(run.rounds) + 1))
    finally:
        bench.close()
    found = summary(run, batch, options)
    _report(found, console)
    return found


def _report(found: LatencyComparison, console: Console) -> None:
    """Warn of a NOISY measurement, and print the remarks on a valid one."""
    if found.noise.status == "NOISY":
        times = f", {found.noise.attempts} times" if found.noise.attempts > 1 else ""
        reasons = "; ".join(found.noise.reasons)
        console.warn(f"latency at batch {found.batch} is NOISY{times}, so no decision can be based on it: {reasons}")
    elif found.noise.remarks:
        console.say(f"            latency at batch {found.batch}: {'; '.join(found.noise.remarks)}")


def summary(run: Timed, batch: int, options: BenchOptions) -> LatencyComparison:
    """The measurements of timed rounds.

    Args:
        batch: rows per call.
    """
    measured = {name: _measured(run, name, batch, options) for name in run.plans}
    found = LatencyComparison(
        run.reference, batch, options.threads, options.confidence, measured, run.clock, run.noise,
        len(run.rounds), run.stopped, run.resolution_ns, run.elapsed_s(), tuple(run.turns),
    )  # fmt: skip
    corrected = holm({name: one.ratio.p_value for name, one in measured.items() if one.ratio is not None})
    if len(corrected) < 2:
        return found
    return _with_ratios(found, lambda ratio: replace(ratio, p_holm=corrected[ratio.candidate]))


def _measured(run: Timed, name: str, batch: int, options: BenchOptions) -> CandidateLatency:
    calls, blocks = run.calls_ns(name) / 1e6, np.array(run.times_ns(name)) / 1e6
    median, wall = (
        low_interval(np.array(times) / 1e6, options.confidence, options.seed)
        for times in (run.times_ns(name), run.wall_ns(name))
    )
    ratio, flips = None, None
    if name != run.reference:
        doubts = run.noise.reasons if run.noise.status == "NOISY" else ()
        ratio = replace(run.ratio(name), doubts=doubts)
        flips = sign_flip_p(log_ratios(run.times_ns(run.reference), run.times_ns(name)), options.seed)
    return CandidateLatency(
        name=name,
        median_ms=median,
        wall_ms=wall,
        percentiles=tuple(run.percentile(name, percentile) for percentile in PERCENTILES),
        mean_ms=float(calls.mean()),
        rows_per_second=1e3 * batch / median.value,
        ratio=ratio,
        p_value=flips,
        plan=run.plans[name],
        raw=raw_times(run.blocks(name), len(run.spoiled), run.plans[name], options.seed, run.opened_again),
        block_medians_ms=tuple(blocks.tolist()),
        warmup_ms=tuple(value / 1e6 for value in run.warmup_ns[name]),
        drift=run.drift(name),
        spikes=spikes(calls),
    )
