"""What pruning itself costs: CPU seconds of every phase and peak memory, by size and by depth of the model.

    python -m retort.benchmarks.suites.pruning_cost

Each model runs in a process of its own: captured, then pruned to half of its multiply-accumulates with all proofs. CPU
seconds and not wall time, so that a busy machine changes little. Memory is the peak of the resident set while the stage
runs, above what the process held before it.
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

from ... import stages
from ...core.console import Console
from ...core.data import ArraySplit
from ...core.options import DataSpec, ModelSpec, PruneOptions
from ...core.sources import load_data

ZOO = "retort.examples.transformers_zoo"
DEPTHS = (6, 12, 24, 48, 96)
MODELS: dict[str, dict[str, Any]] = {
    "resnet50": {"name": "resnet50"},
    "bert_base": {"name": "bert_base"},
    **{f"bert_{depth}_layers": {"name": "bert_deep", "layers": depth} for depth in DEPTHS},
}


def measure(name: str) -> dict[str, Any]:
    """One model, in this process."""
    data = load_data(DataSpec(source=f"{ZOO}:full_samples", args=MODELS[name]), Path.cwd())
    assert isinstance(data.train, ArraySplit)
    with tempfile.TemporaryDirectory() as folder:
        context = stages.Context(data, scratch=Path(folder) / "scratch")
        source = ModelSpec(source=f"{ZOO}:full_size", args=MODELS[name])
        captured = stages.capture(source, Path(folder) / "captured", context)
        before = _resident("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")
        options = PruneOptions(macs=0.5, recover=None)
        pruned = stages.prune(options, captured, Path(folder) / "pruned", context)
        peak = _resident("VmHWM")
        size = captured.main.stat().st_size
    phases = pruned.facts["timing"]["cpu_seconds"]
    proof = pruned.facts["proof_relative_error"]
    return {
        "model": name,
        "parameters": captured.facts["parameters"],
        "model_bytes": size,
        **{f"{phase}_cpu_s": seconds for phase, seconds in phases.items()},
        "peak_bytes": max(0, peak - before),
        "proof_error": proof,
    }


def _resident(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:"))


def run(names: Sequence[str], console: Console) -> list[dict[str, Any]]:
    """Measure models one after the other, each in a fresh process."""
    rows = []
    for name in names:
        console.say(f"pruning {name}")
        command = [sys.executable, "-m", "retort.benchmarks.suites.pruning_cost", "--here", name]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
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
    parser.add_argument("--here", metavar="MODEL", help="measure one model in this process and print its JSON")
    given = parser.parse_args(arguments)
    console = Console("json" if given.here else "text")
    if given.here:
        console.result(measure(given.here))
        return
    rows = run(given.models, console)
    console.table("Cost of pruning", *table(rows))
    console.result({}, json.dumps(rows))


if __name__ == "__main__":
    main()
