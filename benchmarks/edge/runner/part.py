"""One part of a run, in a process of its own: timing, accuracy, or one start of a new process.

``python -m retort_edge.part BUNDLE PART.json OUT``: the part is described by the run, and written to OUT with its raw
numbers beside it. A process of its own has its own threads and processors, and takes nobody along if it fails.
"""

from __future__ import annotations

import gc
import json
import os
import random
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from . import write

STARTED = time.perf_counter()
Found = tuple[dict[str, Any], dict[str, Any]]
"""What a part found, and its raw numbers by name."""


class Work(NamedTuple):
    """A part, the folder of the bundle, and its manifest."""

    folder: Path
    manifest: dict[str, Any]
    part: dict[str, Any]

    @property
    def candidate(self) -> dict[str, Any]:
        """The candidate that the part is about."""
        return next(one for one in self.manifest["candidates"] if one["name"] == self.part["candidate"])

    def opened(self) -> tuple[Any, Any]:
        """Its model and its samples."""
        from .models import Model, Samples

        one = self.candidate
        return Model(self.folder, one, self.part["threads"]), Samples(self.folder, self.manifest, one)


def main(arguments: list[str]) -> int:
    """Do one part; the exit code is 1 if it failed, and the error stands in its file."""
    folder, described, out = (Path(argument) for argument in arguments)
    part = json.loads(described.read_text())
    manifest = json.loads((folder / "edge.json").read_text())
    if part["cpus"] and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, part["cpus"])
    random.seed(part["seed"])
    code, raw = 0, out.with_suffix(".npz")
    try:
        kinds = {"accuracy": _accuracy, "cold": _cold, "energy": _energy, "idle": _idle}
        found, arrays = kinds.get(part["kind"], _latency)(Work(folder, manifest, part))
        if arrays:  # first the numbers, and then what says that they are there
            import numpy as np

            with raw.with_suffix(".part").open("wb") as file:
                np.savez_compressed(file, **arrays)
            os.replace(raw.with_suffix(".part"), raw)
    except MemoryError:
        code, found = 1, {"error": "the device has too little memory for this part"}
    except Exception as error:  # whatever the runtime raises belongs into the result
        code, told = 1, f"{type(error).__name__}: {error}"
        found = {"error": told[:2000], "traceback": traceback.format_exc()[-4000:]}
    write(out, {**part, **found})
    return code


def _latency(work: Work) -> Found:
    from .rounds_of_blocks import timed

    gc.disable()
    return timed(*work)


def _accuracy(work: Work) -> Found:
    """The outputs of one candidate for all samples; up to the first sample that fails."""
    import numpy as np

    model, samples = work.opened()
    made: dict[str, list[Any]] = {name: [] for name in model.names}
    done, error = 0, ""
    while done < samples.rows and not error:
        for count in work.part["batches"]:
            try:
                outputs = model.run(samples.feeds(model.axes, np.arange(done, done + count)))
                error = ""
                break
            except Exception as failure:  # the sample of the batch at which it fails is looked for
                error = f"sample {done}: {str(failure)[:500]}"
        if error:
            break
        kept = min(count, samples.rows - done)
        for name, values in zip(model.names, outputs):
            axis = work.candidate["output_axis"].get(name)
            if axis is not None:
                made[name].append(np.moveaxis(np.asarray(values), axis, 0)[:kept])
        done += kept
    joined = {f"output:{name}": np.concatenate(parts) for name, parts in made.items() if parts}
    return {"rows": done, "error": error}, joined


def _cold(work: Work) -> Found:
    """This process from its start to a steady inference: seconds of each step, and its memory."""
    candidate, part = work.candidate, work.part
    if part["drop_cache"]:
        for path in (work.folder / candidate["file"]).parent.iterdir():
            _forget(path)
    before = time.perf_counter()
    from .models import Model, Samples, imported

    imported(candidate["module"])
    imported_at, baseline = time.perf_counter(), _memory("VmHWM")
    model = Model(work.folder, candidate, part["threads"])
    loaded = time.perf_counter()
    feeds = Samples(work.folder, work.manifest, candidate).feeds(model.axes, range(part["batch"]))
    calls: list[float] = []
    ready = time.perf_counter()
    while len(calls) < part["calls"] and time.perf_counter() - ready < part["seconds"]:
        begun = time.perf_counter()
        model.run(feeds)
        calls.append(time.perf_counter() - begun)
    steps = {"start_s": before - STARTED, "import_s": imported_at - before, "load_s": loaded - imported_at}
    memory = {"peak_bytes": _memory("VmHWM"), "baseline_bytes": baseline}
    return {**steps, "first_s": calls[0], "calls_s": calls, **memory}, {}


def _energy(work: Work) -> Found:
    """One candidate again and again for some seconds, on real samples; what the counters say at both ends."""
    (model, samples), size = work.opened(), work.part["batch"]
    feeds = [samples.feeds(model.axes, range(start, start + size)) for start in range(0, 8 * size, size)]
    for one in feeds:  # the first calls prepare memory
        model.run(one)
    return {"rows": size, **_spanned(work, lambda calls: model.run(feeds[calls % len(feeds)]))}, {}


def _idle(work: Work) -> Found:
    """Nothing for some seconds."""
    return _spanned(work, lambda _: time.sleep(work.part["seconds"])), {}


def _spanned(work: Work, step: Callable[[int], object]) -> dict[str, Any]:
    """Steps for the seconds of a part, with both ends by both clocks, and the energy counters there."""
    from .sensors import Sensors

    sensors, calls = Sensors(), 0

    def end() -> dict[str, Any]:
        return {"t": time.monotonic(), "unix_s": time.time(), "microjoules": sensors.microjoules()}

    begun = end()
    while time.monotonic() < begun["t"] + work.part["seconds"]:
        step(calls)
        calls += 1
    return {"calls": calls, "begun": begun, "ended": end()}


def _forget(path: Path) -> None:
    """Drop a file from the page cache, which the owner of clean pages may do."""
    if hasattr(os, "posix_fadvise"):
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _memory(field: str) -> int | None:
    """A field of this process's status in bytes; ``VmHWM`` is the largest resident memory so far."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:")), None)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
