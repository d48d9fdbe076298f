"""What is in a folder of runs: each run with its stages, its last measurement, its size, and how to go on."""

from __future__ import annotations

import os
import shlex
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ...benchmarks.report.result_files import device_file, find_result
from ...benchmarks.result import Result
from ...core.artifact import MANIFEST, Artifact, is_finished, load_artifact
from ...core.counts import counted, listed
from ...core.errors import MissingFileError, RetortError
from ...core.options.stage_table import STAGES
from ...core.system.owned_folders import SCRATCH
from .run_lock import is_active
from .run_names import is_leftover, is_own
from .run_record import RunRecord, read_records


@dataclass(frozen=True)
class Measured:
    """The last measured model of a run.

    Attributes:
        speedup: times as fast as the reference at ``batch``; None if it was not timed.
    """

    stage: str
    metric: str | None
    value: float | None
    size_bytes: int
    speedup: float | None
    batch: int | None


@dataclass(frozen=True)
class RunFolder:
    """One run, or one artifact that a single command wrote.

    Attributes:
        recipe: path of the recipe; empty if it is not known.
        finished: stages whose artifact is finished, in order.
        planned: number of stages of the recipe; None if it is not known.
        state: ``running``, ``finished``, ``stopped`` or ``killed``, and why; ``artifact`` for a single one.
        changed: when its last artifact was finished, in seconds since 1970.
        size_bytes: what it takes on the disk, without what links lead to; only its artifacts if it is ``shared``.
        unfinished: results whose work can be continued.
        go_on: the command that continues or repeats the run; empty if its recipe is not known or does not exist.
        shared: whether other recipes ran in its folder, too.
    """

    name: str
    folder: Path
    recipe: str
    finished: tuple[str, ...]
    planned: int | None
    state: str
    changed: float
    size_bytes: int
    measured: Measured | None
    unfinished: tuple[str, ...]
    go_on: str
    shared: bool = False

    def to_dict(self) -> dict[str, Any]:
        """All fields, as JSON-ready values."""
        return {**asdict(self), "folder": str(self.folder)}


def runs_in(runs: Path) -> list[RunFolder]:
    """All runs and single artifacts in a folder, the newest first; none if there is no such folder.

    Recipes of one name share a folder, in which each of them has its own run.
    """
    if not runs.is_dir():
        return []
    folders = [path for path in runs.iterdir() if path.is_dir() and not path.is_symlink()]
    return sorted((made for path in folders for made in _described(path, runs)), key=lambda item: -item.changed)


def artifacts_of(folder: Path) -> dict[str, Artifact]:
    """The finished artifacts of a run by the names of their folders, in order; damaged ones are left out."""
    found = {}
    for path in sorted(folder.glob("[0-9][0-9]-*")):
        if is_finished(path) and not path.is_symlink():
            try:
                found[path.name] = load_artifact(path, verify=False)
            except RetortError:  # `retort show` says what is wrong with it
                continue
    return found


def bytes_in(path: Path) -> int:
    """Bytes of a file, or of all files in a folder; links count as themselves, and what is deleted just now as 0."""
    if path.is_symlink() or not path.is_dir():
        return _bytes_of(path)
    return sum(_bytes_of(Path(place) / name) for place, _, names in os.walk(path) for name in names)


def _bytes_of(path: Path) -> int:
    try:
        return path.lstat().st_size
    except FileNotFoundError:
        return 0


def _described(folder: Path, runs: Path) -> list[RunFolder]:
    if is_finished(folder):
        return _single(folder)
    try:
        artifacts, records, active = artifacts_of(folder), read_records(folder).latest, is_active(folder)
    except OSError as error:
        return [_unreadable(folder, error)]
    if not artifacts and not records:
        return []
    return [_run(folder, runs, record, records, artifacts, active) for record in records or (None,)]


def _run(
    folder: Path,
    runs: Path,
    record: RunRecord | None,
    records: Sequence[RunRecord],
    artifacts: Collection[str],
    active: bool,
) -> RunFolder:
    """One run of a folder.

    Args:
        record: its record.
        records: those of all recipes that ran in the folder, the newest first.
        artifacts: names of all artifacts in the folder.
        active: whether a run is active there, which is the newest one.
    """
    shared, latest = len(records) > 1, not records or record is records[0]
    used = _used_by(record, artifacts, shared)
    made = {name.split("-")[1] for name in used if name.count("-") == 2}
    return RunFolder(
        folder.name,
        folder,
        record.recipe if record else "",
        tuple(stage for stage in (record.stages if record else STAGES) if stage in made),
        len(record.stages) if record else None,
        _state(record, active and latest),
        max(map(_changed, (folder / name for name in used)), default=record.started if record else _changed(folder)),
        sum(bytes_in(folder / name) for name in used) if shared else bytes_in(folder),
        _measured(folder, used),
        _unfinished(folder) if latest else (),
        _go_on(record, runs),
        shared,
    )


