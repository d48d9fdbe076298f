"""Results of three stages for tests, timed by a clock that calls advance by known amounts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from retort.benchmarks import build_result, result
from retort.benchmarks.accuracy import Predictions, measure_accuracy
from retort.benchmarks.footprint import Memory
from retort.benchmarks.timing.clocks import single
from retort.benchmarks.timing.latency import LatencyComparison, compare_latency
from retort.benchmarks.timing.machine_noise import Noise
from retort.core.artifact import load_artifact
from retort.core.options.stage_options import BenchOptions, MetricName

SPEEDS = {"train": 400_000, "prune": 150_000, "export": 100_000}
GATE = {
    "stage": "export", "kind": "accuracy_drop", "bound": 0.03, "value": 0.005, "low": -0.01, "high": 0.02,
    "confidence": 0.95, "against": "train", "verdict": "passed", "passed": True, "sentence": "after export: <fine>",
}  # fmt: skip


def timed(batch: int, slow: float = 1.0, seed: int = 0, blocks: int = 12, budget_s: float = 3) -> LatencyComparison:
    """A comparison with a clock that calls advance by known amounts."""
    state, random = {"now": 0}, np.random.default_rng(seed)

    def clock() -> int:
        state["now"] += 40
        return state["now"]

    def call(nanoseconds: float) -> None:
        state["now"] += int(nanoseconds * random.lognormal(0, 0.02))

    calls = {name: (lambda time=time: call(time * batch * slow)) for name, time in SPEEDS.items()}
    found = compare_latency(
        calls, BenchOptions(blocks=blocks, block_ms=1, budget_s=budget_s), batch=batch, clocks=single(clock)
    )
    return replace(found, noise=Noise("VALID"))


def measured(
    folder: Path, metric: MetricName = "accuracy", worse: float = 0.6, slow: float = 1.0, seed: int = 0, **short: Any
) -> result.Result:
    """A result of three stages with everything measured."""
    rng = np.random.default_rng(1)
    targets = rng.integers(0, 5, 300) if metric == "accuracy" else rng.normal(size=(300, 5))
    base = rng.normal(size=(300, 5)) + (3 * np.eye(5)[targets] if metric == "accuracy" else targets)
    shift = rng.normal(size=base.shape)
    outputs = {name: Predictions({"y": base + k * shift}, targets) for name, k in zip(SPEEDS, (0.0, worse / 2, worse))}
    latency = {batch: timed(batch, slow, seed, **short) for batch in (1, 32)}
    stages = []
    for index, name in enumerate(SPEEDS):
        path = folder / f"{name}.pt2"
        path.write_bytes(rng.bytes(90_000 // (index + 1)))
        found = measure_accuracy(metric, outputs[name], outputs["train"])
        history = (
            [{"epoch": k, "loss": 2.0 / (k + 1), "validation accuracy": 0.9} for k in range(4)] if index < 2 else []
        )
        stages.append(
            build_result.stage_entry(
                name, load_artifact(path), accuracy=found, latency=latency, history=history, parameters=1000,
                macs=10_000, memory=Memory(3_000, 1_000, 2_000, 1), compressed=True,
            )
        )  # fmt: skip
    return build_result.new_result(
        "shapes & <sizes>", stages, reference="train", latency=latency, gates=[GATE], command="retort run <x>.yaml",
        data={"samples": 300, "sha256": "ab" * 8},
    )  # fmt: skip
