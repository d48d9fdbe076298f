"""Trained networks from packages through import, INT8 and export, judged by the metric of their task.

    python -m retort.benchmarks.suites.real_networks --packages FOLDER --out real_networks.jsonl

Each network of ``examples/real_networks`` is captured or imported, exported in FP32, quantized for ``cpu`` with default
options and exported. Both files, and those that ONNX Runtime's own tool makes from the same file with the same
calibration samples (static with min-max, and dynamic), are judged on the same test samples with the task's metric, and
timed in interleaved blocks in one thread. The packages are installed in the folder without their dependencies. One line
per network is appended to the file; a network that is in the file is not run again. ``--page`` prints the result page.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import numpy as np

from ...core.artifact import Artifact
from ...core.console import SILENT, Console
from ...core.context import Context, Place
from ...core.data.data_sources import load_data
from ...core.data.model_inputs import fit_to
from ...core.data.splits import Splits
from ...core.errors import RetortError
from ...core.facts.quantize_facts import QuantizeFacts
from ...core.formats.program_file import read_signature
from ...core.options.stage_options import (
    BenchOptions,
    CaptureOptions,
    DataSpec,
    ExportOptions,
    ModelSpec,
    QuantizeOptions,
)
from ...core.session import Session, SessionOptions, open_session
from ...core.tensors import BATCH
from ...pipeline import stages
from ...pipeline.tuning.int8_speed import is_faster, speed_of
from ..accuracy import predict
from ..machine import describe, fingerprint
from ..timing.latency import compare_sessions
from .quantization import PEER_SCRIPT, plain_file, run_command
from .real_network_list import NETWORKS, Network, Score, drop_of, sqnr_of, value_of
from .real_network_table import COLUMNS, lines, page

PEERS = {"ORT static": "onnxruntime-minmax", "ORT dynamic": "onnxruntime-dynamic"}
BLOCKS, BUDGET_S, CALIBRATION = 12, 15.0, 256
Row = dict[str, Any]


def measure(
    name: str, folder: Path, console: Console, peers: Sequence[str] = tuple(PEERS), budget_s: float = BUDGET_S
) -> Row:
    """Measure one network; an error of Retort is a row with its message. A budget of 0 times nothing."""
    network = NETWORKS[name]
    row: Row = {"net": name, "packages": network.requirements(), "metric": network.metric, "unit": network.unit}
    started = time.perf_counter()
    try:
        row |= _measured(network, folder, console, peers, budget_s)
    except Exception as error:  # a defect of Retort is a result of this suite and must not end it
        known = isinstance(error, RetortError)
        row["fault"] = (str(error) if known else f"crash: {type(error).__name__}: {error}")[:500]
    row["seconds"] = round(time.perf_counter() - started, 1)
    row["peak_mb"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    return row


def _measured(network: Network, folder: Path, console: Console, peers: Sequence[str], budget_s: float) -> Row:
    data = load_data(DataSpec(source=f"{network.source}:splits", args={"name": network.name}), Path.cwd())
    context = Context(data, console=console, scratch=folder / "scratch")
    given = network.model_file()
    named = {"source": f"{network.source}:model", "args": {"name": network.name}}
    spec = ModelSpec.model_validate({"source": str(given)} if given else named)
    captured = stages.capture(
        CaptureOptions(fixed=dict(network.fixed), batch_axis=dict(network.batch_axis)),
        spec,
        Place(folder / "program"),
        context,
    )
    fp32 = stages.export(ExportOptions(), captured, Place(folder / "fp32"), context)
    row: Row = {}
    files = {"FP32": {"file": str(fp32.main)}}
    try:
        row |= _quantized(captured, folder, context, files, timed=budget_s > 0)
    except RetortError as error:
        row["fault"] = str(error)[:500]
    if peers:
        source = given if given and not network.fixed else plain_file(captured.main, folder / "plain.onnx")
        samples = fit_to(data, read_signature(captured.main)).calibration
        rows, signature = samples.read(range(min(CALIBRATION, len(samples))))[0], read_signature(captured.main)
        chosen: dict[str, Any] = dict(signature.validate(rows))
        np.savez(folder / "samples.npz", **chosen)
        axes = {spec.name: spec.shape.index(BATCH) for spec in signature.inputs if BATCH in spec.shape}
        job = {"transformer": False, "batch": network.batches[-1], "axes": axes}
        files |= {peer: _peer(peer, source, folder, job) for peer in peers}
    _compare(network, files, data, budget_s)
    return row | {"files": files}


def _quantized(captured: Artifact, folder: Path, context: Context, files: dict[str, Row], timed: bool) -> Row:
    started, options = time.process_time(), QuantizeOptions(timed=timed)
    made = stages.quantize(options, captured, Place(folder / "int8"), context)
    facts = made.facts_as(QuantizeFacts)
    row: Row = {"quantize_cpu_s": round(time.process_time() - started, 1), "integer_macs": facts.integer_macs_percent}
    row["floor_met"] = facts.floor is None or facts.floor.met
    if timed:
        row["ships"] = "INT8" if is_faster(speed_of(options, captured, made, context)) else "FP32"
    graph = stages.export(ExportOptions(), made, Place(folder / "int8-file"), context)
    files["INT8"] = {"file": str(graph.main)}
    return row


def _peer(peer: str, source: Path, folder: Path, settings: dict[str, Any]) -> Row:
    """The file of another tool, or its error."""
    job, out = folder / f"{PEERS[peer]}.json", folder / f"{PEERS[peer]}.onnx"
    asked = {"tool": PEERS[peer], "model": str(source), "samples": str(folder / "samples.npz"), "out": str(out)}
    job.write_text(json.dumps({**asked, **settings}))
    output = run_command([sys.executable, str(PEER_SCRIPT), str(job)], folder)[3]
    result = job.with_suffix(".result")
    found: Row = json.loads(result.read_text()) if result.exists() else {"ok": False, "error": output.strip()[-200:]}
    if not found["ok"] or not out.exists():
        return {"error": found.get("error", "it reported success but wrote no file")}
    return {"file": str(out), "seconds": found["seconds"]}


def _compare(network: Network, files: dict[str, Row], data: Splits, budget_s: float) -> None:
    """Metric, agreement, SQNR, size and speed of every file, compared with the FP32 file."""
    first = open_session(files["FP32"]["file"], SessionOptions(threads=1))
    test = fit_to(data, first.signature).test
    sessions: dict[str, Session] = {}
    reference: dict[str, Any] = {}
    judged: dict[str, Any] = {}
    scores: dict[str, Score] = {}
    for name, state in files.items():
        if "error" in state:
            continue
        try:
            session = open_session(state["file"], SessionOptions(threads=1), first.signature)
            outputs = dict(predict(session, test, batch_size=network.batches[-1]).outputs)
        except RetortError as error:
            del state["file"]
            state["error"] = f"its file does not run: {error.message}"[:300]
            continue
        reference = reference or outputs
        sessions[name] = session
        scored = network.call("stream", session) or outputs
        judged = judged or scored
        scores[name] = network.score(scored)
        state |= _judged(network, judged, scored, scores[name], next(iter(scores.values())))
        if outputs is not reference:
            state["sqnr_db"] = sqnr_of(reference, outputs)
        state["size_bytes"] = Path(state.pop("file")).stat().st_size
    if "INT8" in scores:
        files["INT8"]["behind"] = {peer: _drop(scores[peer], scores["INT8"]) for peer in PEERS if peer in scores}
    rows = test.read(range(min(32, len(test))))[0]
    for batch in network.batches if budget_s > 0 else ():
        options = BenchOptions(batch_sizes=(batch,), blocks=BLOCKS, budget_s=budget_s)
        for name, item in compare_sessions(sessions, rows, options)[batch].candidates.items():
            if item.ratio is not None:
                speeds = [item.ratio.value, item.ratio.low, item.ratio.high]
                files[name].setdefault("speedup", {})[str(batch)] = speeds
            files[name].setdefault("ms", {})[str(batch)] = item.median_ms.value
    for session in [first, *sessions.values()]:
        session.close()


def _judged(network: Network, reference: dict[str, Any], outputs: dict[str, Any], score: Score, first: Score) -> Row:
    value = value_of(score)
    found: Row = {"metric": [value.value, value.low, value.high]}
    if outputs is not reference:
        found |= {"drop": _drop(first, score), "agreement": network.agreement(reference, outputs)}
    return found


def _drop(reference: Score, candidate: Score) -> list[float | None]:
    found = drop_of(reference, candidate)
    return [found.value, found.low, found.high]


def install(folder: Path, names: Sequence[str]) -> None:
    """Install the networks' packages in a folder, without their dependencies, and make them importable."""
    for package in sorted({line for name in names for line in NETWORKS[name].requirements()}):
        done = folder / f"{package}.installed"
        if not done.exists():
            command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder)]
            subprocess.run([*command, package], check=True)
            done.touch()
    sys.path.append(str(folder))
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), str(folder)]))


