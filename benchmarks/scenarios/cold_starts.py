"""Cold starts of models in four numbers over new processes in random order, with the page cache warm or dropped."""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import random
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ...core import errors
from ...core.artifact import Artifact
from ...core.console import Console
from ...core.counts import counted, listed
from ...core.errors import ArtifactError, MachineError, UserError
from ...core.formats.onnx_side_files import side_files
from ...core.options.load_options import ColdOptions
from ...core.options.option_types import Provider
from ..sessions import runtime_name
from ..spreads import Spread
from ..timing.statistics import median_interval
from . import cold_process
from .load_candidates import KINDS_RUN
from .load_result import ColdEntry, LoadEntry, LoadResult, StartEntry
from .measure_load import Began, load_result

LIMIT_S = 300.0
LEAST = 2
"""Starts of each model after which an interrupted measurement is kept."""
STEPS = ("import_ms", "load_ms", "first_ms", "steady_ms")


def measure_cold(models: Mapping[str, tuple[Artifact, Provider]], options: ColdOptions, console: Console) -> LoadResult:
    """Start every model in new processes.

    Args:
        models: by name, with the provider of an ONNX file; their inputs are zeros.

    Raises:
        ArtifactError: a file is damaged.
        MachineError: a runtime is missing, or a process ended unexpectedly.
    """
    began, states = Began(), ("warm", "dropped") if options.page_cache == "both" else (options.page_cache,)
    if "dropped" in states and not hasattr(os, "posix_fadvise"):
        raise MachineError("this system cannot drop a file from the page cache", "use --page-cache warm")
    found: dict[str, list[StartEntry]] = {name: [] for name in models}
    interrupted = False
    order = random.Random(options.seed)
    with console.progress("starts", options.starts * len(states) * len(models)) as bar:
        for number in range(options.starts):
            turn = [(name, state) for name in models for state in states]
            order.shuffle(turn)
            try:
                made = [(name, _started(*models[name], state, options)) for name, state in turn]
            except KeyboardInterrupt:
                if number < LEAST:
                    raise
                interrupted = True
                break
            for name, start in made:
                found[name].append(start)
            bar.advance(len(turn))
    entries = [_entry(name, *models[name], found[name], states, options) for name in models]
    title = f"{counted(len(entries[0].starts) // len(states), 'start')} of {listed(list(models))}"
    result = load_result("cold", title, entries, None, options, began, _notes(entries, states))
    return result.model_copy(update={"interrupted": interrupted})


def _started(artifact: Artifact, provider: Provider, state: str, options: ColdOptions) -> StartEntry:
    """One start in a new process.

    Raises:
        RetortError: what the process said.
        MachineError: it ended unexpectedly, or took too long.
    """
    model = artifact.main.resolve()
    files = files_of(artifact)
    for path in files:
        drop_pages(path) if state == "dropped" else path.read_bytes()
    cached = all_cached_percent(files)
    given = {"model": str(model), "provider": provider, "threads": options.threads, "batch": options.batch}
    given |= {"calls": options.calls, "began_ns": time.monotonic_ns()}
    command = [sys.executable, "-m", cold_process.__name__, json.dumps(given)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise MachineError(f"{model.name} did not start within {LIMIT_S:.0f} s", "try fewer --calls") from error
    lines = done.stdout.strip().splitlines()
    if not lines:
        last = done.stderr.strip().splitlines()[-1:] or [f"exit status {done.returncode}"]
        raise MachineError(f"the process that starts {model.name} ended unexpectedly: {last[0]}", "free some memory")
    told = json.loads(lines[-1])
    if "error" in told:
        raise getattr(errors, told["error"]["code"])(told["error"]["message"], told["error"]["remedy"])
    return StartEntry(page_cache="dropped" if state == "dropped" else "warm", cached_percent=cached, **told)


def files_of(artifact: Artifact) -> list[Path]:
    """All files of a model: those of its folder, or the file with the files from which it reads its weights."""
    model = artifact.main.resolve()
    if artifact.path.is_dir():
        return [path for path in sorted(model.parent.iterdir()) if path.is_file()]
    try:
        named = side_files(model.read_bytes()) if model.suffix == ".onnx" else set[str]()
    except ArtifactError:  # the new process tells what is wrong with the file
        return [model]
    return [model, *(path for name in sorted(named) if (path := model.parent / name).is_file())]


def all_cached_percent(paths: Sequence[Path]) -> float | None:
    """Share of the pages of several files that are in the page cache, in percent; None if the system does not tell."""
    known = [(path.stat().st_size, share) for path in paths if (share := cached_percent(path)) is not None]
    total = sum(size for size, _ in known)
    return sum(size * share for size, share in known) / total if total else None


def drop_pages(path: Path) -> None:
    """Drop a file from the page cache, which the owner of clean pages may do."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def cached_percent(path: Path) -> float | None:
    """Share of a file's pages that are in the page cache, in percent; None if the system does not tell."""
    size = path.stat().st_size
    if not size:
        return None
    try:
        ask = ctypes.CDLL(None, use_errno=True).mincore
        with path.open("rb") as file, mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ) as mapped:
            view = np.frombuffer(mapped, np.uint8)
            pages = np.zeros(-(-size // mmap.PAGESIZE), np.uint8)
            address = ctypes.c_void_p(view.ctypes.data)
            failed = ask(address, ctypes.c_size_t(size), ctypes.c_void_p(pages.ctypes.data))
            del view  # a mapping with a view cannot be closed
    except (AttributeError, OSError, TypeError):
        return None
    return None if failed else 100 * float(np.mean(pages & 1))


def _entry(
    name: str, artifact: Artifact, provider: Provider, starts: Sequence[StartEntry], states: Sequence[str],
    options: ColdOptions,
) -> LoadEntry:  # fmt: skip
    file = artifact.manifest.files[artifact.main.name]
    cold = []
    for state in states:
        mine = [one for one in starts if one.page_cache == state]
        spreads = {
            step: Spread.of(median_interval(np.array([getattr(one, step) for one in mine]), options.confidence))
            for step in STEPS
        }
        cold.append(ColdEntry(page_cache="dropped" if state == "dropped" else "warm", **spreads))
    return LoadEntry(
        name=name,
        where=str(artifact.main),
        kind=KINDS_RUN[artifact.kind],
        runtime=runtime_name(artifact.main, provider),
        sha256=file.sha256,
        size_bytes=file.size_bytes,
        threads=options.threads,
        per_query=options.batch,
        cold=tuple(cold),
        starts=tuple(starts),
    )


def _notes(entries: Sequence[LoadEntry], states: Sequence[str]) -> list[str]:
    told = ["The libraries of the runtime were in the page cache at every start; only the model's files were dropped."]
    dropped = [one for entry in entries for one in entry.starts if one.page_cache == "dropped"]
    kept = [one for one in dropped if one.cached_percent is None or one.cached_percent > 1]
    if kept:
        told.append(
            f"the kernel kept the files in the page cache at {counted(kept, 'start')} of {len(dropped)}, although it "
            "was asked to drop them"
        )
    return told if "dropped" in states else ["The model's files and the runtime were in the page cache at every start."]


def require_models(given: Sequence[str]) -> None:
    """Fail for an address, which has no process to start.

    Raises:
        UserError: an endpoint was given.
    """
    for text in given:
        if "://" in text or text.startswith("unix:"):
            raise UserError(f"{text} is an endpoint, which is not started here", "give model files")
