"""Values with their intervals in a result: finite numbers, and null for an unbounded end."""

from __future__ import annotations

import math
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from ..core.metrics.intervals import Interval
from ..core.metrics.ratio import ClockName, Ratio


class Entry(BaseModel):
    """Base of all parts of a result: it is frozen and rejects unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, populate_by_name=True)


class Spread(Entry):
    """A value with its two-sided interval; an unbounded end is null."""

    value: float | None
    low: float | None
    high: float | None
    confidence: float = Field(gt=0, lt=1)

    @model_validator(mode="after")
    def _ordered(self) -> Spread:
        known = [number for number in (self.low, self.value, self.high) if number is not None]
        if known != sorted(known):
            raise ValueError(f"low, value and high are not in order: {known}")
        return self

    @staticmethod
    def of(interval: Interval) -> Spread:
        """An interval as JSON-ready values."""
        ends = (_finite(number) for number in (interval.value, interval.low, interval.high))
        value, low, high = ends
        return Spread(value=value, low=low, high=high, confidence=interval.confidence)

    def interval(self) -> Interval:
        """The interval for computations, with infinite ends."""
        value = math.inf if self.value is None else self.value
        low, high = (-math.inf if self.low is None else self.low), (math.inf if self.high is None else self.high)
        return Interval(value, low, high, self.confidence)


class RatioEntry(Spread):
    """How many times faster than the reference, see :class:`retort.core.metrics.ratio.Ratio`."""

    value: float | None = Field(gt=0)
    candidate: str = Field(default="", description="name of the candidate")
    reference: str = Field(default="", description="name of the reference")
    rounds: int = Field(default=0, ge=0)
    clock: ClockName = "wall"
    wall: float | None = Field(default=None, description="the same ratio in wall-clock time")
    doubts: tuple[str, ...] = ()
    noise_floor: float = Field(
        default=0, ge=0, description="largest difference between a file and itself on the machine, if it was measured"
    )
    p_holm: float | None = Field(default=None, ge=0, le=1, description="p value with Holm's correction")

    @model_validator(mode="before")
    @classmethod
    def _open_ends(cls, raw: Any) -> Any:
        """Convert a lower end of zero to null, because version 1 wrote zero for an unbounded end."""
        return {**raw, "low": None} if isinstance(raw, dict) and raw.get("low") == 0 else raw

    @staticmethod
    def of_ratio(ratio: Ratio) -> RatioEntry:
        """A ratio as JSON-ready values."""
        return RatioEntry(**ratio.to_dict())

    def ratio(self) -> Ratio:
        """The ratio for computations."""
        return Ratio.from_dict(self.model_dump())

    def interval(self) -> Interval:
        """The interval on an axis of ratios, which begins at zero."""
        low, high = 0.0 if self.low is None else self.low, math.inf if self.high is None else self.high
        return Interval(math.inf if self.value is None else self.value, low, high, self.confidence)


def _finite(number: float) -> float | None:
    return float(number) if math.isfinite(number) else None
