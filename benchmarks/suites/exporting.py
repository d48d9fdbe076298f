"""Coverage of export: dynamic shapes, reproducible bytes, both targets, INT8, and import of the exported file.

    python -m retort.benchmarks.suites.exporting --out exporting.jsonl

Every model of the coverage suite is captured, with a dynamic sequence length if its code allows it, and goes through
these parts:

* export: for TensorRT (checker, lint, ONNX Runtime against PyTorch at batch sizes 1, 2 and 5 and at a shorter and a
  longer length), twice, with identical bytes, and parsed by the installed TensorRT;
* sizes: image models with dynamic height and width if their code allows it, at three sizes;
* import: the file is captured again, and the program is compared with the file at two shapes;
* int8 and int8-tensorrt: quantized with default settings for the target, exported, run, and (for TensorRT) parsed;
* engine (with ``--parts engine``): built by the installed TensorRT, as exported and in FP16.

One line per model and part is appended to the file; a part that is in the file without a fault is not run again.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

from ...core.artifact import Artifact, load_artifact
from ...core.console import Console
from ...core.context import Context, Place
from ...core.data.data_sources import load_data
from ...core.errors import RetortError
from ...core.facts.engine_facts import EngineFacts
from ...core.facts.export_facts import ExportFacts
from ...core.facts.program_facts import ProgramFacts
from ...core.facts.quantize_facts import QuantizeFacts
from ...core.formats.program_file import read_signature
from ...core.options.stage_options import (
    CaptureOptions,
    DataSpec,
    EngineOptions,
    ExportOptions,
    ModelSpec,
    QuantizeOptions,
    Target,
)
from ...core.tensors import BATCH
from ...pipeline import dispatch, stages
from .coverage import models
from .exporting_shapes import DEFAULT_PARTS, PARTS, Axes, Row, compare, decibels, free, lengths, other_shapes, sides
from .exporting_table import COLUMNS, counts, line

BATCHES = (1, 2, 5)
SAMPLES = 8
_PRECISIONS: tuple[Literal["file", "fp16"], ...] = ("file", "fp16")


@dataclass(frozen=True)
class Model:
    """A model of the suite: its source and its program."""

    source: ModelSpec
    captured: Artifact


def capture(name: str, source: ModelSpec, folder: Path, context: Context, trials: Sequence[Axes]) -> Artifact:
    """The model as a program with the first of the given sets of dynamic axes that its code allows."""
    for number, dynamic in enumerate(trials):
        with suppress(RetortError):  # the model supports only one size
            return stages.capture(CaptureOptions(dynamic=dynamic), source, Place(folder / f"{name}-{number}"), context)
    return stages.capture(CaptureOptions(), source, Place(folder / name), context)


def check_export(model: Model, folder: Path, context: Context) -> Row:
    """Export twice for TensorRT, compare at other shapes, and parse."""
    options = ExportOptions(batch_sizes=BATCHES, golden=max(BATCHES))
    started = time.perf_counter()
    graph = stages.export(options, model.captured, Place(folder / "graph"), context)
    facts = graph.facts_as(ExportFacts)
    row: Row = {"export_s": time.perf_counter() - started, "nodes": facts.nodes, "opset": facts.opset}
    again = stages.export(options, model.captured, Place(folder / "again"), context)
    row["same_bytes"] = _sha256(graph.main) == _sha256(again.main)
    row["parity"] = max((item.error for item in facts.parity), default=0.0)
    signature = read_signature(model.captured.main)
    row |= {
        "axes": free(signature),
        "shapes": compare(model.captured.main, graph.main, other_shapes(signature, context)),
    }
    return row | _parsed(graph, context)


def _parsed(graph: Artifact, context: Context) -> Row:
    """Number of layers that the installed TensorRT makes from a file, or the reason why it rejects the file."""
    try:
        return {"parsed_layers": sum(dispatch.explain(EngineOptions(), graph, context).counts.values())}
    except RetortError as error:  # a finding about TensorRT, not a fault of the file
        return {"parser": error.message[:300]}


def check_sizes(model: Model, folder: Path, context: Context) -> Row:
    """Capture with dynamic height and width if the model allows it, export, and compare at other sizes."""
    trials = sides(context.data.train.read(range(1))[0])
    captured = capture("sized", model.source, folder, context, trials) if trials else model.captured
    axes = free(read_signature(captured.main))
    if not trials or not axes:
        return {"axes": [], "sizes": "fixed by the model" if trials else "none"}
    graph = stages.export(
        ExportOptions(target="cpu", batch_sizes=(2,)), captured, Place(folder / "sized-graph"), context
    )
    cases = other_shapes(read_signature(captured.main), context)
    return {"axes": axes, "shapes": compare(captured.main, graph.main, cases)}


def check_import(model: Model, folder: Path, context: Context) -> Row:
    """Export, capture from the file, and compare with the file."""
    place = Place(folder / "graph")
    options = ExportOptions(target="cpu", batch_sizes=(2,))
    graph = (
        load_artifact(place.directory)
        if place.directory.is_dir()
        else stages.export(options, model.captured, place, context)
    )
    started = time.perf_counter()
    back = stages.capture(CaptureOptions(), ModelSpec(source=str(graph.main)), Place(folder / "imported"), context)
    row: Row = {"import_s": time.perf_counter() - started}
    row["parameters"] = [item.facts_as(ProgramFacts).parameters for item in (model.captured, back)]
    row["shapes"] = compare(back.main, graph.main, other_shapes(read_signature(model.captured.main), context))
    return row


def check_int8(target: Target, model: Model, folder: Path, context: Context) -> Row:
    """Quantize with default settings, export, run, and compare with the FP32 program."""
    context = replace(context, target=target)
    started = time.perf_counter()
    made = stages.quantize(
        QuantizeOptions(timed=False, accept=True), model.captured, Place(folder / f"int8-{target}"), context
    )
    row: Row = {
        "quantize_s": time.perf_counter() - started,
        "integer_macs": made.facts_as(QuantizeFacts).integer_macs_percent,
    }
    graph = stages.export(ExportOptions(batch_sizes=(1, 4)), made, Place(folder / f"int8-graph-{target}"), context)
    kernels = graph.facts_as(ExportFacts).kernels
    row |= {"integer": kernels.integer_heavy if kernels else 0, "floating": kernels.floating_heavy if kernels else 0}
    row["sqnr_db"] = decibels(model.captured.main, graph.main, context)
    return row | (_parsed(graph, context) if target == "tensorrt" else {})


def check_engine(model: Model, folder: Path, context: Context) -> Row:
    """Build an engine as exported and in FP16, from a program with a dynamic batch size only."""
    options = ExportOptions(batch_sizes=BATCHES, golden=max(BATCHES))
    graph = stages.export(options, model.captured, Place(folder / "for-engine"), context)
    spec = read_signature(model.captured.main).inputs[0]
    sizes = {name: context.data.train.read(range(1))[0][spec.name].shape[i] for i, name in enumerate(spec.shape)}
    ranges = tuple(f"{name}={size}:{size}:{size}" for name, size in sizes.items() if isinstance(name, str))
    row: Row = {}
    for precision in _PRECISIONS:
        axis = tuple(item for item in ranges if not item.startswith(f"{BATCH}="))
        engine = EngineOptions(precision=precision, batch_sizes=BATCHES, axis=axis, timing_cache="off")
        row[precision] = _engine_facts(stages.engine(engine, graph, Place(folder / f"engine-{precision}"), context))
    return row


CHECKS: dict[str, Callable[[Model, Path, Context], Row]] = {
    "export": check_export,
    "sizes": check_sizes,
    "import": check_import,
    "int8": partial(check_int8, "cpu"),
    "int8-tensorrt": partial(check_int8, "tensorrt"),
    "engine": check_engine,
}


def _engine_facts(made: Artifact) -> Row:
    facts = made.facts_as(EngineFacts)
    errors = facts.half.errors if facts.half is not None else None
    return {
        "seconds": facts.timing.seconds,
        "plan_bytes": facts.plan_bytes,
        "weights_bytes": facts.weights_bytes,
        "peak_bytes": facts.peak_bytes,
        "error": max((errors or {}).values(), default=None),
        "kept_fp32": len(facts.half.kept_fp32) if facts.half is not None else 0,
    }


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def measure(zoo: str, name: str, parts: Sequence[str], folder: Path) -> list[Row]:
    """Run the parts on one model; errors are recorded in the rows and not raised."""
    started = time.perf_counter()
    try:
        data = load_data(DataSpec(source=f"{zoo}:samples", args={"name": name, "count": SAMPLES}), Path.cwd())
        context = Context(data, target="tensorrt", scratch=folder / "scratch")
        source = ModelSpec(source=f"{zoo}:build", args={"name": name})
        model = Model(source, capture("captured", source, folder, context, lengths(data.train.read(range(1))[0])))
    except Exception as error:  # a defect of Retort is a result of this suite and must not end it
        return [{"model": name, "part": part, "fault": _fault("capture", error)} for part in parts]
    rows: list[Row] = [{"model": name, "part": part, "capture_s": time.perf_counter() - started} for part in parts]
    for row in rows:
        started = time.perf_counter()
        try:
            row |= CHECKS[row["part"]](model, folder, context)
            if row.get("same_bytes") is False:
                row["fault"] = "the second export has other bytes"
        except Exception as error:  # as above
            row["fault"] = _fault(row["part"], error)
        row["part_s"] = time.perf_counter() - started
    return rows


def _fault(step: str, error: Exception) -> str:
    if isinstance(error, RetortError):
        return f"{step}: {type(error).__name__}: {error.message}"[:500]
    return f"{step}: crash: {type(error).__name__}: {error}"[:500]


def run(
    wanted: Sequence[str], path: Path, console: Console, parts: Sequence[str] = DEFAULT_PARTS
) -> dict[str, dict[str, Row]]:
    """Measure every model and part that is not in the file yet; return rows by model and part in the suite's order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
    have = {(row["model"], row["part"]): row for row in lines}
    for zoo, name in models(wanted):
        missing = [part for part in parts if "fault" in have.get((name, part), {"fault": ""})]
        if not missing:
            continue
        with tempfile.TemporaryDirectory() as folder:
            rows = measure(zoo, name, missing, Path(folder))
        with path.open("a") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
        have |= {(name, row["part"]): row for row in rows}
        console.say(f"{name}: {'; '.join(row['fault'] for row in rows if 'fault' in row) or 'good'}")
        gc.collect()
    return {name: {part: have[name, part] for part in PARTS if (name, part) in have} for _, name in models(wanted)}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the suite and print its table, then one JSON line."""
    parser = argparse.ArgumentParser(prog="retort.benchmarks.suites.exporting", description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", help="names of models; all by default")
    parser.add_argument("--out", type=Path, default=Path("runs/exporting.jsonl"), help="file to append to")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(DEFAULT_PARTS), help="parts to measure")
    given = parser.parse_args(arguments)
    console = Console()
    found = run(given.models, given.out, console, given.parts)
    console.table("Export, INT8 and engines", list(COLUMNS), [line(name, rows) for name, rows in found.items()])
    console.result({}, json.dumps(counts(found)))


if __name__ == "__main__":
    main()
