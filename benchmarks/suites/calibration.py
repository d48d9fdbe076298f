"""Cost of calibration: time relative to min-max and memory above the model, for every method, on a ResNet-18.

    python -m retort.benchmarks.suites.calibration

Each method runs in a separate process. A captured ResNet-18 (random weights) runs on generated images of 3×224×224,
batch by batch, and is quantized without corrections. CPU seconds are measured instead of wall-clock time, so that other
load has little influence. Memory is the peak of the resident set, minus the memory of the process after it opened and
closed the model (its libraries), minus the model's bytes. Prints a table and one JSON line.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...core.artifact import load_artifact
from ...core.console import Console
from ...core.context import Context, Place
from ...core.data.splits import Batch, Splits
from ...core.facts.quantize_facts import QuantizeFacts
from ...core.options.stage_options import CaptureOptions, ModelSpec, QuantizeOptions
from ...core.session import open_session
from ...core.system.memory import give_back
from ...pipeline import stages
from ..footprint import forget_peak, peak_bytes, resident_bytes
from ..machine import describe, fingerprint

METHODS = ("minmax", "moving", "percentile", "mse", "entropy")
SAMPLES, BATCH, SIDE = 512, 8, 224


@dataclass(frozen=True)
class Images:
    """Smooth coloured noise, which is generated when it is read and not stored."""

    count: int

    def __len__(self) -> int:
        return self.count

    def read(self, indices: Sequence[int] | NDArray[np.integer[Any]]) -> Batch:
        """``pixel_values`` as ``float32[N, 3, 224, 224]``, and no targets."""
        made = np.stack([np.random.default_rng(int(i)).standard_normal((3, SIDE // 8, SIDE // 8)) for i in indices])
        return {"pixel_values": made.repeat(8, 2).repeat(8, 3).astype(np.float32)}, None

    def fingerprint(self) -> str:
        """The number of images determines the content."""
        return f"images {self.count}"


def _context(folder: Path) -> Context:
    few = Images(2)
    return Context(Splits(few, few, Images(SAMPLES), few), scratch=folder / "scratch")


def capture(folder: Path) -> None:
    """Capture the model, in this process."""
    spec = ModelSpec(source="retort.examples.transformers_zoo:full_size", args={"name": "resnet18"})
    stages.capture(CaptureOptions(), spec, Place(folder / "captured"), _context(folder))


def measure(method: str, folder: Path) -> dict[str, Any]:
    """Quantize the captured model by one method, in this process."""
    captured = load_artifact(folder / "captured")
    given = {
        "method": method,
        "samples": SAMPLES,
        "batch_size": BATCH,
        "correction": ("none",),
        "smooth": False,
        "timed": False,
    }
    open_session(captured.main).close()  # the libraries that open it do not belong to the cost of calibration
    give_back()
    before, started = resident_bytes(), time.process_time()
    forget_peak()
    made = stages.quantize(QuantizeOptions.model_validate(given), captured, Place(folder / method), _context(folder))
    seconds, peak = time.process_time() - started, peak_bytes()
    size = captured.main.stat().st_size
    return {
        "method": method,
        "cpu_s": seconds,
        "above_model_bytes": peak - before - size,
        "model_bytes": size,
        "integer_macs_percent": made.facts_as(QuantizeFacts).integer_macs_percent,
    }


def run(methods: Sequence[str], console: Console) -> list[dict[str, Any]]:
    """Measure methods one after the other, each in a new process."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for job in ("capture", *methods):
            console.say(job)
            command = [sys.executable, "-m", "retort.benchmarks.suites.calibration", "--job", job, folder]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            rows += [json.loads(done.stdout.splitlines()[-1])] if job != "capture" else []
    return rows


def table(rows: Sequence[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Columns and one line per method."""
    first = next((row["cpu_s"] for row in rows if row["method"] == "minmax"), None)
    lines = [
        [
            row["method"],
            f"{row['cpu_s']:.0f}",
            "" if first is None else f"{row['cpu_s'] / first:.2f}×",
            f"{row['above_model_bytes'] / 1e6:.0f}",
        ]
        for row in rows
    ]
    return ["method", "CPU s", "of min-max", "MB above the model"], lines


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the suite and print its table, then one JSON line."""
    parser = argparse.ArgumentParser(
        prog="retort.benchmarks.suites.calibration", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("methods", nargs="*", default=list(METHODS), help="calibration methods; all by default")
    parser.add_argument("--job", nargs=2, metavar=("JOB", "FOLDER"), help="run `capture` or a method in this process")
    given = parser.parse_args(arguments)
    unknown = sorted(set(given.methods) - set(METHODS))
    if unknown:
        parser.error(f"no such method: {', '.join(unknown)}; there are {', '.join(METHODS)}")
    if given.job:
        job, folder = given.job
        if job == "capture":
            capture(Path(folder))
        else:
            Console("json").result(measure(job, Path(folder)))
        return
    console = Console("text")
    rows = run(given.methods, console)
    console.table(f"{SAMPLES} images through a ResNet-18", *table(rows))
    console.result({}, json.dumps({"machine": describe(fingerprint()), "rows": rows}))


if __name__ == "__main__":
    main()
