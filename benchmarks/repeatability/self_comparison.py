"""Comparisons of one file with itself: what they find is the noise of the machine.

Each comparison is that of ``retort bench``. Rows are appended to a file in the cache folder, so that an interrupted
measurement goes on where it stopped.
"""

from __future__ import annotations

import datetime
import errno
import json
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from statistics import median
from typing import Any

from ...core.artifact import Artifact, sha256_file, stable_hash
from ...core.console import SILENT, Console
from ...core.counts import counted
from ...core.errors import MachineError
from ...core.options.stage_options import BenchOptions
from ...core.system.atomic_files import storage_errors
from ...core.system.cache import cache_folder
from ..machine import fingerprint, identity
from ..sessions import opener
from ..small_networks import random_feeds
from .noise_floor import NoiseFloor, key_of, runtime_of

NAMES = ("file", "itself")
FEWEST = 8
"""Number of valid comparisons without which there is no floor."""


def measure_floor(
    model: Artifact,
    options: BenchOptions,
    comparisons: int,
    console: Console = SILENT,
    batch: int = 1,
    given_up: Callable[[list[dict[str, Any]]], str] = lambda rows: "",
) -> NoiseFloor:
    """Compare a model with itself, and give the largest difference.

    Args:
        options: threads, provider, and seconds of one comparison.
        comparisons: number of them.
        batch: rows per call.
        given_up: why the measurement ends after so many comparisons; empty if it goes on.

    Raises:
        MachineError: fewer than half of the comparisons, or fewer than eight, are valid, or it was given up.
        StorageError: the cache folder cannot be written.
    """
    facts = fingerprint()
    runtime = runtime_of(model.main, options.provider, facts)
    asked = [sha256_file(model.main), batch, options.model_dump(mode="json")]
    key = key_of(identity(facts), runtime, options.threads)
    path = cache_folder("noise") / f"{key}-{stable_hash(asked)[:8]}.jsonl"
    rows = _unfinished(path)[:comparisons]
    if rows:
        console.say(f"going on after {len(rows)} of {comparisons} comparisons")
    with console.progress("noise", comparisons) as bar:
        bar.skip(len(rows))
        for row in compared(model, options, range(len(rows), comparisons), batch):
            rows.append(row)
            append_row(path, row)
            bar.advance()
            if why := given_up(rows):
                path.unlink(missing_ok=True)
                raise MachineError(why, "measure it with more time: `retort bench noise`")
    path.unlink(missing_ok=True)
    return _floor(rows, options, batch, identity(facts), runtime, model.main.name)


def compared(model: Artifact, options: BenchOptions, seeds: range, batch: int) -> Iterator[dict[str, Any]]:
    """Comparisons of a model with itself, one row each: the ratio, its interval, the verdict, and the rounds' times."""
    from ..timing.latency import compare_sessions

    openers = {name: opener(model, options) for name in NAMES}
    session = openers[NAMES[0]]()
    feeds = random_feeds(session.signature, batch)
    session.close()
    for seed in seeds:
        asked, began = options.model_copy(update={"seed": seed, "batch_sizes": (batch,)}), time.time()
        found = compare_sessions(openers, feeds, asked)[batch]
        ratio = found.ratio_of(NAMES[1])
        times = {name: found.candidates[name].block_medians_ms for name in NAMES}
        yield {
            "seed": seed,
            "ratio": ratio.value,
            "low": ratio.low,
            "high": ratio.high,
            "tendency": ratio.tendency,
            "noisy": list(ratio.doubts),
            "clock": found.clock,
            "began": round(began, 3),
            "seconds": found.seconds,
            "stopped": found.stopped,
            "turns": list(found.turns),
            "pressure_percent": found.noise.pressure_percent,
            "times_ms": {name: [float(f"{value:.7g}") for value in values] for name, values in times.items()},
        }


def append_row(path: Path, row: Mapping[str, Any]) -> None:
    """Append a row to a file of rows.

    Raises:
        StorageError: it cannot be written.
    """
    with storage_errors(str(path), errno.EEXIST, errno.ENOTDIR):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a") as file:
            file.write(json.dumps(row) + "\n")


def rows_in(path: Path) -> list[dict[str, Any]]:
    """The whole rows of a file; none if there is no file. A row that was cut off is left out."""
    if not path.is_file():
        return []
    found = []
    for line in path.read_text().splitlines():
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found


def _unfinished(path: Path) -> list[dict[str, Any]]:
    return [row for row in rows_in(path) if isinstance(row, dict) and "ratio" in row]


def _floor(
    rows: list[dict[str, Any]], options: BenchOptions, batch: int, machine: Mapping[str, Any], runtime: str, model: str
) -> NoiseFloor:
    valid = [row for row in rows if not row["noisy"] and row["low"] is not None]
    pressures = [row["pressure_percent"] for row in rows if row["pressure_percent"] is not None]
    if len(valid) < max(FEWEST, len(rows) / 2):
        reasons = sorted({reason for row in rows for reason in row["noisy"]})
        raise MachineError(
            f"of {counted(rows, 'comparison')} of {model} with itself, only {len(valid)} can be used: "
            f"{'; '.join(reasons[:2])}",
            "measure on a machine that is less busy, with one thread, or for more seconds per comparison",
        )
    return NoiseFloor(
        ratios=tuple(row["ratio"] for row in valid),
        alarms=sum(row["tendency"] != "cannot tell" for row in valid),
        noisy=len(rows) - len(valid),
        machine=machine,
        runtime=runtime,
        threads=options.threads,
        model=model,
        batch=batch,
        budget_s=options.budget_s,
        clock=valid[-1]["clock"],
        pressure_percent=median(pressures) if pressures else None,
        measured=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        seconds=median(row["seconds"] for row in valid),
        openings=int(median(len(row["turns"]) for row in valid)),
    )
