"""The latency of a result: each model's times, percentiles and raw times, and the facts of the timing."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ..core.metrics.ratio import ClockName
from .device_entries import SensorSeries
from .raw_times import RawTimes
from .spreads import Entry, RatioEntry, Spread
from .timing.statistics import Percentile


class PercentileEntry(Entry):
    """A latency percentile; null with ``n`` below ``needed`` samples."""

    percentile: float = Field(gt=0, lt=100)
    value_ms: float | None
    low_ms: float | None
    high_ms: float | None
    n: int
    needed: int
    dependence: float = Field(default=1, ge=1, description="neighbouring samples that say as much as one")

    @staticmethod
    def of(found: Percentile) -> PercentileEntry:
        """A percentile in milliseconds as JSON-ready values."""
        return PercentileEntry(
            percentile=found.percentile,
            value_ms=found.value,
            low_ms=found.low,
            high_ms=found.high,
            n=found.n,
            needed=found.needed,
            dependence=found.dependence,
        )


class SpikesEntry(Entry):
    """Calls that took more than twice the median, in wall-clock time."""

    count: int = Field(ge=0)
    calls: int = Field(ge=1)
    share_percent: float = Field(ge=0, le=100)
    time_percent: float = Field(ge=0, description="share of the time that the spikes add")
    longest_ms: float = Field(ge=0)
    median_ms: float = Field(ge=0)


class LatencyEntry(Entry):
    """One stage at one batch size; times are per call, measured by the clock of the run."""

    median_ms: Spread = Field(description="low quantile over rounds of low quantiles; medians in version 1")
    wall_ms: Spread | None = Field(default=None, description="wall-clock time; null in results of version 1")
    percentiles: tuple[PercentileEntry, ...]
    mean_ms: float = Field(ge=0)
    rows_per_second: float = Field(ge=0)
    ratio: RatioEntry | None = Field(description="times faster than the reference; null for the reference itself")
    p_value: float | None = Field(default=None, ge=0, le=1)
    verdict: Literal["reference", "faster", "slower", "cannot tell"]
    calls_per_sample: int = Field(ge=1)
    samples_per_block: int = Field(ge=1)
    raw: RawTimes | None = Field(default=None, description="every reading of the clocks; null in older results")
    blocks_ms: tuple[float, ...] = Field(description="time of each round, in order")
    warmup_ms: tuple[float, ...] = ()
    drift: Spread | None = Field(default=None, description="change of the times of the rounds in percent per minute")
    spikes: SpikesEntry | None = None


class NoiseEntry(Entry):
    """Disturbances of the machine during the measurement."""

    status: Literal["VALID", "NOISY"]
    reasons: tuple[str, ...] = ()
    pressure_percent: float | None = None
    steal_percent: float | None = None
    spread_percent: float | None = None
    drift_percent: float | None = None
    remarks: tuple[str, ...] = ()
    interrupted_percent: float | None = Field(default=None, description="slots that lost the CPU to another process")
    attempts: int = Field(default=1, ge=1)


class LatencyRun(Entry):
    """Facts about the timing of one batch size."""

    batch: int = Field(ge=1)
    reference: str
    threads: int = Field(ge=0)
    rounds: int = Field(ge=1)
    stopped: str
    clock: ClockName = Field(default="wall", description="the clock of the ratios")
    turns: tuple[int, ...] = Field(default=(), description="rounds at which sessions were opened again")
    resolution_ns: int
    seconds: float
    noise: NoiseEntry
    sensors: SensorSeries | None = Field(default=None, description="what the device told meanwhile; null on a host")
