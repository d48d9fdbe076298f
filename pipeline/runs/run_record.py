"""The record of a run in its folder: its recipe, how far it came, and which artifacts it used."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from ...core.errors import RetortError
from ...core.faults import first_line
from ...core.system.atomic_files import write_atomically
from ..line import Line

RECORD = ".run.json"
State = Literal["running", "finished", "stopped"]


@dataclass(frozen=True)
class RunRecord:
    """The latest run in a folder.

    Attributes:
        recipe: absolute path of the recipe.
        stages: names of all stages of the recipe, in order.
        state: a killed run leaves ``running``.
        reason: why it stopped; empty if it did not.
        started: when it began, in seconds since 1970.
        seconds: its duration; None while it runs.
        folders: names of the folders of all artifacts that it reused or made.
    """

    recipe: str
    stages: tuple[str, ...]
    state: State = "running"
    reason: str = ""
    started: float = 0.0
    seconds: float | None = None
    folders: tuple[str, ...] = ()


def read_record(folder: Path) -> RunRecord | None:
    """The record in the folder of a run; None if there is none that can be read."""
    try:
        raw: Any = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        known = {name: raw[name] for name in RunRecord.__dataclass_fields__ if name in raw}
        return RunRecord(**{**known, "stages": tuple(raw["stages"]), "folders": tuple(raw.get("folders", ()))})
    except (OSError, ValueError, KeyError, TypeError):
        return None


@contextmanager
def recorded(line: Line, recipe: Path, until: str | None) -> Iterator[None]:
    """Write the record of a run before and after this context."""
    names = tuple(name for name, _ in line.plan)
    record = RunRecord(str(recipe.resolve()), names, started=time.time())
    _write(line.folder, record)
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
        folders = tuple(sorted(path.name for path in line.seen))
        done = replace(record, state=state, reason=reason, seconds=time.time() - record.started, folders=folders)
        with suppress(RetortError, OSError):  # a full disk is reported by the stage that met it
            _write(line.folder, done)


def _write(folder: Path, record: RunRecord) -> None:
    write_atomically(folder / RECORD, json.dumps(asdict(record), indent=1).encode())
