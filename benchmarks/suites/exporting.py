"""Which architectures export: at any batch and length, byte for byte again, for both targets, in INT8, and back again.

    python -m retort.benchmarks.suites.exporting --out exporting.jsonl

Every model of the coverage suite is captured, with a free sequence, height and width where its code allows, and walks
four parts, from the root module `stages`:

* export: for TensorRT (checker, lint, ONNX Runtime against PyTorch at batch sizes 1, 2 and 5 and at a shorter and a
  longer length), twice, with the same bytes, and parsed by the TensorRT that is here;
* import: the file is captured again and compared with it at two shapes;
* int8 and int8-tensorrt: quantized with default settings for that target, exported and run;
* engine (with ``--parts engine``): built by the TensorRT that is here, as it is and in FP16.

A line per model and part is appended to the file; one that went well and stands there is not run again.
"""

from __future__ import annotations

import gc
import hashlib
import json
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ... import stages
from ...core.artifact import Artifact
from ...core.console import Console
from ...core.errors import RetortError
from ...core.metrics import sqnr_db
from ...core.options import CaptureOptions, DataSpec, EngineOptions, ExportOptions, ModelSpec, QuantizeOptions, Target
from ...core.session import SessionOptions, open_session
from ...core.sources import load_data
from ...core.tensors import BATCH, Array, Signature, multiple
from .coverage import models

BATCHES = (1, 2, 5)
SAMPLES = 8
PARTS = ("export", "import", "int8", "int8-tensorrt", "engine")
DEFAULT_PARTS = PARTS[:4]
TOLERANCE = 1e-3
_PRECISIONS: tuple[Literal["file", "fp16"], ...] = ("file", "fp16")
_WAVE = 64

Row = dict[str, Any]
Axes = dict[str, dict[int, str]]


def capture(zoo: str, name: str, folder: Path) -> tuple[Artifact, stages.Context]:
    """The model as a program with as many free axes as its code allows, and the context that it was captured in."""
    data = load_data(DataSpec(source=f"{zoo}:samples", args={"name": name, "count": SAMPLES}), Path.cwd())
    context = stages.Context(data, target="tensorrt", scratch=folder / "scratch")
    source = ModelSpec(source=f"{zoo}:build", args={"name": name})
    for number, dynamic in enumerate(free_axes(data.train.read(range(1))[0])):
        try:
            options = CaptureOptions(dynamic=dynamic)
            return stages.capture(source, folder / f"captured-{number}", context, options), context
        except RetortError:  # the model itself takes that one size only
            continue
    return stages.capture(source, folder / "captured", context), context


def free_axes(inputs: Mapping[str, Array]) -> list[Axes]:
    """Which axes besides the batch may be free, the most likely first: of pictures, of words, of sound."""
    ranks = {key: value.ndim for key, value in inputs.items()}
    if any(rank == 4 for rank in ranks.values()):
        return [{key: {2: "height", 3: "width"} for key, rank in ranks.items() if rank == 4}]
    if all(value.ndim == 2 and (value.dtype.kind == "i" or value.shape[1] > _WAVE) for value in inputs.values()):
        return [{key: {1: "sequence"} for key in ranks}]
    if all(rank == 3 for rank in ranks.values()):
        return [{key: {axis: "sequence"} for key in ranks} for axis in (1, 2)]
    return []


def check_export(captured: Artifact, folder: Path, context: stages.Context) -> Row:
    """Exported twice for TensorRT, compared at other shapes, parsed."""
    options = ExportOptions(batch_sizes=BATCHES, golden=max(BATCHES))
    started = time.perf_counter()
    graph = stages.export(options, captured, folder / "graph", context)
    row: Row = {"export_s": time.perf_counter() - started, "nodes": graph.facts["nodes"]}
    again = stages.export(options, captured, folder / "again", context)
    row["same_bytes"] = _sha256(graph.main) == _sha256(again.main)
    row["parity"] = max((item["error"] for item in graph.facts["parity"]), default=0.0)
    signature = stages.read_signature(captured.main)
    free = {size for spec in signature.inputs for size in spec.shape if isinstance(size, str) and size != BATCH}
    row |= {"axes": sorted(free), "shapes": compare(captured.main, graph.main, other_shapes(signature, context))}
    try:
        row["parsed_layers"] = sum(stages.explain(EngineOptions(), graph, context).counts.values())
    except RetortError as error:  # a finding about TensorRT, not a fault of the file
        row["parser"] = error.message[:300]
    return row


