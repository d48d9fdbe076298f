"""Which architectures export for TensorRT and build: parity at three batch sizes, lint, engines in FP32 and FP16.

    python -m retort.benchmarks.suites.exporting --out exporting.jsonl

Every model of the coverage suite is captured, exported for TensorRT (checker, lint, ONNX Runtime against PyTorch at
batch sizes 1, 2 and 5, none of which it was captured with but one), and built by the TensorRT that is here, as it is
and in FP16. A line per model is appended to the file; a model that went well and stands there is not run again.
"""

from __future__ import annotations

import argparse
import gc
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from ... import stages
from ...core.artifact import Artifact
from ...core.console import Console
from ...core.errors import RetortError
from ...core.options import DataSpec, EngineOptions, ExportOptions, ModelSpec
from ...core.sources import load_data
from .coverage import models

BATCHES = (1, 2, 5)
_PRECISIONS: tuple[Literal["file", "fp16"], ...] = ("file", "fp16")


def measure(zoo: str, name: str, folder: Path) -> dict[str, Any]:
    """Walk one model through capture, export and engine; what went wrong stands in the row instead of being raised."""
    row: dict[str, Any] = {"model": name}
    step = "capture"
    try:
        data = load_data(DataSpec(source=f"{zoo}:samples", args={"name": name, "count": max(BATCHES)}), Path.cwd())
        context = stages.Context(data, target="tensorrt")
        source = ModelSpec(source=f"{zoo}:build", args={"name": name})
        captured = stages.capture(source, folder / "captured", context)
        step, started = "export", time.perf_counter()
        options = ExportOptions(batch_sizes=BATCHES, golden=max(BATCHES))
        graph = stages.export(options, captured, folder / "graph", context)
        row |= {"export_s": time.perf_counter() - started, **_graph_facts(graph)}
        for precision in _PRECISIONS:
            step = f"engine {precision}"
            engine = EngineOptions(precision=precision, batch_sizes=BATCHES, timing_cache="off")
            made = stages.engine(engine, graph, folder / f"engine-{precision}", context)
            row[precision] = _engine_facts(made)
    except RetortError as error:
        row["fault"] = f"{step}: {type(error).__name__}: {error.message}"[:500]
    except Exception as error:  # a fault of ours is a result of this suite, not its end
        row["fault"] = f"{step}: crash: {type(error).__name__}: {error}"[:500]
    return row


def _graph_facts(graph: Artifact) -> dict[str, Any]:
    errors = [item["error"] for item in graph.facts["parity"]]
    return {"nodes": graph.facts["nodes"], "size_bytes": graph.facts["size_bytes"], "parity": max(errors, default=0.0)}


def _engine_facts(made: Artifact) -> dict[str, Any]:
    facts = made.facts
    half = facts.get("half", {})
    return {
        "seconds": facts["timing"]["seconds"],
        "plan_bytes": facts["plan_bytes"],
        "weights_bytes": facts["weights_bytes"],
        "peak_bytes": facts["peak_bytes"],
        "error": max(half.get("errors", {}).values(), default=None),
        "kept_fp32": len(half.get("kept_fp32", ())),
    }


def run(wanted: Sequence[str], path: Path, console: Console) -> list[dict[str, Any]]:
    """Measure every model that the file does not hold yet, one line each; all rows, in the order of the suite."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
    have = {row["model"]: row for row in lines if "fault" not in row}
    for zoo, name in models(wanted):
        if name in have:
            continue
        with tempfile.TemporaryDirectory() as folder:
            have[name] = measure(zoo, name, Path(folder))
        with path.open("a") as file:
            file.write(json.dumps(have[name]) + "\n")
        console.say(f"{name}: {have[name].get('fault') or 'exported and built'}")
        gc.collect()
    return [have[name] for _, name in models(wanted)]


def table(rows: Sequence[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Columns and one line per model."""
    columns = ["model", "nodes", "parity", "build s", "plan MB", "FP16 error", "in FP32", "weights FP16/FP32", "fault"]
    return columns, [_line(row) for row in rows]


def _line(row: dict[str, Any]) -> list[str]:
    full, half = (row.get(precision) for precision in _PRECISIONS)
    cells = [row["model"], str(row.get("nodes", "–")), f"{row['parity']:.0e}" if "parity" in row else "–"]
    cells += [f"{full['seconds']:.1f}", f"{full['plan_bytes'] / 1e6:.1f}"] if full else ["–", "–"]
    if half is None:
        return [*cells, "–", "–", "–", str(row.get("fault", ""))[:90]]
    share = half["weights_bytes"] / full["weights_bytes"] if full and full["weights_bytes"] else 0.0
    return [*cells, f"{half['error']:.0e}", str(half["kept_fp32"]), f"{share:.2f}", str(row.get("fault", ""))[:90]]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the suite and print its table, then one JSON line."""
    parser = argparse.ArgumentParser(prog="retort.benchmarks.suites.exporting", description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", help="names of models; all by default")
    parser.add_argument("--out", type=Path, default=Path("runs/exporting.jsonl"), help="file to append to")
    given = parser.parse_args(arguments)
    console = Console()
    rows = run(given.models, given.out, console)
    console.table("Export and engines", *table(rows))
    good = sum("fault" not in row for row in rows)
    console.result({}, json.dumps({"models": len(rows), "exported_and_built": good}))


if __name__ == "__main__":
    main()
