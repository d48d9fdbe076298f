"""The subcommands for folders of runs: runs and clean."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from ..core.console import Console
from ..core.counts import counted
from ..core.system.owned_folders import RUNS
from ..core.system.user_paths import require_folder
from . import completion
from .app import Debug, Json, Runs, app, console


@app.command("runs")
def runs_command(runs: Runs = RUNS, json: Json = False, debug: Debug = False) -> None:
    """List what there is: each run with its finished stages, its last measurement, its size, and how to go on.

    Example: `retort runs`
    """
    from ..pipeline.runs.run_folders import runs_in

    screen = console(json)
    _require_folder(runs)
    found = runs_in(runs)
    if screen.mode == "text":
        _print_runs(runs, screen)
    screen.result({"runs": [run.to_dict() for run in found]}, "" if found else f"{runs} contains no runs")


def _require_folder(runs: Path) -> None:
    """Fail if the folder that the user named is none; the usual one need not be there before the first run."""
    if runs != RUNS or os.path.lexists(runs):
        require_folder(runs, "folder of runs", "give the folder that a run wrote to, with --runs")


def _print_runs(runs: Path, screen: Console) -> None:
    from ..pipeline.runs.cleaning import megabytes
    from ..pipeline.runs.run_folders import count_of, remarks, runs_in, title_of

    rows, notes = [], []
    for run in runs_in(runs):
        measured = run.measured
        value = f"{measured.metric} {measured.value:.4g}" if measured and measured.value is not None else ""
        faster = f"{measured.speedup:.3g}× at {measured.batch}" if measured and measured.speedup is not None else ""
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(run.changed))
        model = megabytes(measured.size_bytes) if measured else ""
        state = run.state.partition(":")[0]
        rows.append([title_of(run), state, count_of(run), value, model, faster, megabytes(run.size_bytes), when])
        if note := remarks(run):
            notes.append(f"{title_of(run)}: {note}")
    if rows:
        columns = ["run", "state", "stages", "measured", "model", "speed", "on disk", "changed"]
        screen.table(str(runs), columns, rows, words=True)
    for note in notes:
        screen.result({}, note)


@app.command("clean")
def clean(
    names: Annotated[
        list[str] | None, typer.Argument(help="Names of runs. By default all of them.", autocompletion=completion.runs)
    ] = None,
    runs: Runs = RUNS,
    caches: Annotated[
        bool,
        typer.Option(
            "--caches",
            help="Also delete cached latencies, engines and timings, which are made again, and the notes "
            "of servers that were killed.",
        ),
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Delete without a question.")] = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Show what may be deleted and how much it frees: unfinished work, and artifacts that no recipe uses.

    An artifact is in use if the latest run of a recipe used it, or if a recipe whose run did not end may still use it.
    On a terminal it asks before anything is deleted; elsewhere it deletes only with --yes. Artifacts that were changed
    by hand and files that Retort did not write are kept.

    Example: `retort clean`; `retort clean digits --yes`
    """
    from ..pipeline.runs.cleaning import cleaning, megabytes, remove, summary

    screen = console(json)
    _require_folder(runs)
    found = cleaning(runs, names or (), caches)
    rows = [[str(item.path), item.reason, item.detail, megabytes(item.size_bytes)] for item in found.items]
    if rows:
        screen.table("what may be deleted", ["path", "why", "afterwards", "frees"], rows, words=True)
    for path, reason in found.kept:
        screen.say(f"kept: {path} {reason}")
    asked = yes or (screen.mode == "text" and bool(rows) and _agreed(summary(found)))
    freed = remove(found.items) if asked else 0
    value = {
        "items": [item.to_dict() for item in found.items],
        "kept": [{"path": str(path), "reason": reason} for path, reason in found.kept],
        "bytes": found.size_bytes,
        "freed_bytes": freed,
    }
    if asked:
        left = sum(item.path.exists() for item in found.items)
        text = f"freed {megabytes(freed)}" + (f"; {counted(left, 'path')} could not be deleted" if left else "")
    else:
        text = f"{summary(found)}; {'nothing was deleted: --yes deletes it' if rows else 'nothing was deleted'}"
    screen.result(value, text)


def _agreed(text: str) -> bool:
    """Ask on a terminal; False without one."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        return False
    return typer.confirm(f"{text}. Delete it?")
