"""Comparison with Torch-Pruning on the same trained networks and data, with equal budgets and equal recovery.

    python -m retort.benchmarks.suites.pruning --peer PEER_FOLDER

Creates an environment for the peer in that folder (the packages of this environment and Torch-Pruning), trains five
networks, cuts each with both tools to the same share of multiply-accumulates, recovers both by the same distillation,
measures accuracy on paired samples and latency in ONNX Runtime in interleaved blocks, and prints a table and one JSON
line. With several seeds, each network is trained several times: accuracies are means, latencies are medians, and the
lead is computed from all test samples together.
"""

from __future__ import annotations

import argparse
import json
import site
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np

from ...core.artifact import Artifact
from ...core.console import Console
from ...core.context import Context, Place
from ...core.data.data_sources import load_data
from ...core.data.model_inputs import fit_to
from ...core.errors import MachineError, RetortError
from ...core.facts.program_facts import ProgramFacts
from ...core.formats.program_file import read_signature
from ...core.metrics.task_metrics import paired_difference
from ...core.options.stage_options import (
    BenchOptions,
    CaptureOptions,
    DataSpec,
    DistillOptions,
    ExportOptions,
    ModelSpec,
    PruneOptions,
    TrainOptions,
)
from ...core.session import SessionOptions, open_session
from ...pipeline import stages
from ..accuracy import predict
from ..machine import describe, fingerprint
from ..timing.latency import compare_sessions

PEER = "torch-pruning==1.6.*"
NETS = ("residual", "depthwise", "vision", "bert", "recurrent")
SHARE = 0.5
BATCHES = (1, 32)
CONFIDENCE = 0.95
NET = "retort.examples.pruning_nets"


def prepare(folder: Path) -> Path:
    """The Python of the peer's environment, which is created at the first use.

    Raises:
        MachineError: the environment cannot be created.
    """
    python = folder / "bin" / "python"
    if not (folder / "ready").exists():
        venv.create(folder, with_pip=True, clear=True)
        packages = next(folder.glob("lib/python*/site-packages"))
        ours = [path for path in site.getsitepackages() if Path(path).is_dir()]
        lines = [f"import site; site.addsitedir({path!r})" for path in ours]
        packages.joinpath("ours.pth").write_text("\n".join(lines) + "\n")
        command = [str(python), "-m", "pip", "install", "--quiet", "--no-deps", PEER]
        made = subprocess.run(command, check=False, capture_output=True, text=True)
        if made.returncode:
            raise MachineError(f"pip could not install {PEER}: {made.stderr.strip()[-300:]}", "check the network")
        (folder / "ready").touch()
    return python


def measure(name: str, python: Path, folder: Path, console: Console, epochs: int, seed: int) -> dict[str, Any]:
    """Measure one network with both tools."""
    source = {"bert": f"{NET}:sentences", "recurrent": f"{NET}:digit_rows"}.get(name, "digits")
    context = Context(
        load_data(DataSpec(source=source), Path.cwd()), console=console, scratch=folder / "scratch", seed=seed
    )
    captured = stages.capture(CaptureOptions(), ModelSpec(source=f"{NET}:{name}"), Place(folder / "capture"), context)
    dense = stages.train(TrainOptions(epochs=3 * epochs), captured, Place(folder / "train"), context)
    row: dict[str, Any] = {"net": name, "seed": seed, "macs": _macs(dense)}
    cuts = {"dense": dense}
    row["torch_pruning"], peer = _peer(name, python, dense, folder, context)
    share = SHARE
    if peer is not None:
        cuts["torch_pruning"] = peer
        row["torch_pruning"]["share"] = share = _macs(peer) / _macs(dense)
    row["retort"], own = _own(dense, min(share, 1.0), folder, context)
    if own is not None:
        cuts["retort"] = own
    graphs = {key: _shipped(key, cut, dense, folder, context, epochs) for key, cut in cuts.items()}
    return row | _compared(graphs, context)


def _macs(program: Artifact) -> int:
    return program.facts_as(ProgramFacts).macs


Made = tuple[dict[str, Any], Artifact | None]
"""The result of a tool, and its program if it made one."""


