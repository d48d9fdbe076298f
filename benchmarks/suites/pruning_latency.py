"""Pruning with a latency budget: the requested and the measured latency on several kinds of networks.

    python -m retort.benchmarks.suites.pruning_latency

Each network (with random weights, because only time matters) is cut to a share of its latency at a batch size, with one
thread, in ONNX Runtime. The finished file and the dense file are timed in interleaved blocks. Prints a table and one
JSON line.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...core.console import Console
from ...core.context import Context, Place
from ...core.data.data_sources import load_data
from ...core.errors import RetortError
from ...core.facts.program_facts import ProgramFacts
from ...core.facts.prune_facts import PruneFacts
from ...core.options.stage_options import CaptureOptions, DataSpec, ModelSpec, PruneOptions
from ...pipeline import stages
from ..machine import describe, fingerprint

_NETS, _ZOO = "retort.examples.pruning_nets", "retort.examples.transformers_zoo"
CASES: dict[str, tuple[str, str, int, float]] = {
    "residual_b32": ("residual", "digits", 32, 0.5),
    "depthwise_b32": ("depthwise", "digits", 32, 0.6),
    "vision_b1": ("vision", "digits", 1, 0.7),
    "vision_b32": ("vision", "digits", 32, 0.5),
    "recurrent_b1": ("recurrent", f"{_NETS}:digit_rows", 1, 0.6),
    "recurrent_b32": ("recurrent", f"{_NETS}:digit_rows", 32, 0.5),
    "bert_b32": ("bert", f"{_NETS}:sentences", 32, 0.5),
    "resnet18_b1": ("resnet18", "", 1, 0.5),
}
"""Network, data, batch size and the requested share of its latency."""


def measure(name: str, console: Console) -> dict[str, Any]:
    """Measure one case."""
    net, source, batch, share = CASES[name]
    sized = {"name": net}
    spec = ModelSpec(source=f"{_NETS}:{net}") if source else ModelSpec(source=f"{_ZOO}:full_size", args=sized)
    given = DataSpec(source=source) if source else DataSpec(source=f"{_ZOO}:full_samples", args=sized)
    row: dict[str, Any] = {"net": net, "batch": batch, "asked_share": share}
    with tempfile.TemporaryDirectory() as folder:
        context = Context(load_data(given, Path.cwd()), console=console, scratch=Path(folder) / "scratch")
        captured = stages.capture(CaptureOptions(), spec, Place(Path(folder) / "captured"), context)
        options = PruneOptions(latency=share, batch=batch, recover=None)
        started = time.perf_counter()
        try:
            pruned = stages.prune(options, captured, Place(Path(folder) / "pruned"), context)
        except RetortError as error:
            return row | {"error": error.message, "seconds": time.perf_counter() - started}
        facts, dense = pruned.facts_as(PruneFacts), captured.facts_as(ProgramFacts)
    assert facts.latency is not None
    return row | {
        "dense_ms": facts.latency.dense_ms,
        "asked_ms": facts.latency.asked_ms,
        "got_ms": facts.latency.got_ms,
        "got_low_ms": facts.latency.got_low_ms,
        "got_high_ms": facts.latency.got_high_ms,
        "verdict": facts.latency.verdict,
        "macs_share": facts.macs / dense.macs,
        "tried": len(facts.latency.tried),
        "seconds": time.perf_counter() - started,
    }


COLUMNS = ("net", "batch", "dense ms", "asked ms", "got ms", "off by", "MACs left", "timed", "seconds", "verdict")


def table(rows: Sequence[dict[str, Any]]) -> list[list[str]]:
    """The rows of the printed table."""
    lines = []
    for row in rows:
        start = [row["net"], str(row["batch"])]
        if "error" in row:
            lines.append([*start, "", f"{row['asked_share']:.2f}×", *[""] * 4, f"{row['seconds']:.0f}", row["error"]])
            continue
        got = f"{row['got_ms']:.3g} [{row['got_low_ms']:.3g}, {row['got_high_ms']:.3g}]"
        off = f"{row['got_ms'] / row['asked_ms'] - 1:+.1%}"
        numbers = [f"{row['dense_ms']:.3g}", f"{row['asked_ms']:.3g}", got, off, f"{row['macs_share']:.0%}"]
        lines.append([*start, *numbers, str(row["tried"]), f"{row['seconds']:.0f}", row["verdict"]])
    return lines


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the suite."""
    parser = argparse.ArgumentParser(
        prog="retort.benchmarks.suites.pruning_latency", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("cases", nargs="*", default=list(CASES), help="cases; all by default")
    given = parser.parse_args(arguments)
    unknown = sorted(set(given.cases) - set(CASES))
    if unknown:
        parser.error(f"no such case: {', '.join(unknown)}; there are {', '.join(CASES)}")
    console = Console("text")
    rows = []
    for name in given.cases:
        console.stage("suite", name)
        rows.append(measure(name, console))
        console.say(json.dumps(rows[-1]))
    console.table("requested and measured latency", COLUMNS, table(rows))
    console.result({}, json.dumps({"machine": describe(fingerprint()), "rows": rows}))


if __name__ == "__main__":
    main()
