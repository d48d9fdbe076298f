"""Latency of several models against one of them, by randomised interleaved blocks in one process.

A block is a run of one candidate long enough to time well; a round is one block of every candidate in random order; the
block median is the unit of inference. Ratios compare blocks of the same round, so that what disturbs the machine
disturbs both sides (benchmarks.md 2.2, 2.3).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from ..core.console import SILENT, Console
from ..core.errors import UserError
from ..core.intervals import Floats, Interval
from ..core.options import BenchOptions
from ..core.session import Session
from ..core.tensors import BATCH, Array, Feeds
from .blocks import Call, Clock, Plan, calibrate, clock_step, no_collections, time_block
from .noise import Noise, Watch, judge
from .statistics import (
    Percentile,
    Verdict,
    decide,
    half_width,
    log_ratios,
    median_interval,
    percentile_interval,
    ratio_interval,
    sign_flip_p,
)

Candidate = Call | tuple[Session, Feeds]

PERCENTILES = (50.0, 90.0, 99.0)
PRECISION = 0.02
WARMUP_ROUNDS = (3, 20)
WARMUP_AGREEMENT = 0.05
WARMUP_SHARE = 0.25
CHECK_EVERY = 5


@dataclass(frozen=True)
class CandidateLatency:
    """What was measured of one candidate. Times are per call, in milliseconds.

    Attributes:
        median_ms: median over the block medians with its bootstrap interval.
        percentiles: over all samples; the value is None where the samples are too few.
        ratio: how many times faster than the reference, with its interval; None for the reference itself.
        p_value: of "as fast as the reference", by sign flips over rounds.
        block_medians_ms: one per round, in order of time.
        warmup_ms: block medians before measuring began.
        rows_per_second: throughput at the median.
    """

    name: str
    median_ms: Interval
    percentiles: tuple[Percentile, ...]
    mean_ms: float
    rows_per_second: float
    ratio: Interval | None
    p_value: float | None
    verdict: Verdict
    plan: Plan
    block_medians_ms: tuple[float, ...]
    warmup_ms: tuple[float, ...]


@dataclass(frozen=True)
class LatencyComparison:
    """All candidates at one batch size.

    Attributes:
        candidates: by name, in the order given.
        noise: whether the machine was quiet enough.
        rounds: blocks per candidate.
        stopped: ``precise`` when all intervals were narrow enough, ``budget`` when the time was spent.
        resolution_ns: smallest step of the clock that was seen.
    """

    reference: str
    batch: int
    threads: int
    confidence: float
    candidates: dict[str, CandidateLatency]
    noise: Noise
    rounds: int
    stopped: str
    resolution_ns: int
    seconds: float


def compare_sessions(
    sessions: Mapping[str, Session],
    samples: Feeds,
    options: BenchOptions,
    console: Console = SILENT,
    *,
    reference: str | None = None,
) -> dict[int, LatencyComparison]:
    """Compare open sessions that share their inputs, at every batch size of the options.

    Args:
        sessions: opened with the options' threads.
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
    clock: Clock = time.perf_counter_ns,
) -> LatencyComparison:
    """Time all candidates in one process, in rounds of randomly ordered blocks.

    Rounds go on until there are ``options.blocks`` and every ratio is known to ± 2 %, or ``options.budget_s`` is spent.

    Args:
        candidates: calls without arguments, or sessions with real samples that are repeated to ``batch`` rows.
        reference: name of the candidate that the ratios refer to; the first when absent.
        clock: nanoseconds, never going back.

    Raises:
        UserError: there is no candidate, or none of the reference's name.
        InputError: the samples do not fit a session.
    """
    if not candidates or (reference is not None and reference not in candidates):
        raise UserError(f"no candidate named '{reference}' to compare with", f"there are: {', '.join(candidates)}")
    watch, started = Watch(), clock()
    resolution = clock_step(clock)
    run = _Run({name: callable_of(candidate, batch) for name, candidate in candidates.items()}, options, clock, started)
    with console.progress(f"batch {batch}", options.blocks) as bar, no_collections():
        run.prepare(resolution)
        while not run.finished(reference or next(iter(candidates))):
            run.round()
            bar.advance(note=f"{run.rounds} rounds")
    return _summary(run, reference or next(iter(candidates)), batch, options, watch.read(), resolution)