def _own(dense: Artifact, share: float, folder: Path, context: Context) -> tuple[dict[str, Any], Artifact | None]:
    started = time.perf_counter()
    try:
        made = stages.prune(PruneOptions(macs=share, recover=None), dense, Place(folder / "retort"), context)
    except RetortError as error:
        return {"ok": False, "error": error.message}, None
    seconds = time.perf_counter() - started
    return {"ok": True, "share": _macs(made) / _macs(dense), "seconds": seconds}, made


def _peer(name: str, python: Path, dense: Artifact, folder: Path, context: Context) -> Made:
    """The peer's cut, captured like any user's model; a module that cannot be captured counts as failed."""
    weights, job = folder / "weights.safetensors", folder / "job.json"
    _save_weights(dense, weights)
    data = fit_to(context.data, read_signature(dense.main))
    example = {key: value.tolist() for key, value in data.example(2).items()}
    out = folder / "peer.pt"
    job.write_text(
        json.dumps({"net": name, "weights": str(weights), "share": SHARE, "example": example, "out": str(out)})
    )
    done = subprocess.run(
        [str(python), "-m", "retort.benchmarks.suites.pruning_peer", str(job)],
        check=False,
        capture_output=True,
        text=True,
    )
    if not job.with_suffix(".result").exists():
        return {"ok": False, "error": done.stderr.strip()[-200:]}, None
    found = json.loads(job.with_suffix(".result").read_text())
    if not found["ok"]:
        return found, None
    spec = ModelSpec(source="retort.benchmarks.suites.pruning_peer:load", args={"path": str(out)})
    try:
        return found, stages.capture(CaptureOptions(), spec, Place(folder / "peer"), context)
    except RetortError as error:
        return {**found, "ok": False, "error": f"the pruned model does not run: {error.message}"}, None


def _save_weights(program: Artifact, path: Path) -> None:
    """Save the trained parameters and buffers with the names of the network."""
    from safetensors.torch import save_file

    from ...core.backends.eager import load_exported

    exported, _, _ = load_exported(program.main)
    save_file({name: tensor.detach().clone().contiguous() for name, tensor in exported.state_dict.items()}, path)


def _shipped(
    key: str, cut: Artifact, dense: Artifact, folder: Path, context: Context, epochs: int
) -> dict[str, Artifact]:
    """The ONNX files of a cut, before and after recovery by distillation from the dense program."""
    before = stages.export(ExportOptions(), cut, Place(folder / f"{key}-before"), context)
    if key == "dense":
        return {"before": before, "after": before}
    options = DistillOptions(student=ModelSpec(source=str(cut.main)), epochs=epochs, learning_rate=1e-3)
    after = stages.distill(options, dense, Place(folder / f"{key}-recovered"), context)
    return {"before": before, "after": stages.export(ExportOptions(), after, Place(folder / f"{key}-after"), context)}


COLUMNS = ("net", "tool", "MACs left", "accuracy at once", "after recovery", "batch 1", "batch 32", "tool seconds")