def check_import(captured: Artifact, folder: Path, context: stages.Context) -> Row:
    """Exported, captured from the file, and compared with the file."""
    graph = stages.export(ExportOptions(target="cpu", batch_sizes=(2,)), captured, folder / "plain", context)
    started = time.perf_counter()
    back = stages.capture(ModelSpec(source=str(graph.main)), folder / "imported", context)
    row: Row = {"import_s": time.perf_counter() - started}
    row["parameters"] = [captured.facts["parameters"], back.facts["parameters"]]
    row["shapes"] = compare(back.main, graph.main, other_shapes(stages.read_signature(captured.main), context))
    return row


def check_int8(target: Target, captured: Artifact, folder: Path, context: stages.Context) -> Row:
    """Quantized with default settings, exported, run, and compared with the FP32 program."""
    context = replace(context, target=target)
    started = time.perf_counter()
    made = stages.quantize(QuantizeOptions(), captured, folder / f"int8-{target}", context)
    row: Row = {"quantize_s": time.perf_counter() - started, "integer_macs": made.facts["integer_macs_percent"]}
    graph = stages.export(ExportOptions(batch_sizes=(1, 4)), made, folder / f"int8-graph-{target}", context)
    kernels = graph.facts.get("kernels", {})
    row |= {kind: sum(kernels.get(kind, {}).values()) for kind in ("integer", "floating")}
    return row | {"sqnr_db": _decibels(captured.main, graph.main, context)}


def check_engine(captured: Artifact, folder: Path, context: stages.Context) -> Row:
    """Built as it is and in FP16, from a program with a free batch alone."""
    options = ExportOptions(batch_sizes=BATCHES, golden=max(BATCHES))
    graph = stages.export(options, captured, folder / "for-engine", context)
    spec = stages.read_signature(captured.main).inputs[0]
    sizes = {name: context.data.train.read(range(1))[0][spec.name].shape[i] for i, name in enumerate(spec.shape)}
    ranges = tuple(f"{name}={size}:{size}:{size}" for name, size in sizes.items() if isinstance(name, str))
    row: Row = {}
    for precision in _PRECISIONS:
        axis = tuple(item for item in ranges if not item.startswith(f"{BATCH}="))
        engine = EngineOptions(precision=precision, batch_sizes=BATCHES, axis=axis, timing_cache="off")
        row[precision] = _engine_facts(stages.engine(engine, graph, folder / f"engine-{precision}", context))
    return row


CHECKS: dict[str, Callable[[Artifact, Path, stages.Context], Row]] = {
    "export": check_export,
    "import": check_import,
    "int8": partial(check_int8, "cpu"),
    "int8-tensorrt": partial(check_int8, "tensorrt"),
    "engine": check_engine,
}


def _engine_facts(made: Artifact) -> Row:
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


def other_shapes(signature: Signature, context: stages.Context) -> list[dict[str, Array]]:
    """Feeds of three rows, and where axes are free one row that is longer and three that are shorter."""
    inputs = context.data.train.read(range(3))[0]
    feeds = {spec.name: spec.cast(inputs[spec.name]) for spec in signature.inputs}
    if all(size == BATCH or isinstance(size, int) for spec in signature.inputs for size in spec.shape):
        return [feeds]
    return [feeds, _resized(signature, feeds, 1, 1.5), _resized(signature, feeds, 3, 0.67)]


