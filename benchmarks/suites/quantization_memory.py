"""Memory of quantization: the peak above the start of the process, for networks with wide layers or large samples.

    python -m retort.benchmarks.suites.quantization_memory

Each network (VGG16 at 224, the full CREPE, BERT-base, a 3-D network; random weights) is captured in one process and
quantized in another with all corrections of the defaults and 16 calibration samples. Memory is the peak of the resident
set of that process, minus its memory after it has quantized a small network, which loads the libraries. The goal is at
most three times the model and 1 GB. Prints a table and one JSON line.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...core.artifact import load_artifact
from ...core.console import Console
from ...core.context import Context, Place
from ...core.data.data_sources import load_data
from ...core.facts.quantize_facts import QuantizeFacts
from ...core.options.stage_options import CaptureOptions, DataSpec, ModelSpec, QuantizeOptions
from ...core.system.memory import give_back
from ...pipeline import stages
from ..footprint import forget_peak, peak_bytes, resident_bytes
from ..machine import describe, fingerprint

WIDE, ZOO, SMALL = "retort.examples.wide_nets", "retort.examples.transformers_zoo", "retort.examples.networks"
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "vgg16": (f"{WIDE}:build", {"name": "vgg16"}),
    "crepe": (f"{WIDE}:build", {"name": "crepe"}),
    "volumes": (f"{WIDE}:build", {"name": "volumes"}),
    "bert_base": (f"{ZOO}:full_size", {"name": "bert_base"}),
    "small": (f"{SMALL}:build", {"name": "densenet"}),
}
GOAL_COPIES, GOAL_BYTES = 3, 1_000_000_000


def _context(name: str, folder: Path) -> Context:
    source, arguments = MODELS[name]
    function = "full_samples" if name == "bert_base" else "samples"
    spec = DataSpec(source=f"{source.partition(':')[0]}:{function}", args=arguments)
    return Context(load_data(spec, Path.cwd()), scratch=folder / "scratch")


def capture(name: str, folder: Path) -> None:
    """Capture a network and the small one, in this process."""
    for item in (name, "small"):
        source, arguments = MODELS[item]
        spec = ModelSpec(source=source, args=arguments)
        stages.capture(CaptureOptions(), spec, Place(folder / item), _context(item, folder))


def measure(name: str, folder: Path, memory: str = "", timed: bool = False) -> dict[str, Any]:
    """Quantize the small network and then the network itself, in this process."""
    given = {"timed": timed, **({"memory": memory} if memory else {})}
    options = QuantizeOptions.model_validate(given)
    small = QuantizeOptions(timed=timed)
    stages.quantize(small, load_artifact(folder / "small"), Place(folder / "q-small"), _context("small", folder))
    captured, context = load_artifact(folder / name), _context(name, folder)
    give_back()
    before, started = resident_bytes(), time.process_time()
    forget_peak()
    made = stages.quantize(options, captured, Place(folder / "quantized"), context)
    facts = made.facts_as(QuantizeFacts)
    return {
        "model": name,
        "parameters": facts.parameters,
        "model_bytes": 4 * facts.parameters,
        "peak_bytes": max(0, peak_bytes() - before),
        "goal_bytes": options.memory or GOAL_COPIES * 4 * facts.parameters + GOAL_BYTES,
        "cpu_s": time.process_time() - started,
        "sqnr_db": facts.against_fp32.sqnr_centred_db,
        "corrections": [item.detail for item in facts.correction or ()],
    }


def run(names: Sequence[str], memory: str, timed: bool, console: Console) -> list[dict[str, Any]]:
    """Measure networks one after the other, each in a new process."""
    rows = []
    for name in names:
        console.say(f"quantizing {name}")
        with tempfile.TemporaryDirectory() as folder:
            for job in ("capture", "measure"):
                command = [sys.executable, "-m", "retort.benchmarks.suites.quantization_memory", name]
                command += ["--job", job, folder, "--memory", memory, *(["--timed"] if timed else [])]
                done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        rows.append(json.loads(done.stdout.splitlines()[-1]))
    return rows


def table(rows: Sequence[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Columns and one line per network."""
    lines = [
        [
            row["model"],
            f"{row['model_bytes'] / 1e6:.0f}",
            f"{row['peak_bytes'] / 1e6:.0f}",
            f"{row['goal_bytes'] / 1e6:.0f}",
            "yes" if row["peak_bytes"] <= row["goal_bytes"] else "NO",
            f"{row['cpu_s']:.0f}",
        ]
        for row in rows
    ]
    return ["network", "model MB", "peak MB", "goal MB", "reached", "CPU s"], lines


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the suite and print its table, then one JSON line."""
    parser = argparse.ArgumentParser(
        prog="retort.benchmarks.suites.quantization_memory", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("models", nargs="*", default=[name for name in MODELS if name != "small"], help="networks")
    parser.add_argument("--memory", default="", help="the option `memory` of quantize; by default not given")
    parser.add_argument("--timed", action="store_true", help="time the INT8 model too, as the command line does")
    parser.add_argument("--job", nargs=2, metavar=("JOB", "FOLDER"), help="run `capture` or `measure` in this process")
    given = parser.parse_args(arguments)
    unknown = sorted(set(given.models) - set(MODELS))
    if unknown:
        parser.error(f"no such network: {', '.join(unknown)}; there are {', '.join(MODELS)}")
    if given.job:
        job, folder = given.job
        if job == "capture":
            capture(given.models[0], Path(folder))
        else:
            Console("json").result(measure(given.models[0], Path(folder), given.memory, given.timed))
        return
    console = Console("text")
    rows = run(given.models, given.memory, given.timed, console)
    console.table("Peak memory of quantization", *table(rows))
    console.result({}, json.dumps({"machine": describe(fingerprint()), "rows": rows}))


if __name__ == "__main__":
    main()