def table(rows: Sequence[dict[str, Any]]) -> list[list[str]]:
    """The rows of the printed table: per net the dense model, the peer and Retort."""
    lines = []
    for row in rows:
        for key in ("dense", "torch_pruning", "retort"):
            state = row.get(key, {"ok": True, "share": 1.0})
            if not state["ok"]:
                lines.append([row["net"], key, "failed: " + state["error"][:60], "", "", "", "", ""])
                continue
            accuracy = row["accuracy"][key]
            speeds = [row["speedup"][str(batch)].get(key, [1.0])[0] for batch in BATCHES]
            cells = [f"{state['share']:.1%}", f"{accuracy['before']:.1%}", f"{accuracy['after']:.1%}"]
            cells += [f"{speed:.2f}×" for speed in speeds]
            lines.append([row["net"], key, *cells, f"{state['seconds']:.1f}" if "seconds" in state else ""])
        if "lead" in row:
            lead = row["lead"]
            points = f"{100 * lead['value']:+.1f} pp [{100 * lead['low']:+.1f}, {100 * lead['high']:+.1f}]"
            lines.append([row["net"], "Retort's lead", "", "", points, "", "", ""])
    return lines


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the suite."""
    parser = argparse.ArgumentParser(
        prog="retort.benchmarks.suites.pruning", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument(
        "--peer", type=Path, required=True, help="folder of the peer's environment, which is created if it is empty"
    )
    parser.add_argument("--nets", nargs="*", default=list(NETS), choices=NETS, help="networks; all by default")
    parser.add_argument("--epochs", type=int, default=4, help="epochs of recovery; training takes three times as many")
    parser.add_argument("--seeds", type=int, default=1, help="number of times that every network is trained and cut")
    given = parser.parse_args(arguments)
    console = Console("text")
    python = prepare(given.peer.resolve())
    rows = []
    for name in given.nets:
        found = []
        for seed in range(given.seeds):
            console.stage("suite", f"{name}, seed {seed}")
            with tempfile.TemporaryDirectory() as folder:
                found.append(measure(name, python, Path(folder), console, given.epochs, seed))
        rows.append(together(found))
        console.say(json.dumps(rows[-1], default=str))
    console.table("half of the multiply-accumulates", COLUMNS, table(rows))
    machine = describe(fingerprint())
    sys.stdout.write(json.dumps({"machine": machine, "peer": PEER, "rows": rows}, default=str) + "\n")


def together(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Combine the rows of several seeds into one; a tool that failed once counts as failed."""
    row = {key: value for key, value in rows[0].items() if key not in ("seed", "scores", "targets")}
    keys = [key for key in ("torch_pruning", "retort") if all(item[key]["ok"] for item in rows)]
    for key in ("torch_pruning", "retort"):
        states = [item[key] for item in rows]
        row[key] = next((state for state in states if not state["ok"]), states[0])
        if key in keys:
            row[key] = {"ok": True} | {what: median(item[what] for item in states) for what in ("share", "seconds")}
    shown = ["dense", *keys]
    row["accuracy"] = {
        key: {moment: mean(item["accuracy"][key][moment] for item in rows) for moment in ("before", "after")}
        for key in shown
    }
    row["speedup"] = {
        batch: {key: [median(item["speedup"][batch][key][0] for item in rows)] for key in keys}
        for batch in rows[0]["speedup"]
    }
    row["seeds"] = len(rows)
    if len(keys) == 2:
        ours, theirs = (np.concatenate([item["scores"][key] for item in rows]) for key in ("retort", "torch_pruning"))
        targets = np.concatenate([item["targets"] for item in rows])
        interval = paired_difference("accuracy", ours, theirs, targets, CONFIDENCE)
        row["lead"] = {"value": interval.value, "low": interval.low, "high": interval.high}
    return row


def _compared(graphs: dict[str, dict[str, Artifact]], context: Context) -> dict[str, Any]:
    """Accuracy of every file, its outputs after recovery, and the latency of all files."""
    data = fit_to(context.data, open_session(graphs["dense"]["after"].main).signature)
    found: dict[str, Any] = {"scores": {}, "accuracy": {key: {} for key in graphs}}
    for key, files in graphs.items():
        for moment, graph in files.items():
            made = predict(open_session(graph.main), data.test)
            found["scores"][key], found["targets"] = next(iter(made.outputs.values())), made.targets
            found["accuracy"][key][moment] = float((found["scores"][key].argmax(1) == made.targets).mean())
    samples = data.test.read(range(64))[0]
    for batch in BATCHES:
        sessions = {key: open_session(files["after"].main, SessionOptions(threads=1)) for key, files in graphs.items()}
        options = BenchOptions(batch_sizes=(batch,), blocks=20, budget_s=15)
        timed = compare_sessions(sessions, samples, options)[batch].candidates
        found.setdefault("latency_ms", {})[str(batch)] = {key: item.median_ms.value for key, item in timed.items()}
        found.setdefault("speedup", {})[str(batch)] = {
            key: [item.ratio.value, item.ratio.low, item.ratio.high] for key, item in timed.items() if item.ratio
        }
    return found


if __name__ == "__main__":
    main()
