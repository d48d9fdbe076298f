"""What may be deleted of runs: unfinished work, artifacts that no recipe reaches any more, and caches.

Nothing of a user's is deleted: artifacts that were changed by hand, folders with other files and links are kept and
named, and a folder in which a run is active is not touched.
"""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from ...core.artifact import Artifact, is_finished
from ...core.counts import listed
from ...core.errors import UserError
from ...core.options.recipe import nearest
from ...core.system.cache import Purpose, cache_folder
from ...core.system.owned_folders import SCRATCH, is_scratch, remove_artifact, why_kept
from .run_folders import artifacts_of, bytes_in, unless_active
from .run_record import RunRecord, read_record

IN_USE_S = 3600.0
"""Unfinished work of single commands, which have no lock, may be in use if it was written within this time."""
_CACHED: dict[Purpose, re.Pattern[str]] = {
    "engines": re.compile(r"retort-[0-9a-f]{16}.*"),
    "latency": re.compile(r"[0-9a-f]{16}\.json"),
    "timing": re.compile(r".+-[0-9a-f]{16}\.timing"),
}
"""Names of the files that Retort and ONNX Runtime write into each cache."""
Reason = Literal["unfinished", "superseded", "cache"]


@dataclass(frozen=True)
class Removable:
    """A file or a folder that may be deleted.

    Attributes:
        run: the folder of its run, which is locked while it is deleted; None for caches.
    """

    path: Path
    reason: Reason
    detail: str
    size_bytes: int
    run: Path | None = None

    def to_dict(self) -> dict[str, Any]:
        """All fields, as JSON-ready values."""
        return {**asdict(self), "path": str(self.path), "run": None if self.run is None else str(self.run)}


@dataclass
class Cleaning:
    """What may be deleted, and what is kept although its name says that Retort wrote it, with the reason."""

    items: list[Removable] = field(default_factory=list)
    kept: list[tuple[Path, str]] = field(default_factory=list)

    @property
    def size_bytes(self) -> int:
        """What it frees."""
        return sum(item.size_bytes for item in self.items)


def cleaning(runs: Path, names: Sequence[str] = (), caches: bool = False) -> Cleaning:
    """Find what may be deleted; nothing is changed.

    Args:
        runs: folder that contains one folder per recipe.
        names: only these runs; all of them if empty.
        caches: also the caches of latencies, engines and timings.

    Raises:
        UserError: there is no such run.
    """
    found = Cleaning()
    folders = {path.name: path for path in _folders(runs) if not is_finished(path)}
    for name in names:
        if name not in folders:
            raise UserError(f"{runs} has no run '{name}'{nearest(name, list(folders))}", "`retort runs` lists them")
    for name, folder in folders.items():
        if not names or name in names:
            _of_run(folder, found)
    if not names:
        _of_commands(runs, found)
    if caches:
        _of_caches(found)
    return found


def remove(items: Sequence[Removable]) -> int:
    """Delete what :func:`cleaning` found. What has changed since, or is in use now, is kept.

    Returns:
        The bytes that were freed.
    """
    return sum(item.size_bytes for item in items if _removed(item))


def _removed(item: Removable) -> bool:
    if item.run is None:
        _delete(item)
        return not item.path.exists()
    with unless_active(item.run) as free:
        if free:
            _delete(item)
    return not item.path.exists()


def _delete(item: Removable) -> None:
    if item.reason == "superseded":
        remove_artifact(item.path)
    elif item.path.is_dir() and not item.path.is_symlink():
        shutil.rmtree(item.path, ignore_errors=True)  # does not follow links
        parent = item.path.parent
        if parent.name == SCRATCH and not any(parent.iterdir()):
            parent.rmdir()
    elif not item.path.is_symlink():
        item.path.unlink(missing_ok=True)


def _folders(runs: Path) -> list[Path]:
    if not runs.is_dir():
        return []
    return sorted(path for path in runs.iterdir() if path.is_dir() and not path.is_symlink())


