"""What a result holds of a device besides the times: its sensors over time, starts of models, and long timings."""

from __future__ import annotations

from pydantic import Field, model_validator

from .spreads import Entry

MOST = 600
"""Moments of a series; of a longer one, as many spans are kept: the highest temperature and the lowest frequency."""


class SensorSeries(Entry):
    """What the sensors of a device said during a timing; a series that it has not is empty."""

    moments_s: tuple[float, ...] = Field(max_length=MOST, description="seconds since the first round of the timing")
    celsius: tuple[float | None, ...] = Field(default=(), description="temperature of the hottest zone")
    mhz: tuple[float | None, ...] = Field(default=(), description="frequency of the fastest core")
    watts: tuple[float | None, ...] = Field(default=(), description="power of the largest rail")
    throttled_s: tuple[float, ...] = Field(
        default=(), max_length=MOST, description="moments at which the firmware or the kernel told of throttling"
    )

    @model_validator(mode="after")
    def _equally_long(self) -> SensorSeries:
        for name in ("celsius", "mhz", "watts"):
            if getattr(self, name) and len(getattr(self, name)) != len(self.moments_s):
                raise ValueError(f"{name} and moments_s differ in length")
        return self


class StartEntry(Entry):
    """Start of a model in new processes, in seconds; medians over the starts."""

    import_s: float = Field(ge=0, description="import of the runtime")
    load_s: float = Field(ge=0, description="opening of the model, with its file in the page cache")
    first_s: float = Field(ge=0, description="first inference")
    steady_s: float = Field(
        ge=0, description="from the start of the process until an inference was as fast as later ones"
    )
    cold_file_load_s: float | None = Field(default=None, ge=0, description="opening with the file outside of the cache")
    starts: int = Field(ge=1, description="number of starts")


class LongTiming(Entry):
    """A timing without a break, in which a device may become hot."""

    threads: int = Field(ge=0, description="threads of the runtime")
    batch: int = Field(ge=1, description="rows per call")
    moments_s: tuple[float, ...] = Field(max_length=MOST, description="seconds since its first round")
    times_ms: dict[str, tuple[float, ...]] = Field(description="by model, the time of a call at each moment")
    first_ms: dict[str, float] = Field(description="by model, the median of the first minute or third")
    last_ms: dict[str, float] = Field(description="by model, the median of the last minute or third")
    sensors: SensorSeries | None = Field(default=None, description="what the device told meanwhile")

    @model_validator(mode="after")
    def _equally_long(self) -> LongTiming:
        if any(len(times) != len(self.moments_s) for times in self.times_ms.values()):
            raise ValueError("times_ms and moments_s differ in length")
        if not self.times_ms.keys() == self.first_ms.keys() == self.last_ms.keys():
            raise ValueError("times_ms, first_ms and last_ms name other models")
        return self
