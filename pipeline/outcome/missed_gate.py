"""A missed gate: the stage that lost what the gate bounds, the table so far, its report, and what to do next."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from ...benchmarks.report import formatting
from ...core.counts import listed
from ...core.errors import GateError, RetortError
from ...core.options.stage_options import BenchOptions, Gate, ReportOptions
from ...core.options.stage_table import PROGRAM_STAGES
from ..gates import GateResult
from ..measure import accuracy, graph_bytes, metric_of, reference_of
from . import run_results

if TYPE_CHECKING:
    from ..line import Line

REMEDIES = {
    "train": "train longer",
    "distill": "give `distill` more epochs or a larger student",
    "prune": "give `prune` a milder budget or more epochs of `recover`",
    "sparsify": "give `sparsify` a smaller share of zeros, or `recover`",
    "quantize": "give `quantize` `correction: [full]`, `mixed: auto` or `qat`",
    "export": "export in `precision: fp32`",
}
"""What makes a stage lose less."""


@dataclass(frozen=True)
class Step:
    """What one stage changed of the quantity that a gate bounds.

    Attributes:
        change: in words, such as ``lost 5.83 pp``.
        harm: how much it made the quantity worse; comparable between the steps of one gate.
    """

    stage: str
    change: str
    harm: float


def missed(line: Line, gate: Gate, result: GateResult) -> GateError:
    """Measure what is finished, write its report, and say which stage lost what the gate bounds."""
    _measure_so_far(line, gate)
    try:
        steps = _steps(line, gate, result)
    except RetortError as error:  # such as an export that fails: the missed gate is what the user must see
        line.console.warn(f"which stage lost it could not be measured: {error.message}")
        steps = []
    worst = max(steps, key=lambda step: step.harm, default=None)
    told = result.sentence + (f"; {_where(steps, worst, gate)}" if worst else "")
    report = None if line.outcome.report is None else str(line.outcome.report)
    return GateError(
        told,
        f"{_remedy(gate, result, worst)}; finished artifacts are kept and reused",
        gate=gate.model_dump(),
        folder=str(line.folder),
        lost_at=worst.stage if worst else None,
        steps={step.stage: step.change for step in steps},
        report=report,
        artifacts={name: str(artifact.path) for name, artifact in line.outcome.artifacts.items()},
    )


def _measure_so_far(line: Line, gate: Gate) -> None:
    """The table and the report of the finished stages; times if the recipe asks for them, or for a gate of speed."""
    if reference_of(line) not in line.outcome.artifacts:
        return
    asked = next((options for _, options in line.plan if isinstance(options, BenchOptions)), None)
    timed = asked is not None or gate.speedup is not None
    options = asked or BenchOptions()
    if gate.speedup is not None:
        batches = tuple(sorted({*(options.batch_sizes if asked else ()), gate.batch_size}))
        options = options.model_copy(update={"batch_sizes": batches})
    try:
        line.outcome.artifacts["bench"] = run_results.bench(line, options, timed)
        run_results.report(line, ReportOptions())
    except RetortError as error:  # the missed gate is what the user must see
        line.console.warn(f"the finished stages could not be measured: {error.message}")


def _steps(line: Line, gate: Gate, result: GateResult) -> list[Step]:
    """What every stage from the gate's reference to the gate changed."""
    path = _path(line, gate, result.against)
    pairs = list(pairwise(path))
    if gate.accuracy_drop is not None:
        return [_accuracy_step(line, before, after) for before, after in pairs]
    if gate.size_ratio is not None:
        sizes = {name: graph_bytes(line, name) for name in path}
        return [_share(after, sizes[after] / sizes[before], "{:.0%} of the bytes") for before, after in pairs]
    times = _times(line, gate.batch_size)
    known = [(before, after) for before, after in pairs if before in times and after in times]
    return [_share(after, times[after] / times[before], "{:.2f}× the time") for before, after in known]


def _path(line: Line, gate: Gate, against: str) -> list[str]:
    names = list(line.outcome.artifacts)
    between = names[names.index(against) + 1 : names.index(gate.after) + 1]
    kept = [name for name in between if name in PROGRAM_STAGES or name == gate.after]
    if gate.after in PROGRAM_STAGES or gate.accuracy_drop is not None:
        return [against, *kept]
    return [against, *(name for name in kept if name in PROGRAM_STAGES)]  # a file has the bytes of its program


def _accuracy_step(line: Line, before: str, after: str) -> Step:
    drop = accuracy(line, after, before).drop
    value = 0.0 if drop is None else drop.value
    return Step(after, formatting.change_text(metric_of(line), value), value)


def _share(stage: str, share: float, words: str) -> Step:
    return Step(stage, f"has {words.format(share)} of the stage before", share)


def _times(line: Line, batch: int) -> dict[str, float]:
    found = line.outcome.result.stages if line.outcome.result else ()
    times = {stage.stage: stage.latency[batch].median_ms.value for stage in found if batch in stage.latency}
    return {name: value for name, value in times.items() if value}


def _where(steps: list[Step], worst: Step, gate: Gate) -> str:
    each = listed(f"{step.stage} {step.change}" for step in steps)
    if gate.accuracy_drop is not None and worst.harm <= 0:
        return f"no stage lost anything on these samples ({each})"
    if gate.accuracy_drop is not None:
        what = "the largest loss is at"
    elif gate.size_ratio is not None:
        what = "the file shrank least at"
    else:
        what = "the time grew at" if worst.harm > 1 else "the least time was gained at"
    return f"{what} `{worst.stage}` ({each})"


def _remedy(gate: Gate, result: GateResult, worst: Step | None) -> str:
    if result.verdict == "cannot tell":
        more = "a longer `budget_s` of `bench` or a machine that is not busy" if gate.speedup else "more test samples"
        return f"use {more}, or loosen the gate"
    if worst is None:
        return "loosen the gate or change the stage"
    if gate.accuracy_drop is not None:
        return f"{REMEDIES.get(worst.stage, f'change `{worst.stage}`')}, or loosen the gate"
    return f"cut more at `prune`, change `{worst.stage}`, or loosen the gate"
