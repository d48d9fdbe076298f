"""Construction of results from the accuracy, latency and footprint of each stage."""

from __future__ import annotations

import datetime
import shlex
import subprocess
import sys
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..core.artifact import Artifact, sha256_file
from ..core.facts.any_facts import AnyFacts
from ..core.system.installation import DISTRIBUTION
from .accuracy import Accuracy
from .class_figures import ClassAccuracy
from .footprint import Memory, file_size, parameters_in_file
from .machine import fingerprint, package_version
from .result import (
    ClassEntry,
    GateEntry,
    LatencyEntry,
    LatencyRun,
    MemoryEntry,
    MetricEntry,
    NoiseEntry,
    PercentileEntry,
    Result,
    SpikesEntry,
    Spread,
    StageEntry,
)
from .spreads import RatioEntry
from .timing.latency import CandidateLatency, LatencyComparison

DIGITS = 7


def stage_entry(
    stage: str,
    artifact: Artifact,
    *,
    accuracy: Accuracy | None = None,
    latency: Mapping[int, LatencyComparison] | None = None,
    memory: Memory | None = None,
    parameters: int | None = None,
    macs: int | None = None,
    compressed: bool = False,
    seconds: float | None = None,
    history: Sequence[Mapping[str, float]] = (),
    notes: Sequence[str] = (),
    runtime: str = "",
) -> StageEntry:
    """The measurements of one stage.

    Args:
        stage: name of the stage, and of its candidate in ``latency`` if it was timed.
        artifact: the artifact whose main file was measured.
        parameters: by default the artifact's facts, or a count in the file.
        macs: by default from the artifact's facts.
        compressed: also include the size after compression.
        runtime: what ran the file.
        history: one entry per epoch, such as ``{"epoch": 1, "loss": 0.7, "accuracy": 0.9}``.
    """
    main = artifact.main
    known = artifact.manifest.files.get(main.name)
    size = file_size(main, compressed)
    facts = artifact.facts_as(AnyFacts)
    counted = parameters if parameters is not None else facts.parameters
    timed = {batch: run.candidates[stage] for batch, run in (latency or {}).items() if stage in run.candidates}
    return StageEntry(
        stage=stage,
        sha256=known.sha256 if known else sha256_file(main),
        key=artifact.key,
        kind=artifact.kind,
        file=main.name,
        size_bytes=size.size_bytes,
        gzip_bytes=size.gzip_bytes,
        parameters=counted if counted is not None else parameters_in_file(main),
        macs=macs if macs is not None else facts.macs,
        metric=None if accuracy is None else metric_entry(accuracy),
        drop=None if accuracy is None or accuracy.drop is None else Spread.of(accuracy.drop),
        agreement=None if accuracy is None or accuracy.agreement is None else Spread.of(accuracy.agreement),
        sqnr_db=None if accuracy is None else accuracy.sqnr_db,
        classes=() if accuracy is None else tuple(map(class_entry, accuracy.classes)),
        confusion=() if accuracy is None else accuracy.confusion,
        latency={batch: latency_entry(candidate) for batch, candidate in timed.items()},
        memory=None if memory is None else MemoryEntry(**asdict(memory)),
        seconds=seconds,
        history=tuple(dict(epoch) for epoch in history),
        notes=tuple(notes),
        runtime=runtime,
    )


def metric_entry(accuracy: Accuracy) -> MetricEntry:
    """The metric with its interval."""
    spread = Spread.of(accuracy.interval)
    return MetricEntry(**spread.model_dump(), name=accuracy.metric, n=accuracy.n)


def class_entry(found: ClassAccuracy) -> ClassEntry:
    """The accuracy of one class."""
    return ClassEntry(name=found.name, n=found.n, share=Spread.of(found.share), precision=found.precision, f1=found.f1)


def latency_entry(candidate: CandidateLatency) -> LatencyEntry:
    """One candidate of a comparison; times are rounded to seven digits."""
    return LatencyEntry(
        median_ms=Spread.of(candidate.median_ms),
        wall_ms=Spread.of(candidate.wall_ms),
        percentiles=tuple(map(PercentileEntry.of, candidate.percentiles)),
        mean_ms=candidate.mean_ms,
        rows_per_second=candidate.rows_per_second,
        ratio=None if candidate.ratio is None else RatioEntry.of_ratio(candidate.ratio),
        p_value=candidate.p_value,
        verdict=candidate.verdict,
        calls_per_sample=candidate.plan.calls * candidate.plan.groups,
        samples_per_block=candidate.plan.samples,
        raw=candidate.raw,
        blocks_ms=tuple(_short(value) for value in candidate.block_medians_ms),
        warmup_ms=tuple(_short(value) for value in candidate.warmup_ms),
        drift=None if candidate.drift is None else Spread.of(candidate.drift),
        spikes=SpikesEntry(**asdict(candidate.spikes)),
    )


def latency_run(comparison: LatencyComparison) -> LatencyRun:
    """Facts about the timing of a comparison."""
    return LatencyRun(
        batch=comparison.batch,
        reference=comparison.reference,
        threads=comparison.threads,
        rounds=comparison.rounds,
        stopped=comparison.stopped,
        clock=comparison.clock,
        turns=comparison.turns,
        resolution_ns=comparison.resolution_ns,
        seconds=comparison.seconds,
        noise=NoiseEntry(**asdict(comparison.noise)),
    )


def new_result(
    title: str,
    stages: Iterable[StageEntry],
    *,
    reference: str,
    latency: Mapping[int, LatencyComparison] | None = None,
    gates: Iterable[Mapping[str, Any]] = (),
    command: str | None = None,
    data: Mapping[str, Any] | None = None,
    notes: Sequence[str] = (),
    seconds: float | None = None,
    machine: Mapping[str, Any] | None = None,
) -> Result:
    """A result with the current time and this machine.

    Args:
        title: the recipe's name.
        reference: the reference stage of drops and ratios.
        gates: verdicts as JSON-ready dictionaries.
        command: by default the one that started this process.
        data: fingerprint and sample count of the test split.
        machine: an existing fingerprint of the machine.
    """
    return Result(
        id=uuid.uuid4().hex,
        started=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        seconds=seconds,
        title=title,
        command=command or this_command(),
        tool=tool(),
        env=dict(machine or fingerprint()),
        data=dict(data or {}),
        reference=reference,
        stages=tuple(stages),
        runs=tuple(latency_run(comparison) for comparison in (latency or {}).values()),
        gates=tuple(GateEntry(**gate) for gate in gates),
        notes=tuple(notes),
    )


def this_command() -> str:
    """The command line of this process, as a user would type it."""
    name = Path(sys.argv[0]).name
    shown = "retort" if name in {"__main__.py", "retort"} else name
    return shlex.join([shown, *sys.argv[1:]])


def tool() -> dict[str, str]:
    """Version of Retort, and the commit if it runs from a checkout."""
    found = {"name": "retort", "version": package_version(DISTRIBUTION) or "unknown"}
    root = Path(__file__).resolve().parents[1]
    if (root / ".git").exists():
        command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12"]
        done = subprocess.run(command, capture_output=True, text=True, check=False) if _has_git() else None
        if done is not None and done.returncode == 0:
            found["git"] = done.stdout.strip()
    return found


def _has_git() -> bool:
    import shutil

    return shutil.which("git") is not None


def _short(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")
