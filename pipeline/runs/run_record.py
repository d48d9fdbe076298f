"""The record of a run in its folder: its recipe, how far it came, and which artifacts it used."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Literal

from ...core.errors import RetortError
from ...core.faults import first_line
from ...core.system.atomic_files import write_atomically
from ..line import Line

EARLIER = ".run.json"
"""Where earlier versions of Retort recorded the latest run in the folder, whatever its recipe."""
_RECORDS = (EARLIER, f".run-{'[0-9a-f]' * 12}.json")
State = Literal["running", "finished", "stopped"]


@dataclass(frozen=True)
class RunRecord:
    """The latest run of a recipe in a folder.

    Attributes:
        recipe: absolute path of the recipe.
        stages: names of all stages of the recipe, in order.
        state: a killed run leaves ``running``.
        reason: why it stopped; empty if it did not.
        started: when it began, in seconds since 1970.
        seconds: its duration; None while it runs.
        folders: names of the folders of all artifacts that it reused or made, so far if it is active or was killed.
        earlier: those of the runs of this recipe before, since one that finished; it may still want them unless it
            finished, too. None in records of earlier versions.
    """

    recipe: str
    stages: tuple[str, ...]
    state: State = "running"
    reason: str = ""
    started: float = 0.0
    seconds: float | None = None
    folders: tuple[str, ...] = ()
    earlier: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Records:
    """The records in the folder of a run.

    Attributes:
        latest: one for each recipe that ran there, the newest first.
        unreadable: files of records that cannot be read.
    """

    latest: tuple[RunRecord, ...] = ()
    unreadable: tuple[Path, ...] = ()


def record_file(folder: Path, recipe: Path | str) -> Path:
    """Where the latest run of a recipe is recorded."""
    return folder / f".run-{hashlib.sha256(str(recipe).encode()).hexdigest()[:12]}.json"


def read_records(folder: Path) -> Records:
    """The records in the folder of a run, also those of earlier versions.

    Raises:
        OSError: the folder cannot be read.
    """
    latest: dict[str, RunRecord] = {}
    unreadable = []
    for path in sorted(path for path in folder.iterdir() if any(fnmatch(path.name, form) for form in _RECORDS)):
        record = _read(path)
        if record is None:
            unreadable.append(path)
        elif record.recipe not in latest or latest[record.recipe].started <= record.started:
            latest[record.recipe] = record
    return Records(tuple(sorted(latest.values(), key=lambda record: -record.started)), tuple(unreadable))


def _read(path: Path) -> RunRecord | None:
    try:
        raw: Any = json.loads(path.read_text(encoding="utf-8"))
        known = {name: raw[name] for name in RunRecord.__dataclass_fields__ if name in raw}
        earlier = raw.get("earlier")
        lists = {"stages": tuple(raw["stages"]), "folders": tuple(raw.get("folders", ()))}
        return RunRecord(**{**known, **lists, "earlier": None if earlier is None else tuple(earlier)})
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


@contextmanager
def recorded(line: Line, recipe: Path, until: str | None) -> Iterator[None]:
    """Write the record of a run before and after this context, and in it after each artifact."""
    names = tuple(name for name, _ in line.plan)
    path = str(recipe.resolve())
    record = RunRecord(path, names, started=time.time(), earlier=_wanted(line.folder, path))
    _write(line.folder, record)

    def _note() -> None:
        with suppress(RetortError, OSError):  # a full disk is reported by the stage that met it
            _write(line.folder, replace(record, folders=_used_in(line)))

    line.noted = _note
    state: State = "stopped"
    reason = "it was killed"
    try:
        yield
        complete = until is None or until == names[-1]
        state, reason = ("finished", "") if complete else ("stopped", f"it was to end after {until}")
    except RetortError as error:
        reason = error.message.splitlines()[0]
        raise
    except BaseException as error:
        reason = "Ctrl-C" if isinstance(error, KeyboardInterrupt) else first_line(error)
        raise
    finally:
        seconds, earlier = time.time() - record.started, () if state == "finished" else record.earlier
        done = replace(record, state=state, reason=reason, seconds=seconds, folders=_used_in(line), earlier=earlier)
        with suppress(RetortError, OSError):  # a full disk is reported by the stage that met it
            _write(line.folder, done)


def _used_in(line: Line) -> tuple[str, ...]:
    """Names of the folders of all artifacts that a run has used so far."""
    return tuple(sorted(path.name for path in line.seen))


def _wanted(folder: Path, recipe: str) -> tuple[str, ...] | None:
    """Names of the artifacts that runs of a recipe used since one that finished; None if a record does not say it."""
    before = next((record for record in read_records(folder).latest if record.recipe == recipe), None)
    if before is None:
        return ()
    if before.state == "finished":
        return before.folders
    return None if before.earlier is None else tuple(sorted({*before.earlier, *before.folders}))


def _write(folder: Path, record: RunRecord) -> None:
    write_atomically(record_file(folder, record.recipe), json.dumps(asdict(record), indent=1).encode())
