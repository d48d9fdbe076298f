"""Latency of several models against one of them, by randomised interleaved blocks in one process.

A block is a run of one candidate; a round is a few blocks of every candidate in random order and counts with a low
quantile of the calls that were not interrupted; the round is the unit of inference. The lower quartile over the rounds
is the time, and times of the same rounds make a ratio, so that what disturbs the machine disturbs both sides
(benchmarks.md 2.2, 2.3). Where one thread does all of the work its CPU time decides, which other processes hardly
touch, and the time that passes stands beside it; elsewhere the time that passes decides.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ...core.console import SILENT, Console
from ...core.errors import UserError
from ...core.metrics.intervals import Interval
from ...core.metrics.ratio import ClockName, Ratio
from ...core.options.stage_options import BenchOptions
from ...core.session import Session
from ...core.tensors import Feeds
from .blocks import Plan, no_collections
from .candidates import Bench, Candidate, Opener
from .clocks import Clocks
from .machine_noise import Noise
from .rounds import Run
from .statistics import Percentile, Verdict, log_ratios, low_interval, percentile_interval, ratio_interval, sign_flip_p

PERCENTILES = (50.0, 90.0, 99.0)


@dataclass(frozen=True)
class CandidateLatency:
    """What was measured of one candidate. Times are per call, in milliseconds.

    Attributes:
        median_ms: lower quartile over the rounds, by the deciding clock, with its interval.
        wall_ms: the same by the time that passes; the same numbers where that clock decides.
        percentiles: of the time that passes, over all calls; the value is None where they are too few.
        ratio: how many times faster than the reference, with its interval; None for the reference itself.
        p_value: of "as fast as the reference", by sign flips over rounds.
        block_medians_ms: one per round, in order of time, by the deciding clock.
        warmup_ms: the same before measuring began.
        rows_per_second: throughput at that time.
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
    block_medians_ms: tuple[float, ...]
    warmup_ms: tuple[float, ...]

    @property
    def verdict(self) -> Verdict:
        """Faster, slower or "cannot tell"; a NOISY measurement cannot tell."""
        return "reference" if self.ratio is None else self.ratio.verdict


@dataclass(frozen=True)
class LatencyComparison:
    """All candidates at one batch size.

    Attributes:
        candidates: by name, in the order given.
        clock: that decided.
        noise: whether the measurement is valid, and what disturbed it.
        rounds: blocks per candidate.
        stopped: ``precise`` when all intervals were narrow enough, ``budget`` when the time was spent.
        resolution_ns: smallest step of the clock that was seen.
        turns: rounds at which sessions were opened anew.
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
        """How many times as fast as the reference a candidate is.

        Raises:
            KeyError: it is the reference, or no candidate.
        """
        ratio = self.candidates[name].ratio
        if ratio is None:
            raise KeyError(name)
        return ratio

    def between(self, name: str, against: str, seed: int = 0) -> Ratio:
        """How many times as fast one candidate is as another one that is not the reference, from the same rounds."""
        theirs, ours = (self.candidates[item].block_medians_ms for item in (against, name))
        told: dict[str, Any] = {"candidate": name, "reference": against, "clock": self.clock, "doubts": self.doubts}
        return ratio_interval(theirs, ours, self.confidence, seed, **told)

    @property
    def doubts(self) -> tuple[str, ...]:
        """Why nothing may be decided by it; empty when it is valid."""
        return self.noise.reasons if self.noise.status == "NOISY" else ()


def compare_sessions(
    sessions: Mapping[str, Session | Opener],
    samples: Feeds,
    options: BenchOptions,
    console: Console = SILENT,
    *,
    reference: str | None = None,
) -> dict[int, LatencyComparison]:
    """Compare sessions that share their inputs, at every batch size of the options.

    Args:
        sessions: opened, or to be opened, with the options' threads; what is to be opened is opened several times, so
            that intervals hold over openings.
        samples: real inputs; batches are made of them by repetition.
        reference: name of the candidate that the ratios refer to; the first when absent.

    Returns:
        One comparison per batch size.
    """
    pairs: dict[str, Candidate] = {name: (session, samples) for name, session in sessions.items()}
    return {
        batch: compare_latency(pairs, options, console, batch=batch, reference=reference)
        for batch in options.batch_sizes
    }


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

    Rounds go on until there are ``options.blocks`` and every ratio is known to ± 2 %, or ``options.budget_s`` is spent;
    calls so slow that there would be no interval then get up to ten budgets. A NOISY measurement is begun again while
    the budget lasts; what stays NOISY is told and decides nothing.

    Args:
        candidates: calls without arguments, or sessions with real samples that are repeated to ``batch`` rows.
        reference: name of the candidate that the ratios refer to; the first when absent.
        clocks: by default the thread's CPU time where one thread does all of the work, else the time that passes.

    Raises:
        UserError: there is no candidate, or none of the reference's name.
        InputError: the samples do not fit a session.
    """
    if not candidates or (reference is not None and reference not in candidates):
        raise UserError(f"no candidate named '{reference}' to compare with", f"there are: {', '.join(candidates)}")
    reference = reference or next(iter(candidates))
    bench = Bench(candidates, batch)
    try:
        chosen = clocks or bench.clocks(options)
        run = Run(bench.open, options, chosen, reference, bench.opening_s if bench.openers else None)
        with console.progress(f"batch {batch}", options.blocks) as bar, no_collections():
            run.prepare()
            while run.step():
                bar.advance(note=f"{len(run.rounds)} rounds")
    finally:
        bench.close()
    found = _summary(run, batch, options)
    _tell(found, console)
    return found


def _tell(found: LatencyComparison, console: Console) -> None:
    """What a person must know who reads the ratios."""
    if found.noise.status == "NOISY":
        times = f", {found.noise.attempts} times" if found.noise.attempts > 1 else ""
        reasons = "; ".join(found.noise.reasons)
        console.warn(f"latency at batch {found.batch} is NOISY{times} and decides nothing: {reasons}")
    elif found.noise.remarks:
        console.say(f"            latency at batch {found.batch}: {'; '.join(found.noise.remarks)}")


def _summary(run: Run, batch: int, options: BenchOptions) -> LatencyComparison:
    measured = {name: _measured(run, name, batch, options) for name in run.calls}
    return LatencyComparison(
        run.reference, batch, options.threads, options.confidence, measured, run.clocks.name, run.noise,
        len(run.rounds), run.stopped, run.resolution_ns, run.elapsed_s(), tuple(run.turns),
    )  # fmt: skip


def _measured(run: Run, name: str, batch: int, options: BenchOptions) -> CandidateLatency:
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
        percentiles=tuple(percentile_interval(calls, percentile) for percentile in PERCENTILES),
        mean_ms=float(calls.mean()),
        rows_per_second=1e3 * batch / median.value,
        ratio=ratio,
        p_value=flips,
        plan=run.plans[name],
        block_medians_ms=tuple(blocks.tolist()),
        warmup_ms=tuple(value / 1e6 for value in run.warmup_ns[name]),
    )
