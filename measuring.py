"""What the line measures: test outputs of every graph, gates, the served endpoint, latency, and the report."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from . import gates
from .core.artifact import Artifact, load_artifact, new_artifact
from .core.intervals import Interval
from .core.metrics import paired_difference
from .core.options import BenchOptions, Gate, Options
from .core.recipe import PROGRAM_STAGES
from .core.session import SessionOptions, open_session
from .core.tensors import Array
from .gates import GateResult
from .stages import Place

if TYPE_CHECKING:
    from .pipeline import Line

LATENCY_SAMPLES = 256


def reference_of(line: Line) -> str:
    """The stage that the others are compared with: the trained model as it came, or as `train` left it."""
    return "train" if "train" in line.numbers else "capture"


def outputs(line: Line, stage: str) -> tuple[dict[str, Array], Array]:
    """Outputs of a stage's graph on the test split, and the targets; computed once and kept.

    A program stage is measured as the ONNX file that would be shipped of it.
    """
    if stage == "serve":
        return _load_outputs(line.outcome.artifacts["serve"])
    graph = line.graph(stage if stage in PROGRAM_STAGES else line.last_program())

    def make(place: Place) -> Artifact:
        from .benchmarks.accuracy import run_split

        session = open_session(graph.main, SessionOptions(threads=0))
        found = run_split(session, line.data.test, console=line.console)
        return save_outputs(place, "outputs", found, line.data.test.read(range(len(line.data.test)))[1])

    return _load_outputs(line.make("outputs", Options(), [graph], make, {}, f"{stage}-outputs"))


def save_outputs(place: Place, stage: str, found: dict[str, Array], targets: Array | None, **facts: Any) -> Artifact:
    """Write test outputs and targets as a measurement artifact."""
    with new_artifact(
        place.directory, "measurement", stage, key=place.key, parents=place.parents, facts=facts
    ) as folder:
        arrays = {f"out.{name}": array for name, array in found.items()}
        np.savez(folder / "outputs.npz", **arrays, **({} if targets is None else {"targets": targets}))
        (folder / "measurement.json").write_text(json.dumps(facts, default=str))
    return load_artifact(place.directory)


def _load_outputs(artifact: Artifact) -> tuple[dict[str, Array], Array]:
    with np.load(artifact.file("outputs.npz")) as stored:
        found = {key.removeprefix("out."): stored[key] for key in stored.files if key != "targets"}
        return found, stored["targets"] if "targets" in stored.files else np.empty(0)


def prediction(found: dict[str, Array]) -> Array:
    """The first output: the one that metrics judge."""
    return next(iter(found.values()))


def drop(line: Line, stage: str, against: str, confidence: float) -> Interval:
    """How much of the metric ``stage`` lost against a reference, on the same test samples."""
    (before, targets), (after, _) = outputs(line, against), outputs(line, stage)
    name = line.recipe.metric_name
    return paired_difference(name, prediction(before), prediction(after), targets, confidence, line.recipe.seed)


def check_gate(line: Line, gate: Gate) -> GateResult:
    """Measure what a gate asks for and judge it."""
    against = gate.against or reference_of(line)
    if gate.accuracy_drop is not None:
        interval = drop(line, gate.after, against, gate.confidence)
    elif gate.size_ratio is not None:
        share = graph_bytes(line, gate.after) / graph_bytes(line, against)
        interval = Interval(share, share, share, gate.confidence)
    else:
        interval = _speedup(line, gate, against)
    return gates.judge(gate, interval, against, line.recipe.metric_name)


def graph_of(line: Line, stage: str) -> Artifact:
    """The graph that stands for a stage: of its program, or the one that is shipped."""
    return line.graph(stage if stage in PROGRAM_STAGES else line.last_program())


def graph_bytes(line: Line, stage: str) -> int:
    """Bytes of the ONNX file of a stage."""
    return graph_of(line, stage).main.stat().st_size


def _speedup(line: Line, gate: Gate, against: str) -> Interval:
    own = next((o for _, o in line.plan if isinstance(o, BenchOptions)), BenchOptions())
    options = own.model_copy(update={"batch_sizes": (gate.batch_size,), "confidence": gate.confidence})
    pair = {name: graph_of(line, name) for name in dict.fromkeys((against, gate.after))}

    def make(place: Place) -> Artifact:
        compared = compare(line, pair, options)[gate.batch_size]
        found = next(c.ratio for c in compared.candidates.values() if c.ratio is not None)
        facts = {"value": found.value, "low": found.low, "high": found.high, "confidence": found.confidence}
        with new_artifact(place.directory, "measurement", "gate", key=place.key, facts=facts) as folder:
            (folder / "measurement.json").write_text(json.dumps(facts))
        return load_artifact(place.directory)

    label = f"{gate.after}-gate"
    facts = line.make("gate", options, list(pair.values()), make, {}, label).facts
    return Interval(**facts)


def compare(line: Line, graphs: dict[str, Artifact], options: BenchOptions) -> dict[int, Any]:
    """Time graphs against the first of them in interleaved blocks."""
    from .benchmarks.latency import compare_sessions

    samples = line.data.test.read(range(min(LATENCY_SAMPLES, len(line.data.test))))[0]
    sessions = {name: open_session(g.main, SessionOptions(threads=options.threads)) for name, g in graphs.items()}
    return dict(compare_sessions(sessions, samples, options, line.console))


def serve(line: Line, options: Options) -> Artifact:
    raise SystemExit


bench = report = serve