def _used_by(record: RunRecord | None, artifacts: Collection[str], shared: bool) -> list[str]:
    """The artifacts of a run; before it has used any, those of the runs of its recipe before.

    If its record names none of either, all artifacts are its own, unless other recipes ran in the folder.
    """
    wanted = record.folders or record.earlier if record else ()
    return [name for name in artifacts if name in (wanted or ())] if wanted or shared else list(artifacts)


def _changed(path: Path) -> float:
    """When an artifact was finished, or a folder changed; 0 if it was deleted since."""
    try:
        return (path / MANIFEST if is_finished(path) else path).stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _single(folder: Path) -> list[RunFolder]:
    try:
        artifact = load_artifact(folder, verify=False)
    except RetortError:
        return []
    stages = (artifact.manifest.stage,)
    size = bytes_in(folder)
    return [RunFolder(folder.name, folder, "", stages, None, "artifact", _changed(folder), size, None, (), "")]


def _unreadable(folder: Path, error: OSError) -> RunFolder:
    state = f"not readable: {error.strerror}"
    return RunFolder(folder.name, folder, "", (), None, state, _changed(folder), bytes_in(folder), None, (), "")


def _state(record: RunRecord | None, active: bool) -> str:
    if active:
        return "running"
    if record is None:
        return "unknown"
    if record.state == "running":
        return "killed"
    return f"{record.state}: {record.reason}" if record.reason else record.state


def _unfinished(folder: Path) -> tuple[str, ...]:
    scratch = folder / SCRATCH
    kept = sorted(path.name for path in scratch.iterdir()) if scratch.is_dir() and not scratch.is_symlink() else []
    return tuple(kept + sorted(path.name for path in folder.iterdir() if is_leftover(path)))


def _go_on(record: RunRecord | None, runs: Path) -> str:
    if record is None or not Path(record.recipe).exists():
        return ""
    return shlex.join(["retort", "run", _shown(record.recipe), *([] if str(runs) == "runs" else ["--runs", str(runs)])])


def _shown(recipe: str) -> str:
    """The path of a recipe from the current folder, if it is in it."""
    path = Path(recipe)
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def title_of(run: RunFolder) -> str:
    """The name of a run, with the path of its recipe where several recipes have this name."""
    return f"{run.name} ({_shown(run.recipe)})" if run.shared else run.name


def latest_of(folder: Path, stage: str) -> Path | None:
    """The artifact of a stage that the latest run in a folder used, or else the latest run that has this stage.

    Without a record of it, it is the newest one; None if there is none.
    """
    made = [path for path in folder.glob(f"[0-9][0-9]-{stage}-*") if is_own(path.name) and is_finished(path)]
    for record in read_records(folder).latest:
        used = [path for path in made if path.name in record.folders]
        if used:
            return used[0]
    return max(made, key=_changed, default=None)


def result_of(source: Path) -> Result:
    """The result in a file or a bench artifact, that of the latest run in a folder, or that of a device.

    Raises:
        UserError: the folder contains several results of a device.
        MissingFileError: there is no result.
        ArtifactError: the result was altered after it was measured.
    """
    if not source.is_dir() or is_finished(source):
        return find_result(source)
    if device := device_file(source):
        return find_result(device)
    bench = latest_of(source, "bench")
    if bench is None:
        raise MissingFileError(f"{source} contains no measurement", "run a recipe with a `bench` stage first")
    return find_result(bench)


def _measured(folder: Path, used: Collection[str]) -> Measured | None:
    """The last model in the newest measurement among the artifacts that a run used."""
    benches = [folder / name for name in used if "-bench-" in name and is_own(name)]
    if not benches:
        return None
    try:
        result = find_result(max(benches, key=_changed))
    except (RetortError, OSError):
        return None
    rows = [stage for stage in result.stages if stage.metric is not None] or list(result.stages)
    last = next((stage for stage in rows if stage.stage == "export"), rows[-1])
    ratios = {batch: entry.ratio.value for batch, entry in last.latency.items() if entry.ratio is not None}
    batch = max(ratios, default=None)
    metric = last.metric
    return Measured(
        last.stage,
        metric.name if metric else None,
        metric.value if metric else None,
        last.size_bytes,
        ratios[batch] if batch is not None else None,
        batch,
    )


def count_of(run: RunFolder) -> str:
    """``4 of 9 stages``."""
    done = len(run.finished)
    return f"{done} of {run.planned}" if run.planned else counted(done, "stage")


def remarks(run: RunFolder) -> str:
    """What is unfinished in a run, and the command that goes on or what prevents it; empty if nothing is."""
    parts = [f"unfinished: {listed(run.unfinished)}"] if run.unfinished else []
    incomplete = run.planned is not None and len(run.finished) < run.planned and run.state != "running"
    if run.recipe and (parts or incomplete):
        lost = f"its recipe {_shown(run.recipe)} does not exist any more"
        parts.append(f"go on with `{run.go_on}`" if run.go_on else lost)
    return "; ".join(parts)
