"""Cost of pruning itself: CPU seconds of every phase and peak memory, by size and by depth of the model.

    python -m retort.benchmarks.suites.pruning_cost

Each model is captured in one process and pruned to half of its multiply-accumulates, with all proofs, in another. CPU
seconds are measured instead of wall-clock time, so that other load has little influence. Memory is the peak of the
resident set of the pruning process, minus its memory before it opened the model.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...core.artifact import load_artifact
from ...core.console import Console
from ...core.context import Context, Place
from ...core.data.data_sources import load_data
from ...core.data.splits import ArraySplit
from ...core.facts.program_facts import ProgramFacts
from ...core.facts.prune_facts import PruneFacts
from ...core.options.stage_options import CaptureOptions, DataSpec, ModelSpec, PruneOptions
from ...pipeline import stages
from ..footprint import forget_peak, peak_bytes, resident_bytes

ZOO = "retort.examples.transformers_zoo"
DEPTHS = (6, 12, 24, 48, 96)
MODELS: dict[str, dict[str, Any]] = {
    "resnet50": {"name": "resnet50"},
    "bert_base": {"name": "bert_base"},
    **{f"bert_{depth}_layers": {"name": "bert_deep", "layers": depth} for depth in DEPTHS},
}


def capture(name: str, folder: Path) -> None:
    """Capture one model, in this process."""
    stages.capture(
        CaptureOptions(),
        ModelSpec(source=f"{ZOO}:full_size", args=MODELS[name]),
        Place(folder / "captured"),
        _context(name, folder),
    )


def measure(name: str, folder: Path) -> dict[str, Any]:
    """Prune one captured model, in this process."""
    context, captured = _context(name, folder), load_artifact(folder / "captured")
    before = resident_bytes()
    forget_peak()
    pruned = stages.prune(PruneOptions(macs=0.5, recover=None), captured, Place(folder / "pruned"), context)
    peak, facts = peak_bytes(), pruned.facts_as(PruneFacts)
    return {
        "model": name,
        "parameters": captured.facts_as(ProgramFacts).parameters,
        "model_bytes": captured.main.stat().st_size,
        **{f"{phase}_cpu_s": seconds for phase, seconds in facts.timing.cpu_seconds.items()},
        "peak_bytes": max(0, peak - before),
        "proof_error": facts.proof_relative_error,
    }


def _context(name: str, folder: Path) -> Context:
    data = load_data(DataSpec(source=f"{ZOO}:full_samples", args=MODELS[name]), Path.cwd())
    assert isinstance(data.train, ArraySplit)
    return Context(data, scratch=folder / "scratch")


def run(names: Sequence[str], console: Console) -> list[dict[str, Any]]:
    """Measure models one after the other, each in a new process."""
    rows = []
    for name in names:
        console.say(f"pruning {name}")
        with tempfile.TemporaryDirectory() as folder:
            for job in ("capture", "measure"):
                command = [sys.executable, "-m", "retort.benchmarks.suites.pruning_cost", name, "--job", job, folder]
                done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        rows.append(json.loads(done.stdout.splitlines()[-1]))
    return rows


def table(rows: Sequence[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Columns and one line per model."""
    phases = ["couple", "choose", "cut", "prove", "prove_file"]
    columns = ["model", "parameters", *[f"{phase.replace('_', ' ')} CPU s" for phase in phases], "peak / model"]
    lines = [
        [
            row["model"],
            f"{row['parameters'] / 1e6:.1f} M",
            *[f"{row[f'{phase}_cpu_s']:.2f}" for phase in phases],
            f"{row['peak_bytes'] / row['model_bytes']:.1f}",
        ]
        for row in rows
    ]
    return columns, lines


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the suite and print its table, then one JSON line."""
    parser = argparse.ArgumentParser(prog="retort.benchmarks.suites.pruning_cost")
    parser.add_argument("models", nargs="*", default=list(MODELS), help="names of models; all by default")
    parser.add_argument("--job", nargs=2, metavar=("JOB", "FOLDER"), help="run `capture` or `measure` in this process")
    given = parser.parse_args(arguments)
    console = Console("json" if given.job else "text")
    if given.job:
        job, folder = given.job
        if job == "capture":
            capture(given.models[0], Path(folder))
        else:
            console.result(measure(given.models[0], Path(folder)))
        return
    rows = run(given.models, console)
    console.table("Cost of pruning", *table(rows))
    console.result({}, json.dumps(rows))


if __name__ == "__main__":
    main()
