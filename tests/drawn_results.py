"""Results for the pages: many models, names of every kind, a hot device, and a hundred thousand raw times."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from retort.benchmarks.build_result import latency_entry, latency_run, new_result
from retort.benchmarks.device_entries import LongTiming, SensorSeries, StartEntry
from retort.benchmarks.edge.runner.slots import Plan
from retort.benchmarks.result import MemoryEntry, MetricEntry, Result, Spread, StageEntry
from retort.benchmarks.timing.blocks import Block
from retort.benchmarks.timing.latency import summary
from retort.benchmarks.timing.machine_noise import Noise
from retort.benchmarks.timing.timed_rounds import Timed
from retort.core.options.stage_options import BenchOptions

HOSTILE = (
    "fp32", "int8", "a very long file name of a model that somebody exported on Friday, version 12 (final) (2)",
    "<script>alert(1)</script>", "模型-量化-八位",
    "модель", "a&b\"c'd", "$x^2$ and \\frac{1}{2}", "{{ 7 * 7 }}", "نموذج",
    "éàü", "z" * 120,
)  # fmt: skip
"""Names of models: long, in other scripts, and such as would be code in HTML, SVG, matplotlib or a template."""

MACHINE = {
    "os": "Debian", "kernel": "6", "python": "3.11", "memory_bytes": 8e9, "packages": {}, "gpu": [],
    "cpu": {"model": "a CPU", "features": [], "logical": 4, "usable": 4.0, "governor": None, "max_mhz": None},
}  # fmt: skip


class Rounds(Timed):
    """Rounds whose times are drawn, about as noisy as those of a quiet machine."""

    def __init__(self, times_ms: dict[str, float], rounds: int, slots: int, seed: int = 0) -> None:
        draw = np.random.default_rng(seed)
        self.options = BenchOptions()
        self.reference, self.clock = next(iter(times_ms)), "wall"
        self.plans = {name: Plan(1, slots) for name in times_ms}
        self.warmup_ns = {name: [1e6 * time] for name, time in times_ms.items()}
        self.rounds = [
            {
                name: Block(np.zeros(slots), np.zeros(slots, bool), _drawn(draw, time, slots), False, 0.05 * number)
                for name, time in times_ms.items()
            }
            for number in range(rounds)
        ]
        self.spoiled, self.turns, self.stopped = [], [0], "precise"
        self.noise, self.resolution_ns = Noise("VALID"), 40

    def elapsed_s(self) -> float:
        """Seconds of the rounds."""
        return 0.05 * len(self.rounds)


def _drawn(draw: np.random.Generator, time_ms: float, slots: int) -> Any:
    calls = 1e6 * time_ms * draw.lognormal(0, 0.03, slots)
    return np.rint(np.where(draw.random(slots) < 0.01, calls * draw.uniform(2, 6, slots), calls))


def drawn_result(
    names: Sequence[str] = ("fp32", "int8"),
    batches: Sequence[int] = (1,),
    rounds: int = 40,
    slots: int = 50,
    accuracy: bool = True,
    noise: Noise | None = None,
    **more: Any,
) -> Result:
    """A result of models each of which is a little faster than the one before.

    Args:
        more: further fields of the result.
    """
    timed = {}
    for batch in batches:
        drawn = Rounds({name: batch / (1 + 0.15 * index) for index, name in enumerate(names)}, rounds, slots, batch)
        drawn.noise = noise or drawn.noise
        timed[batch] = summary(drawn, batch, drawn.options)
    stages = [
        StageEntry(
            stage=name,
            sha256=f"{index:064x}",
            kind="graph",
            file=f"{name}.onnx",
            size_bytes=4_000_000 // (index + 1),
            metric=_metric(index) if accuracy else None,
            drop=_drop(index) if accuracy and index else None,
            latency={batch: latency_entry(timed[batch].candidates[name]) for batch in batches},
            memory=MemoryEntry(peak_bytes=90_000_000, baseline_bytes=50_000_000, model_bytes=40_000_000, batch=1),
            runtime="ONNX Runtime on the CPU",
        )
        for index, name in enumerate(names)
    ]
    made = new_result(
        "models for a page", stages, reference=names[0], latency=timed, command="retort bench a.onnx b.onnx",
        machine=MACHINE,
    )  # fmt: skip
    assert [run.batch for run in made.runs] == [latency_run(one).batch for one in timed.values()]
    return made.model_copy(update=more)


def _metric(index: int) -> MetricEntry:
    value = 0.9823 - 0.0011 * index
    return MetricEntry(value=value, low=value - 0.006, high=value + 0.005, confidence=0.95, name="accuracy", n=10_000)


def _drop(index: int) -> Spread:
    return Spread(value=0.0011 * index, low=0.0011 * index - 0.002, high=0.0011 * index + 0.002, confidence=0.95)


def hot_device(**more: Any) -> Result:
    """A Raspberry Pi that became hot: throttled, with sensors, starts and ten minutes without a break."""
    reason = "THROTTLED: the firmware says that the processor is throttled"
    made = drawn_result(("fp32", "int8"), noise=Noise("NOISY", (reason,)), rounds=80)
    minutes = np.linspace(0, 600, 300)
    heat = 45 + 40 * (1 - np.exp(-minutes / 120))
    speed = np.where(heat > 80, 1500.0, 2400.0)
    seen = tuple(float(moment) for moment in minutes[heat > 80])
    long = SensorSeries(
        moments_s=tuple(minutes), celsius=tuple(heat), mhz=tuple(speed), watts=tuple(3 + heat / 20), throttled_s=seen
    )
    brief = np.arange(0, 4, 0.1)
    short = SensorSeries(moments_s=tuple(brief), celsius=tuple(60 + brief), mhz=tuple(2400 - 100 * (brief > 2)),
                         throttled_s=tuple(brief[brief > 2.5]))  # fmt: skip
    times = {"fp32": 2.0 * 2400 / speed, "int8": 1.1 * 2400 / speed}
    ends = {name: (float(values[0]), float(values[-1])) for name, values in times.items()}
    sustained = LongTiming(
        threads=4, batch=1, moments_s=tuple(minutes), times_ms={name: tuple(values) for name, values in times.items()},
        first_ms={name: first for name, (first, _) in ends.items()},
        last_ms={name: last for name, (_, last) in ends.items()}, sensors=long,
    )  # fmt: skip
    start = StartEntry(import_s=0.61, load_s=0.09, first_s=0.012, steady_s=0.83, cold_file_load_s=0.21, starts=10)
    env = {**made.env, "device": {"host": "raspberrypi", "board": "Raspberry Pi 5 Model B Rev 1.0"}}
    stages = tuple(stage.model_copy(update={"start": start}) for stage in made.stages)
    runs = tuple(run.model_copy(update={"sensors": short}) for run in made.runs)
    return made.model_copy(update={"stages": stages, "runs": runs, "sustained": sustained, "env": env, **more})