def _resized(signature: Signature, feeds: Mapping[str, Array], rows: int, factor: float) -> dict[str, Array]:
    found = {}
    for spec in signature.inputs:
        value = feeds[spec.name]
        for axis, size in enumerate(spec.shape):
            if isinstance(size, str):
                step, _ = multiple(size)
                count = rows if size == BATCH else max(1, round(value.shape[axis] * factor / step)) * step
                value = np.take(value, np.arange(count) % value.shape[axis], axis)
        found[spec.name] = value
    return found


def compare(program: Path, graph: Path, cases: Sequence[dict[str, Array]]) -> list[Row]:
    """Program and file on the same feeds: the shape of the first input, and the largest relative error.

    Raises:
        AssertionError: they differ at a shape that the program takes.
    """
    eager, runtime = open_session(program), open_session(graph, SessionOptions(threads=1))
    found: list[Row] = []
    for feeds in cases:
        shape = [int(size) for size in next(iter(feeds.values())).shape]
        try:
            wanted = eager.run(feeds)
        except Exception as error:  # what a model raises at a size that it does not take
            found.append({"shape": shape, "refused": str(error).splitlines()[0][:120] if str(error) else "yes"})
            continue
        outputs = zip(wanted.values(), runtime.run(feeds).values(), strict=True)
        worst = max(_deviation(one, two) for one, two in outputs)
        found.append({"shape": shape, "error": worst})
        assert worst <= TOLERANCE, f"off by {worst:.1e} at {shape}"
    return found


def _deviation(wanted: Array, found: Array) -> float:
    if wanted.shape != found.shape:
        return float("inf")
    one, two = np.asarray(wanted, np.float64), np.asarray(found, np.float64)
    scale = max(float(np.abs(one[np.isfinite(one)]).max(initial=0.0)), 1e-6)
    same = (one == two) | (np.isnan(one) & np.isnan(two))
    return float(np.where(same, 0.0, np.abs(one - two)).max(initial=0.0)) / scale


def _decibels(program: Path, graph: Path, context: stages.Context) -> float | None:
    """Centred SQNR of the file's first floating-point output against the FP32 program."""
    eager, runtime = open_session(program), open_session(graph, SessionOptions(threads=1))
    feeds = eager.signature.validate(context.data.validation.read(range(SAMPLES))[0])
    found = runtime.run(feeds)
    wanted = ((name, value) for name, value in eager.run(feeds).items() if np.asarray(value).dtype.kind == "f")
    name, value = next(wanted, (None, None))
    if name is None or value is None:
        return None
    return min(300.0, sqnr_db(np.asarray(value), np.asarray(found[name])))


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def measure(zoo: str, name: str, parts: Sequence[str], folder: Path) -> list[Row]:
    """Walk one model through the parts; what went wrong stands in the row instead of being raised."""
    started = time.perf_counter()
    try:
        captured, context = capture(zoo, name, folder)
    except Exception as error:  # a fault of ours is a result of this suite, not its end
        return [{"model": name, "part": part, "fault": _fault("capture", error)} for part in parts]
    rows: list[Row] = [{"model": name, "part": part, "capture_s": time.perf_counter() - started} for part in parts]
    for row in rows:
        started = time.perf_counter()
        try:
            row |= CHECKS[row["part"]](captured, folder, context)
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
    """Measure every model and part that the file does not hold yet; rows by model and part, in the suite's order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
    have = {(row["model"], row["part"]): row for row in lines}
    for zoo, name in models(wanted):
        lacking = [part for part in parts if "fault" in have.get((name, part), {"fault": ""})]
        if not lacking:
            continue
        with tempfile.TemporaryDirectory() as folder:
            rows = measure(zoo, name, lacking, Path(folder))
        with path.open("a") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
        have |= {(name, row["part"]): row for row in rows}
        console.say(f"{name}: {'; '.join(row['fault'] for row in rows if 'fault' in row) or 'good'}")
        gc.collect()
    return {name: {part: have[name, part] for part in PARTS if (name, part) in have} for _, name in models(wanted)}


if __name__ == "__main__":
    from .exporting_table import main

    main()
