"""The gate: models measured together with the baseline's own files, or results of two runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from ...core.artifact import Artifact
from ...core.errors import UserError
from ...core.metrics.ratio import Ratio
from ..machine import describe
from ..report.compare import BETWEEN_RUNS, Change, compare_results, floor_of
from ..result import LatencyRun, Result, StageEntry
from ..timing.machine_noise import PRESSURE_LIMIT_PERCENT, STEAL_LIMIT_PERCENT
from .baseline import Bounds, differences, require_comparable, without
from .regression_checks import UNDECIDED, Check, Outcome, check_accuracy, check_latency, check_size, overall

BETWEEN_QUIET_RUNS = 0.02
"""How far two runs of one file differ on a quiet machine (benchmarks.md B9); :data:`BETWEEN_RUNS` on a busy one."""
MEASUREMENTS = 3
"""A NOISY measurement is repeated, whatever it found, up to this number."""
BASELINE = "baseline"

Measure = Callable[[Mapping[str, Artifact]], Result]
"""Measures models by name; the first is the reference."""


@dataclass(frozen=True)
class Gated:
    """What a gate found.

    Attributes:
        together: whether the models were measured together with the baseline's files; otherwise in two runs.
        machine: where the present models were measured.
        of_device: whether that is a device of `retort edge`, which no command of this machine measures.
    """

    checks: tuple[Check, ...]
    together: bool
    machine: str
    notes: tuple[str, ...] = ()
    of_device: bool = False

    @property
    def outcome(self) -> Outcome:
        """The outcome of all checks together."""
        return overall(self.checks)

    @property
    def sentence(self) -> str:
        """What was decided: every check that did not pass, or else all; a reason that several share stands once."""
        reasons: dict[str, list[str]] = {}
        for check in self.checks:
            if check.outcome == self.outcome:
                found, between, reason = check.sentence.partition(UNDECIDED)
                reasons.setdefault(between + reason, []).append(found)
        return "; ".join("; ".join(found) + reason for reason, found in reasons.items())

    def to_dict(self) -> dict[str, Any]:
        """All values, as JSON-ready values."""
        found = asdict(self) | {"checks": [check.to_dict() for check in self.checks], "notes": list(self.notes)}
        return {"schema": "retort.gate/1", "outcome": self.outcome, "sentence": self.sentence, **found}


def gate_together(
    pairs: Mapping[str, tuple[Artifact, Artifact]], measure: Measure, bounds: Bounds, stored_result: Result
) -> Gated:
    """Measure each model together with the baseline's own file, in interleaved blocks and on the same samples.

    Args:
        pairs: the file of the baseline and the present one, by the name of the model.
        measure: measures two models.
        stored_result: the baseline, of which only the machine and the runtime are compared.

    Raises:
        UserError: an accuracy is gated that was not measured.
    """
    checks: list[Check] = []
    notes: list[str] = []
    machine = ""
    for name, (before, after) in pairs.items():
        present = f"{name} (now)" if name == BASELINE else name
        for attempt in range(1, MEASUREMENTS + 1):
            result = measure({BASELINE: before, present: after})
            if attempt == MEASUREMENTS or all(run.noise.status == "VALID" for run in result.runs):
                break
        checks += _checks_together(name, result, bounds)
        notes += [note for note in result.notes if note not in notes]
        machine = describe(result.env)
        if (other := differences(stored_result, result)) and stored_result.runs:
            notes.insert(0, f"the baseline was measured otherwise, and is measured again here: {'; '.join(other)}")
    return Gated(_some(checks), True, machine, tuple(notes))


def _checks_together(name: str, result: Result, bounds: Bounds) -> list[Check]:
    old, new = result.stages
    found = []
    for batch, entry in new.latency.items():
        if bounds.slower_percent is not None and entry.ratio is not None:
            times = old.latency[batch].median_ms.value, entry.median_ms.value
            found.append(check_latency(name, batch, entry.ratio.ratio(), times, bounds.slower_percent))
    if bounds.accuracy_drop is not None:
        if new.drop is None or new.metric is None or old.metric is None:
            raise UserError(f"the accuracy of {name} was not measured", "give --data with targets, or another --metric")
        values = old.metric.value, new.metric.value
        found.append(check_accuracy(name, new.metric.name, values, new.drop.interval(), bounds.accuracy_drop))
    return [*found, *_sizes(name, old, new, bounds)]


def _sizes(name: str, old: StageEntry, new: StageEntry, bounds: Bounds) -> list[Check]:
    if bounds.growth_percent is None:
        return []
    return [check_size(name, (old.size_bytes, new.size_bytes), bounds.growth_percent)]


def gate_runs(before: Result, after: Result, names: Mapping[str, str], bounds: Bounds) -> Gated:
    """Compare two results, which is less precise: two runs of one file differ by 2 % on a quiet machine, else by 5 %.

    Args:
        names: the baseline's stage for each stage that is gated.

    Raises:
        UserError: the times of the two cannot be compared, or a gated figure is missing.
    """
    renamed = without(after, names)
    notes = []
    if bounds.slower_percent is not None:
        _require_times(before, renamed)
        require_comparable(before, after)
        apart = between_runs(before, after)
        notes.append(f"the times come from two runs, between which one file may differ by {apart:.1%}")
    checks: list[Check] = []
    present = {old: new for new, old in names.items()}
    for change in compare_results(before, renamed).changes:
        name = present[change.stage]
        if bounds.slower_percent is not None:
            checks += [_across(name, batch, change, apart, bounds.slower_percent) for batch in change.speed]
            notes += [
                f"{name} was not measured at batch {batch}, which is in the baseline"
                for batch in change.before.latency
                if batch not in change.speed
            ]
        if bounds.accuracy_drop is not None:
            checks.append(_accuracy_across(name, change, before.data == after.data, bounds.accuracy_drop))
        checks += _sizes(name, change.before, change.after, bounds)
    return Gated(_some(checks), False, describe(after.env), tuple(notes), of_device="device" in after.env)


def between_runs(before: Result, after: Result) -> float:
    """How far two runs of one file may differ here, such as 0.05; at least the noise floor of this machine."""
    quiet = all(_quiet(run) for result in (before, after) for run in result.runs)
    return max(BETWEEN_QUIET_RUNS if quiet else BETWEEN_RUNS, floor_of(after))


def _quiet(run: LatencyRun) -> bool:
    pressure, steal = run.noise.pressure_percent, run.noise.steal_percent
    return pressure is not None and pressure <= PRESSURE_LIMIT_PERCENT and (steal or 0.0) <= STEAL_LIMIT_PERCENT


def _require_times(before: Result, after: Result) -> None:
    for which, result in (("baseline", before), ("present result", after)):
        if not any(stage.latency for stage in result.stages):
            raise UserError(
                f"the {which} has no times",
                "measure it with `retort bench`, or gate only accuracy and size with --no-latency",
            )


def _across(name: str, batch: int, change: Change, apart: float, slower_percent: float) -> Check:
    speed = change.speed[batch]
    times = change.before.latency[batch].median_ms.value, change.after.latency[batch].median_ms.value
    return check_latency(name, batch, widened(speed, apart), times, slower_percent)


def widened(speed: Ratio, apart: float) -> Ratio:
    """A ratio between two runs, with the interval that this allows for.

    Args:
        apart: how far two runs of one file may differ, such as 0.05.
    """
    low, high = speed.low, speed.high
    return replace(
        speed, low=None if low is None else low / (1 + apart), high=None if high is None else high * (1 + apart)
    )


def _accuracy_across(name: str, change: Change, same_data: bool, bound: float) -> Check:
    one, two = change.before.metric, change.after.metric
    if change.drop is None or one is None or two is None:
        raise UserError(
            f"{name} has no metric that is also in the baseline",
            "measure both with `retort bench` and the same --metric",
        )
    found = check_accuracy(name, one.name, (one.value, two.value), change.drop, bound)
    if same_data:
        return found
    return replace(found, outcome="invalid", sentence=f"{found.sentence}; but the test data differ from the baseline's")


def _some(checks: list[Check]) -> tuple[Check, ...]:
    if not checks:
        raise UserError("there is nothing to gate", "give at least one of --slower, --accuracy-drop and --size")
    return tuple(checks)
