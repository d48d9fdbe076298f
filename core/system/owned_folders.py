"""Folders that Retort may replace or delete: its own artifacts, complete and unchanged, with nothing else in them.

Everything else stays as it is: files of a user, links, artifacts that were changed by hand, and folders with a file
that no manifest lists. A folder that is replaced is first moved away, so that one of the two is always complete.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ..counts import with_article
from ..errors import StorageError, UserError
from .user_paths import PIPE, require_writable

MANIFEST = "manifest.json"
RUNS = Path("runs")
"""Where runs and results of commands are written by default."""
SCRATCH = ".retort-scratch"
"""Name of the folder for unfinished work; beside it a user may have folders such as ``.scratch``."""
BESIDE = ("program", "speed", "placement")
"""Endings of the folders that a stage writes beside its result."""
_SCRATCH = re.compile(r"\..+\.[0-9a-f]{8}\.(tmp|old)")


def sha256_file(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def why_kept(directory: Path) -> str:
    """Why a path may not be replaced, in words that follow it; empty if it may: it is new, empty or an artifact.

    Hashes of all files are verified.
    """
    if directory.is_symlink():
        return "is a link"
    if not directory.exists():
        return ""
    if not directory.is_dir():
        return "is a file"
    if not any(directory.iterdir()):
        return ""
    listed = _listed(directory)
    if listed is None:
        return "is not empty, and no artifact of Retort"
    for path in _inside(directory):
        name = path.relative_to(directory).as_posix()
        if path.is_symlink() or (name != MANIFEST and name not in listed):
            return f"contains {name}, which Retort did not write"
    for name, wanted in listed.items():
        path = directory / name
        if path.is_file() and sha256_file(path) != wanted:
            return f"contains {name}, which was changed after Retort wrote it"
    return ""


def scratch_of(directory: Path, part: str = "") -> Path:
    """The folder for checkpoints and trials of a result, which is deleted when the result is finished.

    Args:
        directory: the folder of the result.
        part: appended to its name, for work of its own.
    """
    return directory.parent / SCRATCH / f"{directory.name}{part}"


def is_scratch(path: Path) -> bool:
    """Whether a path is a folder of an artifact that was not finished, by its name."""
    return _SCRATCH.fullmatch(path.name) is not None and path.is_dir() and not path.is_symlink()


def require_free(directory: Path) -> None:
    """Fail if something else than an artifact is at a place.

    Raises:
        StorageError: it is kept; the message says what it is.
    """
    reason = why_kept(directory)
    if reason:
        raise StorageError(f"{directory} {reason}; it is kept", "move it, or choose another folder")


def settle(scratch: Path, directory: Path) -> None:
    """Move a finished folder to its place; an artifact that was there before is deleted.

    Raises:
        StorageError: something else is there, which is kept; the finished folder is not moved.
    """
    require_free(directory)
    old = directory.parent / f".{directory.name}.{uuid.uuid4().hex[:8]}.old"
    if directory.exists():
        directory.rename(old)
    scratch.rename(directory)
    shutil.rmtree(old, ignore_errors=True)


def remove_artifact(directory: Path) -> None:
    """Delete an artifact; anything else is left where it is."""
    if directory.is_dir() and not why_kept(directory):
        shutil.rmtree(directory, ignore_errors=True)


def claim(directory: Path, kind: str, key: str, inputs: Iterable[Path], force: bool) -> None:
    """Fail before any work if the result of a stage may not be written to a folder.

    Args:
        directory: the folder that the user named.
        kind: the kind of the result.
        key: its key; a finished artifact with this key is reused.
        inputs: files and folders that the stage reads.
        force: replace an artifact with other content.

    Raises:
        UserError: the folder is or contains an input, or is inside one; or it contains anything but an artifact of this
            kind; or that artifact has other content, without ``force``.
        StorageError: it cannot be written.
    """
    if directory.is_dir() or not (directory.exists() or directory.is_symlink()):
        require_writable(directory)
    elsewhere = "choose another folder with --out"
    place, here = directory.resolve(), Path.cwd()
    if place == here or place in here.parents:
        raise UserError(f"{directory} is the current folder, or contains it", elsewhere)
    for given in inputs:
        source = given.resolve()
        folder = source if source.is_dir() else None
        if place == source or place in source.parents or (folder is not None and folder in place.parents):
            relation = "is" if place == source else "contains" if place in source.parents else "is inside"
            raise UserError(f"{directory} {relation} the input {given}", elsewhere)
    reason = why_kept(directory)
    if reason:
        raise UserError(f"{directory} {reason}; nothing was done", elsewhere)
    for sibling in (f"{directory.name}-{part}" for part in BESIDE):
        reason = why_kept(directory.with_name(sibling))
        if reason:
            raise UserError(f"{directory.with_name(sibling)} {reason}, but results are written there, too", elsewhere)
    there = _manifest(directory)
    if there is None or there.get("key") == key:
        return
    if there.get("kind") != kind:
        held, made = with_article(str(there.get("kind"))), with_article(kind)
        raise UserError(f"{directory} contains {held}, and the result is {made}", elsewhere)
    if not force:
        raise UserError(
            f"{directory} contains the result of other inputs or options (stage {there.get('stage')})",
            f"replace it with --force, or {elsewhere}",
        )


def claim_file(path: Path | None, force: bool, mark: str = "") -> None:
    """Fail before any work if a file that the user named may not be written.

    Args:
        path: the file; nothing is checked without one.
        mark: text that is in the first 4 kB of files that Retort wrote there, which may be replaced.

    Raises:
        UserError: it exists and is not such a file, or is a folder or a link.
    """
    if path is None:
        return
    if not (path.exists() or path.is_symlink()):
        require_writable(path)
        return
    if path.is_dir() or path.is_symlink():
        raise UserError(f"{path} is a {'link' if path.is_symlink() else 'folder'}", "give the path of a new file")
    if not path.is_file():
        raise UserError(f"{path} {PIPE}", "give the path of a new file")
    if force or path.stat().st_size == 0:
        return
    with path.open("rb") as stream:
        if mark and mark.encode() in stream.read(4096):
            return
    raise UserError(f"{path} exists, and is kept; nothing was done", "use another name, or --force")


def _manifest(directory: Path) -> dict[str, Any] | None:
    try:
        found: Any = json.loads((directory / MANIFEST).read_text())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _listed(directory: Path) -> dict[str, str] | None:
    """Hashes by name of the files of an artifact; None if the folder has no manifest that can be read."""
    found = _manifest(directory)
    files = found.get("files") if found is not None and {"kind", "key", "stage"} <= set(found) else None
    if not isinstance(files, dict) or not all(isinstance(item, dict) and "sha256" in item for item in files.values()):
        return None
    return {str(name): str(item["sha256"]) for name, item in files.items()}


def _inside(directory: Path) -> Iterator[Path]:
    """All files and links in a folder, and its folders that are empty."""
    for path in directory.rglob("*"):
        if path.is_symlink() or not path.is_dir() or not any(path.iterdir()):
            yield path