def _of_run(folder: Path, found: Cleaning) -> None:
    with unless_active(folder) as free:
        if not free:
            found.kept.append((folder, "is in use by a run"))
            return
        for path in _scratch_in(folder):
            found.items.append(_item(path, "unfinished", "its stage starts from the beginning", folder))
        record, artifacts = read_record(folder), artifacts_of(folder)
        for name in sorted(_superseded(record, artifacts)):
            path = folder / name
            why = why_kept(path)
            if why:
                found.kept.append((path, why))
            else:
                found.items.append(_item(path, "superseded", "the latest run does not use it", folder))


def _scratch_in(folder: Path) -> Iterator[Path]:
    """Folders of artifacts that were not finished, and checkpoints."""
    yield from sorted(path for path in folder.iterdir() if is_scratch(path))
    scratch = folder / SCRATCH
    if scratch.is_dir() and not scratch.is_symlink():
        yield from sorted(path for path in scratch.iterdir() if not path.is_symlink())


def _item(path: Path, reason: Reason, detail: str, run: Path | None) -> Removable:
    return Removable(path, reason, detail, bytes_in(path), run)


def _superseded(record: RunRecord | None, artifacts: dict[str, Artifact]) -> set[str]:
    """Names of artifacts that the latest run does not use.

    What the stages of a run that did not end could still use is not superseded: the artifacts that were made from
    those that it used. Without a record of the latest run, nothing is.
    """
    if record is None or record.state == "running":
        return set()
    used = {name for name in artifacts if name in record.folders}
    used |= {name for name in artifacts if any(name.startswith(f"{other}-") for other in record.folders)}
    if record.state != "finished":
        keys, size = {artifacts[name].key for name in used}, -1
        while size != len(used):
            size = len(used)
            used |= {n for n, item in artifacts.items() if item.manifest.parents and {*item.manifest.parents} <= keys}
            keys = {artifacts[name].key for name in used}
    return artifacts.keys() - used


def _of_commands(runs: Path, found: Cleaning) -> None:
    """Unfinished work of single commands, which lies beside their results."""
    if not runs.is_dir():
        return
    for path in _scratch_in(runs):
        minutes = (time.time() - _newest(path)) / 60
        if minutes * 60 < IN_USE_S:
            found.kept.append((path, f"was written {minutes:.0f} minutes ago, and may be in use"))
        else:
            found.items.append(_item(path, "unfinished", "its command starts from the beginning", None))


def _newest(path: Path) -> float:
    inside = list(path.rglob("*")) if path.is_dir() else []
    return max(float(place.lstat().st_mtime) for place in (path, *inside))


def _of_caches(found: Cleaning) -> None:
    for purpose, written in _CACHED.items():
        folder = cache_folder(purpose)
        if not folder.is_dir() or folder.is_symlink():
            continue
        for path in sorted(folder.iterdir()):
            if path.is_file() and not path.is_symlink() and written.fullmatch(path.name):
                found.items.append(_item(path, "cache", f"{purpose} are measured or built again", None))


def summary(found: Cleaning) -> str:
    """One line: what may be deleted, by reason, with the bytes that it frees."""
    reasons = [reason for reason in get_args(Reason) if any(item.reason == reason for item in found.items)]
    parts = []
    for reason in reasons:
        items = [item for item in found.items if item.reason == reason]
        parts.append(f"{len(items)} {reason} ({megabytes(sum(item.size_bytes for item in items))})")
    return f"{listed(parts)}: {megabytes(found.size_bytes)} in all" if parts else "nothing may be deleted"


def megabytes(size: int) -> str:
    """``1.2 MB``, ``340 kB``, ``12 bytes``."""
    if size < 1000:
        return f"{size} bytes"
    return f"{size / 1e3:.0f} kB" if size < 1e6 else f"{size / 1e6:.1f} MB" if size < 1e9 else f"{size / 1e9:.2f} GB"
