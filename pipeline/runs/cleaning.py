"""What may be deleted of runs: unfinished work, artifacts that no recipe reaches any more, and caches.

Nothing of a user's is deleted: artifacts that were changed by hand, folders with other files and links are kept and
named, and a folder in which a run is active is not touched.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

from ...core.artifact import Artifact, is_finished
from ...core.counts import counted, listed
from ...core.errors import UserError
from ...core.options.recipe import nearest
from ...core.system.cache import Purpose, cache_folder
from ...core.system.folder_locks import delete_abandoned, why_in_use
from ...core.system.owned_folders import SCRATCH, is_scratch, remove_artifact, why_kept
from .run_folders import artifacts_of, bytes_in
from .run_lock import is_active, unless_active
from .run_names import is_leftover, is_own, stored_beside
from .run_record import Records, RunRecord, read_records, record_file

_CACHED: dict[Purpose, re.Pattern[str]] = {
    "engines": re.compile(r"retort-[0-9a-f]{16}.*"),
    "latency": re.compile(r"[0-9a-f]{16}\.json"),
    "noise": re.compile(r"[0-9a-f]{16}(\.json|-[0-9a-f]{8}\.jsonl)"),
    "servers": re.compile(r"[0-9]{1,5}\.json"),
    "timing": re.compile(r".+-[0-9a-f]{16}\.timing"),
}
"""Names of the files that Retort and ONNX Runtime write into each cache."""
_AFTERWARDS: dict[Purpose, str] = {
    "engines": "engines are built again",
    "latency": "latencies are measured again",
    "noise": "`retort bench` no longer knows the noise of this machine",
    "servers": "nothing changes: its server was killed",
    "timing": "timings are measured again",
}
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
        caches: also the caches of latencies, engines and timings, and the notes of servers that were killed.

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
    """Delete what :func:`cleaning` found. What a run uses since, and what is in use now, is kept.

    Returns:
        The bytes that were freed.
    """
    for run in dict.fromkeys(item.run for item in items):
        own = [item for item in items if item.run == run]
        if run is None:
            for item in own:
                _delete(item)
        else:
            with suppress(OSError), unless_active(run) as free:  # a folder that cannot be written keeps everything
                again = _removable(run) if free else set()
                for item in own:
                    if item.path in again:
                        _delete(item)
    return sum(item.size_bytes for item in items if not item.path.exists())


def _removable(folder: Path) -> set[Path]:
    """What may be deleted of a run, changed or not: looked up again under its lock."""
    records = read_records(folder)
    return {*_scratch_in(folder, is_leftover), *(folder / name for name in superseded(records, artifacts_of(folder)))}


def _delete(item: Removable) -> None:
    if item.reason == "superseded":
        remove_artifact(item.path)
    elif item.path.is_dir() and not item.path.is_symlink():
        delete_abandoned(item.path)
    elif item.reason == "cache" and not item.path.is_symlink():
        item.path.unlink(missing_ok=True)


def _folders(runs: Path) -> list[Path]:
    if not runs.is_dir():
        return []
    return sorted(path for path in runs.iterdir() if _is_run(path))


def _is_run(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink() and path.name != SCRATCH and not is_scratch(path)


def _of_run(folder: Path, found: Cleaning) -> None:
    try:
        own = Cleaning(kept=[(folder, "is in use by a run")]) if is_active(folder) else _looked_at(folder)
    except OSError as error:
        own = Cleaning(kept=[(folder, f"cannot be read: {error.strerror}")])
    found.items += own.items
    found.kept += own.kept


def _looked_at(folder: Path) -> Cleaning:
    found = Cleaning()
    for path in _scratch_in(folder, is_leftover):
        found.items.append(_item(path, "unfinished", "its stage starts from the beginning", folder))
    records, artifacts = read_records(folder), artifacts_of(folder)
    for name in sorted(superseded(records, artifacts)):
        path = folder / name
        why = why_kept(path)
        if why:
            found.kept.append((path, why))
        else:
            found.items.append(_item(path, "superseded", "no recipe uses it any more", folder))
    found.kept += [(path, "cannot be read, so no artifact beside it is deleted") for path in records.unreadable]
    found.kept += _of_lost_recipes(folder, records, artifacts)
    return found


def _of_lost_recipes(
    folder: Path, records: Records, artifacts: Mapping[str, Artifact]
) -> Iterator[tuple[Path, str]]:
    """Records of recipes that do not exist any more, which keep artifacts that no other recipe uses."""
    for record in records.latest:
        others = replace(records, latest=tuple(other for other in records.latest if other is not record))
        freed = superseded(others, artifacts) - superseded(records, artifacts)
        if freed and not Path(record.recipe).exists():
            many, gone = counted(freed, "artifact"), f"{record.recipe}, which does not exist any more"
            reason = f"keeps {many} of {gone}"
            if not freed <= {*record.folders, *(record.earlier or ())}:
                reason = f"keeps {many} that no other recipe uses, since a run of {gone}, did not end"
            yield record_file(folder, record.recipe), f"{reason}; delete this file to free them"


def _scratch_in(folder: Path, is_leftover: Callable[[Path], bool]) -> Iterator[Path]:
    """Folders of artifacts that were not finished, and of checkpoints."""
    yield from sorted(path for path in folder.iterdir() if is_leftover(path))
    scratch = folder / SCRATCH
    if scratch.is_dir() and not scratch.is_symlink():
        yield from sorted(path for path in scratch.iterdir() if path.is_dir() and not path.is_symlink())


def _item(path: Path, reason: Reason, detail: str, run: Path | None) -> Removable:
    return Removable(path, reason, detail, bytes_in(path), run)


def superseded(records: Records, artifacts: Mapping[str, Artifact]) -> set[str]:
    """Names of artifacts that no recipe uses which ran in a folder, as far as the records of their latest runs say.

    What a run that did not end could still use is not superseded: the artifacts that its recipe used before, and those
    that were made from artifacts that it used. Where a record is missing or was left by a killed run, nothing is.
    """
    if not records.latest or records.unreadable or any(not _is_whole(record) for record in records.latest):
        return set()
    used: set[str] = set()
    for record in records.latest:
        used |= _used(record, artifacts)
    return {name for name in artifacts if is_own(name) and stored_beside(name) not in used}


def _is_whole(record: RunRecord) -> bool:
    """Whether a record says everything that its recipe may still use."""
    return record.state == "finished" or (
        record.state == "stopped" and bool(record.folders) and record.earlier is not None
    )


def _used(record: RunRecord, artifacts: Mapping[str, Artifact]) -> set[str]:
    used = {*record.folders, *(record.earlier or ())}
    if record.state == "finished":
        return used
    made_from = {name: {*item.manifest.parents} for name, item in artifacts.items() if item.manifest.parents}
    size = -1
    while size != len(used):
        size = len(used)
        keys = {item.key for name, item in artifacts.items() if stored_beside(name) in used}
        used |= {stored_beside(name) for name, parents in made_from.items() if parents <= keys}
    return used


def _of_commands(runs: Path, found: Cleaning) -> None:
    """Unfinished work of single commands, which lies beside their results."""
    if not runs.is_dir():
        return
    for path in _scratch_in(runs, is_scratch):
        why = why_in_use(path)
        if why:
            found.kept.append((path, why))
        else:
            found.items.append(_item(path, "unfinished", "its command starts from the beginning", None))


def _of_caches(found: Cleaning) -> None:
    for purpose, written in _CACHED.items():
        folder = cache_folder(purpose)
        if not folder.is_dir() or folder.is_symlink():
            continue
        for path in sorted(folder.iterdir()):
            if not path.is_file() or path.is_symlink() or not written.fullmatch(path.name):
                continue
            if purpose == "servers" and _is_served(path):
                found.kept.append((path, "belongs to a server that runs"))
            else:
                found.items.append(_item(path, "cache", _AFTERWARDS[purpose], None))


def _is_served(note: Path) -> bool:
    from ...serve.known_servers import belongs_to_a_server

    return belongs_to_a_server(note)


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
