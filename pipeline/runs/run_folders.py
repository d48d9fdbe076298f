"""What is in a folder of runs: each run with its stages, its last measurement, its size, and how to go on."""

from __future__ import annotations

import fcntl
import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ...benchmarks.report.result_files import find_result
from ...core.artifact import Artifact, is_finished, load_artifact
from ...core.counts import counted, listed
from ...core.errors import RetortError
from ...core.system.owned_folders import SCRATCH, is_scratch
from .run_record import RunRecord, read_record

LOCK = ".lock"


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
        size_bytes: what it takes on the disk, without what links lead to.
        unfinished: results whose work can be continued.
        go_on: the command that continues or repeats the run; empty if it is not known.
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

    def to_dict(self) -> dict[str, Any]:
        """All fields, as JSON-ready values."""
        return {**asdict(self), "folder": str(self.folder)}


def runs_in(runs: Path) -> list[RunFolder]:
    """All runs and single artifacts in a folder, the newest first; none if there is no such folder."""
    if not runs.is_dir():
        return []
    folders = [path for path in runs.iterdir() if path.is_dir() and not path.is_symlink()]
    found = [made for path in folders if (made := _described(path, runs)) is not None]
    return sorted(found, key=lambda item: -item.changed)


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


@contextmanager
def unless_active(folder: Path) -> Iterator[bool]:
    """Lock a run's folder within this context; yields False if another process runs there."""
    path = folder / LOCK
    if not path.is_file():
        yield True
        return
    with path.open("r+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
            return
        yield True


def bytes_in(path: Path) -> int:
    """Bytes of a file, or of all files in a folder; links count as themselves."""
    if path.is_symlink() or not path.is_dir():
        return path.lstat().st_size
    return sum((Path(place) / name).lstat().st_size for place, _, names in os.walk(path) for name in names)


def _described(folder: Path, runs: Path) -> RunFolder | None:
    if is_finished(folder):
        return _single(folder)
    artifacts, record = artifacts_of(folder), read_record(folder)
    if not artifacts and record is None:
        return None
    with unless_active(folder) as free:
        state = _state(record, free)
    used = [name for name in artifacts if record is None or name in record.folders] or list(artifacts)
    stages = tuple(dict.fromkeys(name.split("-")[1] for name in used if name.count("-") == 2))
    changed = max(
        [(folder / name / "manifest.json").stat().st_mtime for name in artifacts], default=folder.stat().st_mtime
    )
    return RunFolder(
        folder.name,
        folder,
        record.recipe if record else "",
        stages,
        len(record.stages) if record else None,
        state,
        changed,
        bytes_in(folder),
        _measured(folder),
        _unfinished(folder),
        _go_on(record, folder, runs),
    )


def _single(folder: Path) -> RunFolder | None:
    try:
        artifact = load_artifact(folder, verify=False)
    except RetortError:
        return None
    changed = (folder / "manifest.json").stat().st_mtime
    stages = (artifact.manifest.stage,)
    return RunFolder(folder.name, folder, "", stages, None, "artifact", changed, bytes_in(folder), None, (), "")


def _state(record: RunRecord | None, free: bool) -> str:
    if not free:
        return "running"
    if record is None:
        return "unknown"
    if record.state == "running":
        return "killed"
    return f"{record.state}: {record.reason}" if record.reason else record.state


def _unfinished(folder: Path) -> tuple[str, ...]:
    scratch = folder / SCRATCH
    kept = sorted(path.name for path in scratch.iterdir()) if scratch.is_dir() and not scratch.is_symlink() else []
    return tuple(kept + sorted(path.name for path in folder.iterdir() if is_scratch(path)))


def _go_on(record: RunRecord | None, folder: Path, runs: Path) -> str:
    if record is None:
        return ""
    path = Path(record.recipe)
    shown = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
    return shlex.join(["retort", "run", str(shown), *([] if str(runs) == "runs" else ["--runs", str(runs)])])


def _measured(folder: Path) -> Measured | None:
    """The last model in the newest measurement of a run."""
    try:
        result = find_result(folder)
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
    """What is unfinished in a run, and the command that goes on; empty if nothing is."""
    parts = [f"unfinished: {listed(run.unfinished)}"] if run.unfinished else []
    incomplete = run.planned is not None and len(run.finished) < run.planned and run.state != "running"
    if run.go_on and (parts or incomplete):
        parts.append(f"go on with `{run.go_on}`")
    return "; ".join(parts)
