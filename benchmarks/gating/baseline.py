"""The baseline of a gate: a stored result, its model files where they are still there, and what must not differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...core.artifact import Artifact, load_artifact, sha256_file
from ...core.counts import listed
from ...core.errors import UserError
from ..machine import identity, runtime_version
from ..result import Result, StageEntry

DEPTH = 2
"""Levels of folders below the baseline's in which its model files are looked for."""


@dataclass(frozen=True)
class Bounds:
    """What a gate allows; None gates nothing.

    Attributes:
        slower_percent: the slowdown that must be found, in percent.
        accuracy_drop: largest loss of the metric, in its unit.
        growth_percent: largest growth of the file, in percent.
    """

    slower_percent: float | None
    accuracy_drop: float | None
    growth_percent: float | None


def paired_names(before: Sequence[str], after: Sequence[str], stage: str | None) -> dict[str, str]:
    """The stage of the baseline for every model, by the model's name.

    Stages of the same name belong together; so do two single ones, whatever their names.

    Args:
        before: names in the baseline.
        after: names of the present models.
        stage: the stage of the baseline that a single model is compared with.

    Raises:
        UserError: no stage belongs to a model.
    """
    if stage is not None:
        if stage not in before or len(after) != 1:
            raise UserError(
                f"--stage {stage} needs one model and a stage of that name; there are {listed(before)}",
                "name a stage of the baseline, and give one model",
            )
        return {after[0]: stage}
    shared = {name: name for name in after if name in before}
    if shared:
        return shared
    if len(before) == len(after) == 1:
        return {after[0]: before[0]}
    raise UserError(
        f"the baseline has {listed(before)}, and none of them is {listed(after, 'or')}",
        "say with --stage which of them the model is compared with",
    )


def model_of(entry: StageEntry, baseline: Path, given: Path | None) -> Artifact | None:
    """The baseline's own model file; None if it is not found.

    Args:
        baseline: the stored result, beside or below which the file is looked for by its name and its SHA-256.
        given: the file as the user names it.

    Raises:
        UserError: the given file is not that of the baseline.
    """
    if given is not None:
        found = load_artifact(given)
        if sha256_file(found.main) != entry.sha256:
            raise UserError(
                f"{given} is not the file that the baseline measured as '{entry.stage}': the SHA-256 differs",
                f"give the file that starts with the hash {entry.sha256[:12]}, or measure a new baseline",
            )
        return found
    folder = baseline if baseline.is_dir() else baseline.parent
    patterns = [f"{'*/' * depth}{entry.file}" for depth in range(DEPTH + 1)]
    for path in (path for pattern in patterns for path in sorted(folder.glob(pattern))):
        if path.is_file() and sha256_file(path) == entry.sha256:
            return load_artifact(path)
    return None


def differences(before: Result, after: Result) -> list[str]:
    """What keeps the times of two results from being compared: the machine, the runtime, the threads or the batches."""
    one, two = identity(before.env), identity(after.env)
    found = [f"{name}: {_shown(one[name])} → {_shown(two[name])}" for name in one if one[name] != two[name]]
    first, second = _runtimes(before), _runtimes(after)
    if first != second:
        found.append(f"runtime: {listed(sorted(first)) or 'unknown'} → {listed(sorted(second)) or 'unknown'}")
    threads = [sorted({run.threads for run in result.runs}) for result in (before, after)]
    if threads[0] != threads[1]:
        found.append(f"threads: {listed(threads[0])} → {listed(threads[1])}")
    batches = [{run.batch for run in result.runs} for result in (before, after)]
    if not batches[0] & batches[1]:
        found.append(f"batch sizes: {listed(sorted(batches[0]))} → {listed(sorted(batches[1]))}")
    return found


def require_comparable(before: Result, after: Result) -> None:
    """Fail if the times of two results cannot be compared.

    Raises:
        UserError: the machine, the runtime, the threads or the batch sizes differ; the message lists what.
    """
    found = differences(before, after)
    if found:
        raise UserError(
            f"the times of the baseline cannot be compared with these: {'; '.join(found)}",
            "gate the model files with --data and keep the baseline's model file beside it, so that both are measured "
            "here; or measure a new baseline with `retort bench`; or gate only the rest with --no-latency",
        )


def _runtimes(result: Result) -> set[str]:
    names = {stage.runtime for stage in result.stages if stage.latency and stage.runtime}
    return {f"{name} {runtime_version(result.env, name)}".strip() for name in names}


def _shown(value: object) -> str:
    if isinstance(value, list):
        return listed(value) or "none"
    return "unknown" if value is None else str(value)


def without(result: Result, names: Mapping[str, str]) -> Result:
    """The result with stages under the names of the baseline's, and only those that are compared.

    Args:
        names: the baseline's stage by the present one.
    """
    stages = tuple(
        stage.model_copy(update={"stage": names[stage.stage]}) for stage in result.stages if stage.stage in names
    )
    return result.model_copy(update={"stages": stages, "reference": stages[0].stage})