def run(names: Sequence[str], path: Path, console: Console) -> list[Row]:
    """Measure every network that is not in the file yet, each in its own process; return all rows in order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    have = {row["net"]: row for row in _rows(path)}
    context = multiprocessing.get_context("spawn")
    for name in names:
        if name in have:
            continue
        console.stage("suite", name)
        with ProcessPoolExecutor(1, context) as pool:
            try:
                have[name] = pool.submit(_in_process, name).result()
            except BrokenProcessPool:
                have[name] = {"net": name, "metric": NETWORKS[name].metric, "fault": "the process ended"}
        have[name]["machine"] = describe(fingerprint())
        with path.open("a") as file:
            file.write(json.dumps(have[name], default=str) + "\n")
        console.table("Networks from packages", COLUMNS, lines([have[name]]), words=True)
    return [have[name] for name in names if name in have]


def _in_process(name: str) -> Row:
    with tempfile.TemporaryDirectory() as folder:
        return measure(name, Path(folder), SILENT)


def _rows(path: Path) -> list[Row]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the suite and print its table, then one JSON line."""
    parser = argparse.ArgumentParser(
        prog="retort.benchmarks.suites.real_networks", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("nets", nargs="*", help="names of networks; all by default")
    parser.add_argument("--packages", type=Path, help="folder for the packages; without it they must be importable")
    parser.add_argument("--out", type=Path, default=Path("runs/real_networks.jsonl"), help="file to append to")
    parser.add_argument("--page", action="store_true", help="print the result page of the rows in the file")
    given = parser.parse_args(arguments)
    names = given.nets or list(NETWORKS)
    if given.page:
        Console().result({}, page([row for row in _rows(given.out) if row["net"] in NETWORKS]))
        return
    if given.packages is not None:
        install(given.packages.resolve(), names)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    rows = run(names, given.out, Console("text"))
    Console().result({}, json.dumps({"networks": len(rows), "faults": sum("fault" in row for row in rows)}))


if __name__ == "__main__":
    main()
