"""Options of measurements under load: the scenarios, cold starts, sweeps and long measurements."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from .option_types import Confidence, Count, Options, Positive, Provider, Seed

Scenario = Literal["single-stream", "multi-stream", "server", "offline"]
Threads = Annotated[int, Field(ge=1, le=1024)]

WINDOWS = 12
"""Least windows of a candidate, if their length is not given: enough for intervals over windows."""


class _Measured(Options):
    """What all measurements under load have in common."""

    provider: Provider = Field(
        default="cpu",
        description="The execution provider on which ONNX Runtime runs .onnx files; openvino is another runtime for "
        "them. A model may name its own one, as in model.onnx@openvino.",
    )
    confidence: Confidence = Field(
        default=0.95, description="Confidence level of ratios and medians; percentiles have 99 %."
    )
    seed: Seed = Field(default=0, description="Random seed of the order of windows and of the arrivals.")


class LoadOptions(_Measured):
    """A load scenario of MLPerf, measured in windows of all candidates in random order."""

    scenario: Scenario = Field(
        default="single-stream",
        description="single-stream: one sample after another. multi-stream: several samples per query, one query after "
        "another. server: single samples at the moments of a Poisson process. offline: all samples at once, for "
        "throughput.",
    )
    seconds: Positive = Field(default=20.0, description="Measured seconds per candidate.")
    window_s: Positive | None = Field(
        default=None,
        description="Length of a window in seconds. The default is 0.5 or a twelfth of --seconds, and 5 for the "
        "scenario server, whose queue is empty at the beginning of each window.",
    )
    samples_per_query: Count = Field(default=8, description="Samples in a query of the scenario multi-stream.")
    batch: Count = Field(default=32, description="Samples in a call of the scenario offline.")
    rate: Positive | None = Field(
        default=None, description="Queries per second of the scenario server. Without it, give --p99-ms."
    )
    p99_ms: Positive | None = Field(
        default=None,
        description="Bound of the 99th percentile in milliseconds. The scenario server looks for the highest rate "
        "that keeps it with 99 % confidence.",
    )
    clients: Count | None = Field(
        default=None,
        description="Queries that can be open at once in the scenarios server and offline. The default is 1 for "
        "models, which have one worker then, and 64 for endpoints.",
    )
    threads: Threads = Field(default=1, description="Number of runtime threads of each model.")
    samples: Count = Field(default=256, description="Number of different samples that the queries take in turn.")
    timeout_s: Positive = Field(default=60.0, description="Seconds after which a query to an endpoint has failed.")

    @model_validator(mode="after")
    def _has_a_rate(self) -> LoadOptions:
        if self.scenario == "server" and (self.rate is None) == (self.p99_ms is None):
            raise ValueError("the scenario server needs either `rate` or `p99_ms`")
        if self.scenario != "server" and (self.rate is not None or self.p99_ms is not None):
            raise ValueError("`rate` and `p99_ms` belong to the scenario server")
        if self.clients is not None and not self.at_once:
            raise ValueError("`clients` belong to the scenarios server and offline; a stream has one")
        return self

    @property
    def at_once(self) -> bool:
        """Whether several queries can be open at once."""
        return self.scenario in ("server", "offline")

    @property
    def rows(self) -> int:
        """Samples in one query of the scenario; in a call of the scenario offline."""
        return {"multi-stream": self.samples_per_query, "offline": self.batch}.get(self.scenario, 1)

    @property
    def length_s(self) -> float:
        """Length of a window in seconds."""
        usual = min(5.0, self.seconds) if self.scenario == "server" else min(0.5, self.seconds / WINDOWS)
        return min(self.window_s or usual, self.seconds)


class ColdOptions(_Measured):
    """Cold starts: new processes that open a model and answer until their times are steady."""

    starts: Annotated[int, Field(ge=2)] = Field(
        default=10, description="New processes per model and state of the page cache."
    )
    page_cache: Literal["warm", "dropped", "both"] = Field(
        default="both",
        description="Whether the model's file is in the page cache when a process starts, or dropped from it before. "
        "The libraries of the runtime stay in it.",
    )
    batch: Count = Field(default=1, description="Samples per call.")
    threads: Threads = Field(default=1, description="Number of runtime threads.")
    calls: Annotated[int, Field(ge=10)] = Field(default=50, description="Calls after which a process ends.")


class SweepOptions(_Measured):
    """A sweep over threads and batch sizes; the Pareto front has the best latency for each throughput."""

    threads: tuple[Threads, ...] = Field(
        default=(), description="Numbers of runtime threads. The default is 1, 2, 4 … up to the usable processors."
    )
    batch_sizes: tuple[Count, ...] = Field(default=(1, 2, 4, 8, 16, 32), min_length=1, description="Samples per call.")
    seconds: Positive = Field(default=2.0, description="Measured seconds per model, threads and batch size.")
    samples: Count = Field(default=256, description="Number of different samples that the calls take in turn.")


class SustainOptions(_Measured):
    """A measurement without a break, in which a machine may become slower."""

    minutes: Positive = Field(default=10.0, description="Duration of the measurement of all candidates together.")
    window_s: Positive = Field(default=0.5, description="Length of a window of one candidate in seconds.")
    batch: Count = Field(default=1, description="Samples per call.")
    threads: Threads = Field(default=1, description="Number of runtime threads.")
    samples: Count = Field(default=256, description="Number of different samples that the calls take in turn.")
    timeout_s: Positive = Field(default=60.0, description="Seconds after which a query to an endpoint has failed.")
