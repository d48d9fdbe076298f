"""The folder of a script's artifacts: given by the user, or temporary and deleted when it is no longer used."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import warnings
import weakref
from pathlib import Path
from typing import Any

from ...core.artifact import Artifact
from ...core.console import Console
from ...core.context import Place
from ...core.errors import UserError
from ...core.system.owned_folders import scratch_of
from ..reuse import find_finished


class Workspace:
    """A folder of artifacts, which are named after their stage and key; artifacts with equal keys are reused.

    Args:
        folder: a permanent folder; by default a temporary folder, which is deleted with the last object that uses it.
    """

    def __init__(self, folder: str | Path | None = None) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="retort-") if folder is None else folder).resolve()
        if folder is None:
            weakref.finalize(self, _remove, self.folder, os.getpid())

    def place(self, stage: str, key: str, parents: tuple[str, ...] = ()) -> Place:
        """The place of the artifact of a stage with this key."""
        return Place(self.folder / f"{stage}-{key[:12]}", key, parents)

    def scratch(self, place: Place) -> Path:
        """The folder for checkpoints of the artifact at ``place``."""
        return scratch_of(place.directory)

    def __deepcopy__(self, memo: dict[int, Any]) -> Workspace:
        return self

    def __reduce__(self) -> Any:
        raise UserError(
            "live objects cannot be pickled", "save them with `.save(path)`, and open them with `retort.load`"
        )


def _remove(folder: Path, process: int) -> None:
    if os.getpid() == process:  # workers of a DataLoader have copies of objects that the parent process still needs
        shutil.rmtree(folder, ignore_errors=True)


def finished(place: Place, console: Console) -> Artifact | None:
    """The artifact of equal inputs at a place or, if a recipe made it, elsewhere in the same folder."""
    return find_finished(place, place.directory.parent, console=console)


def same_or_new(folder: str | Path | None, known: Workspace | None) -> Workspace:
    """The given folder; else the folder of the model; else a temporary folder."""
    return known if folder is None and known is not None else Workspace(folder)


def _callers_level() -> int:
    """Number of stack frames between the console and the line of the user's script."""
    root, level, frame = str(Path(__file__).resolve().parents[2]), 2, sys._getframe(2)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(root):
        frame, level = frame.f_back, level + 1
    return level


class ScriptConsole(Console):
    """The console of a call from a script; warnings of a stage are stored, and shown even without progress.

    Args:
        shown: whether stages and progress bars are written to stderr.
    """

    def __init__(self, shown: bool = False) -> None:
        super().__init__("text" if shown else "silent")
        self.notes: list[str] = []

    def warn(self, text: str) -> None:
        """Store a warning; without progress it becomes a Python warning."""
        self.notes.append(text)
        if self.mode == "text":
            super().warn(text)
        else:
            warnings.warn(text, stacklevel=_callers_level())