class _Run:
    """One measurement under way."""

    def __init__(self, calls: dict[str, Call], options: BenchOptions, clock: Clock, started: int) -> None:
        self.calls, self.options, self.clock, self.started = calls, options, clock, started
        self.names = list(calls)
        self.random = np.random.default_rng(options.seed)
        self.samples_ns: dict[str, list[Floats]] = {name: [] for name in calls}
        self.medians_ns: dict[str, list[float]] = {name: [] for name in calls}
        self.warmup_ns: dict[str, list[float]] = {name: [] for name in calls}
        self.plans: dict[str, Plan] = {}
        self.rounds = 0
        self.stopped = ""

    def elapsed_s(self) -> float:
        """Seconds since the measurement began, calibration and warm-up included."""
        return (self.clock() - self.started) / 1e9

    def prepare(self, resolution: int) -> None:
        """Calibrate, then warm up until the last three block medians of every candidate agree."""
        for name, call in self.calls.items():
            self.plans[name] = calibrate(call, self.options.block_ms, resolution, self.clock)
        least, most = WARMUP_ROUNDS
        for done in range(most):
            settled = done >= least and all(_settled(values) for values in self.warmup_ns.values())
            if settled or (done and self.elapsed_s() > WARMUP_SHARE * self.options.budget_s):
                return
            for name, call in self.calls.items():
                self.warmup_ns[name].append(float(np.median(time_block(call, self.plans[name], self.clock))))

    def round(self) -> None:
        """One block of every candidate, in random order."""
        for index in self.random.permutation(len(self.names)):
            name = self.names[index]
            times = time_block(self.calls[name], self.plans[name], self.clock)
            self.samples_ns[name].append(times)
            self.medians_ns[name].append(float(np.median(times)))
        self.rounds += 1

    def finished(self, reference: str) -> bool:
        """Whether every ratio is known well enough or the time is spent; says which in ``stopped``."""
        if self.rounds and self.elapsed_s() >= self.options.budget_s:
            self.stopped = "budget"
        elif self.rounds >= self.options.blocks and self.rounds % CHECK_EVERY == 0 and self._precise(reference):
            self.stopped = "precise"
        return bool(self.stopped)

    def _precise(self, reference: str) -> bool:
        return all(half_width(self.ratio(reference, name)) <= PRECISION for name in self.names if name != reference)

    def ratio(self, reference: str, name: str) -> Interval:
        """How many times faster than the reference, from the rounds so far."""
        options = self.options
        return ratio_interval(self.medians_ns[reference], self.medians_ns[name], options.confidence, options.seed)


def repeat_rows(samples: Feeds, session: Session, batch: int) -> dict[str, Array]:
    """Real samples repeated, or cut, to ``batch`` rows; inputs without a batch axis stay as they are.

    Raises:
        InputError: the samples do not fit the session's signature.
    """
    dynamic = {spec.name for spec in session.signature.inputs if BATCH in spec.shape[:1]}
    made = {
        name: np.resize(array, (batch, *np.shape(array)[1:])) if name in dynamic else np.asarray(array)
        for name, array in samples.items()
    }
    return session.signature.validate(made)


def callable_of(candidate: Candidate, batch: int) -> Call:
    """The call that is timed: a session's on real samples repeated to ``batch`` rows, or the candidate itself."""
    if not isinstance(candidate, tuple):
        return candidate
    session, samples = candidate
    feeds = repeat_rows(samples, session, batch)
    run: Callable[[Feeds], object] = getattr(session, "run_unchecked", session.run)
    return lambda: run(feeds)


def _settled(values: list[float]) -> bool:
    last = values[-3:]
    return max(last) <= (1 + WARMUP_AGREEMENT) * min(last)


def _summary(
    run: _Run,
    reference: str,
    batch: int,
    options: BenchOptions,
    pressure: tuple[float | None, float | None],
    resolution: int,
) -> LatencyComparison:
    noise = judge({name: np.array(values) for name, values in run.medians_ns.items()}, *pressure)
    measured = {name: _measured(run, reference, name, batch, options) for name in run.names}
    return LatencyComparison(
        reference, batch, options.threads, options.confidence, measured, noise, run.rounds, run.stopped, resolution,
        run.elapsed_s(),
    )  # fmt: skip


def _measured(run: _Run, reference: str, name: str, batch: int, options: BenchOptions) -> CandidateLatency:
    samples, medians = np.concatenate(run.samples_ns[name]) / 1e6, np.array(run.medians_ns[name]) / 1e6
    median = median_interval(medians, options.confidence, options.seed)
    is_reference = name == reference
    ratio = None if is_reference else run.ratio(reference, name)
    flips = (
        None if is_reference else sign_flip_p(log_ratios(run.medians_ns[reference], run.medians_ns[name]), options.seed)
    )
    return CandidateLatency(
        name=name,
        median_ms=median,
        percentiles=tuple(percentile_interval(samples, percentile) for percentile in PERCENTILES),
        mean_ms=float(samples.mean()),
        rows_per_second=1e3 * batch / median.value,
        ratio=ratio,
        p_value=flips,
        verdict="reference" if ratio is None else decide(ratio),
        plan=run.plans[name],
        block_medians_ms=tuple(medians.tolist()),
        warmup_ms=tuple(value / 1e6 for value in run.warmup_ns[name]),
    )
