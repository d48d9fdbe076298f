"""Measurements of a run: test outputs of every graph, gates, the served endpoint, and latency."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..benchmarks.sessions import LATENCY_SAMPLES, opener
from ..core.artifact import Artifact, load_artifact, new_artifact
from ..core.context import Place
from ..core.counts import counted
from ..core.data.raw_values import raw_values
from ..core.data.references import importable
from ..core.data.splits import Split
from ..core.errors import UserError, VerificationError
from ..core.facts.measurement_facts import ServeFacts, ServeTiming
from ..core.facts.record import Record
from ..core.metrics.intervals import Interval
from ..core.metrics.ratio import Ratio
from ..core.options.stage_options import BenchOptions, Gate, MetricName, Options, ServeOptions
from ..core.options.stage_table import PROGRAM_STAGES, reference_among
from ..core.preprocessing.specs import TextInput
from ..core.session import SessionOptions, open_session
from ..core.signature import Signature
from ..core.tensors import Array
from . import gates
from .gates import GateResult
from .measurements import ratios_in, save_ratios

if TYPE_CHECKING:
    from ..benchmarks.accuracy import Accuracy, Predictions
    from ..benchmarks.timing.latency import LatencyComparison
    from .line import Line

MEASUREMENTS = 3
"""Largest number of measurements for a gate of speed, of which all but the last were NOISY."""


def reference_of(line: Line) -> str:
    """The stage with which the others are compared; see :func:`.reference_among`."""
    return reference_among(line.numbers)


def predictions(line: Line, stage: str) -> Predictions:
    """Outputs of a stage's graph on the test split, and the targets; they are computed once and stored.

    A program stage is measured by its ONNX file, ``serve`` by the responses of its endpoint.
    """
    if stage == "serve":
        return load_predictions(line.outcome.artifacts["serve"])
    graph = graph_of(line, stage)

    def _make(place: Place) -> Artifact:
        from ..benchmarks.accuracy import predict

        session = open_session(graph.main, SessionOptions(threads=0))
        return save_predictions(place, "outputs", predict(session, line.data.test, console=line.console))

    return load_predictions(line.measure("outputs", Options(), [graph], _make, {}, f"{stage}-outputs"))


def save_predictions(place: Place, stage: str, found: Predictions, facts: ServeFacts | None = None) -> Artifact:
    """Write test outputs and targets as a measurement artifact."""
    arrays: dict[str, Any] = {f"out.{name}": array for name, array in found.outputs.items()}
    if found.targets is not None:
        arrays["targets"] = found.targets
    with new_artifact(place, "measurement", stage) as draft:
        draft.facts = facts or Record()
        np.savez(draft.folder / "outputs.npz", **arrays)
        (draft.folder / "measurement.json").write_text(json.dumps(draft.facts.to_json()))
    return load_artifact(place.directory)


def load_predictions(artifact: Artifact) -> Predictions:
    """Inverse of :func:`save_predictions`."""
    from ..benchmarks.accuracy import Predictions

    with np.load(artifact.file("outputs.npz")) as stored:
        found = {key.removeprefix("out."): stored[key] for key in stored.files if key != "targets"}
        return Predictions(found, stored["targets"] if "targets" in stored.files else None)


def metric_of(line: Line) -> MetricName:
    """The recipe's metric; without one, and without targets, how far the outputs agree with those of the reference."""
    from ..benchmarks.compare_models import metric_of as of_predictions

    if line.recipe.metric is None and len(line.data.test) and line.data.test.read([0])[1] is None:
        return of_predictions(predictions(line, reference_of(line)))
    return line.recipe.metric_name


def accuracy(line: Line, stage: str, against: str | None, confidence: float = 0.95) -> Accuracy:
    """The metric of a stage on the test split, with its drop against a reference on the same samples."""
    from ..benchmarks.accuracy import measure_accuracy

    reference = None if against is None or against == stage else predictions(line, against)
    own = predictions(line, stage)
    if reference is not None:
        reference = reference.first(len(own.main()))  # `serve.samples` may limit the number of samples
    seed = line.recipe.seed
    task = line.recipe.task
    names = line.data.classes if task in ("classification", "multilabel") else ()
    if task == "multilabel" and own.targets is not None:
        own = replace(own, targets=own.targets.astype(np.int64))  # rows with a single 1.0 are no scores of classes
    with importable(line.base):  # the metric may be the user's
        return measure_accuracy(metric_of(line), own, reference, confidence=confidence, seed=seed, classes=names)


def check_gate(line: Line, gate: Gate) -> GateResult:
    """Measure the value that a gate bounds, and compare it with the bound."""
    against = gate.against or reference_of(line)
    if against == gate.after:
        raise UserError(f"the gate after {gate.after} compares it with itself", "name another stage as `against`")
    if gate.accuracy_drop is not None:
        found = accuracy(line, gate.after, against, gate.confidence).drop
        if found is None:
            raise UserError(
                f"the metric '{metric_of(line)}' has no drop that a gate can bound", "choose another `metric`"
            )
        interval = found
    elif gate.size_ratio is not None:
        share = graph_bytes(line, gate.after) / graph_bytes(line, against)
        interval = Interval(share, share, share, gate.confidence)
    else:
        ratio = _speedup(line, gate, against)
        return gates.judge(gate, ratio.interval, against, line.recipe.metric_name, ratio.doubts, ratio.noise_floor)
    return gates.judge(gate, interval, against, metric_of(line))


def graph_of(line: Line, stage: str) -> Artifact:
    """The graph that represents a stage: that of its program, or the shipped one."""
    return line.graph(stage if stage in PROGRAM_STAGES else line.shipped())


def graph_bytes(line: Line, stage: str) -> int:
    """Bytes of the ONNX file of a stage."""
    return graph_of(line, stage).main.stat().st_size


def _speedup(line: Line, gate: Gate, against: str) -> Ratio:
    own = next((o for _, o in line.plan if isinstance(o, BenchOptions)), BenchOptions())
    options = own.model_copy(update={"batch_sizes": (gate.batch_size,), "confidence": gate.confidence})
    pair = {name: graph_of(line, name) for name in dict.fromkeys((against, gate.after))}

    def _make(place: Place) -> Artifact:
        return save_ratios(place, {str(gate.batch_size): _quiet_ratio(line, gate, pair, options)})

    label = f"{gate.after}-gate"
    found = ratios_in(line.measure("gate", options, list(pair.values()), _make, {}, label))
    return found[str(gate.batch_size)]


def _quiet_ratio(line: Line, gate: Gate, pair: dict[str, Artifact], options: BenchOptions) -> Ratio:
    """The speedup; a NOISY measurement is repeated, whatever its value, because a run must not end by chance."""
    for attempt in range(1, MEASUREMENTS + 1):
        ratio = compare(line, pair, options)[gate.batch_size].ratio_of(gate.after)
        if not ratio.doubts or attempt == MEASUREMENTS:
            break
        line.console.say(f"            the gate after {gate.after} is measured again ({attempt + 1} of {MEASUREMENTS})")
    return ratio


def compare(line: Line, graphs: dict[str, Artifact], options: BenchOptions) -> dict[int, LatencyComparison]:
    """Time graphs against the first of them in interleaved blocks, on this machine or on the device of the options."""
    return compared_on(line, graphs, options)[0]


def compared_on(
    line: Line, graphs: dict[str, Artifact], options: BenchOptions
) -> tuple[dict[int, LatencyComparison], dict[str, Any] | None]:
    """As :func:`compare`, with the device as the machine of a result; None for this machine."""
    from ..benchmarks.repeatability.first_use import known_floors
    from ..benchmarks.repeatability.noise_floor import largest
    from ..benchmarks.timing.latency import compare_sessions

    samples = line.data.test.read(range(min(LATENCY_SAMPLES, len(line.data.test))))[0]
    if options.timer is not None:
        from ..benchmarks.edge.device_timing import compare_on_device

        return compare_on_device({name: one.main for name, one in graphs.items()}, samples, options, line.console)
    openers = {name: opener(graph, options) for name, graph in graphs.items()}
    floors = known_floors(graphs.values(), options, line.console)
    return compare_sessions(openers, samples, options, line.console, noise_floor=largest(floors)), None


def serve(line: Line, options: ServeOptions) -> Artifact:
    """Start TorchServe, send it the test split, compare the responses bit for bit with a local session, and stop it."""
    archive, graph = line.outcome.artifacts["pack"], line.outcome.artifacts["export"]

    def _make(place: Place) -> Artifact:
        from ..benchmarks.accuracy import Predictions
        from ..serve.client import predict_split
        from ..serve.torchserve.server import serve as running

        test, rows = line.data.test, options.rows_per_request
        logs = line.folder / ".logs" / "serve"
        trusted = options.model_copy(update={"trust": tuple(str(line.base / key) for key in options.trust)})
        with running(trusted, archive, logs=logs, console=line.console) as server:
            raw = _reads_raw(server.models[0].signature, test)
            served = predict_split(server.client(), test, rows, console=line.console, limit=options.samples, raw=raw)
            started = server.startup_s
        count, threads = len(next(iter(served.values()))), int(archive.manifest.options.get("threads", 1))
        facts = ServeFacts(
            samples=count,
            rows_per_request=rows,
            bit_identical=same_bits(served, local_outputs(graph, test, rows, count, threads)),
            timing=ServeTiming(startup_s=started),
        )
        if not facts.bit_identical:
            raise VerificationError(
                f"the served outputs of {archive.path} differ from the local session's on the same "
                f"{counted(count, 'sample')}",
                "run `retort doctor`: the worker may use another runtime version or other threads",
            )
        line.console.stage("serve", f"{counted(count, 'sample')} over HTTP, equal to the local session bit for bit")
        return save_predictions(place, "serve", Predictions(served, test.read(range(count))[1]), facts)

    return line.measure("serve", options, [archive], _make)


def _reads_raw(signature: Signature, test: Split) -> bool:
    """Whether the files and texts of the test split are sent: then the proof covers what the server makes of them.

    Texts that the server pads less than training does give other bits.
    """
    specs = signature.preprocessing
    exact = not any(isinstance(spec, TextInput) and spec.free for spec in specs)
    return bool(specs) and exact and raw_values(test, [0]) is not None


def local_outputs(graph: Artifact, split: Split, rows: int, count: int, threads: int = 1) -> dict[str, Array]:
    """Outputs of a local session for the requests that :func:`serve` sends, each with ``rows`` samples."""
    session = open_session(graph.main, SessionOptions(threads=threads))
    parts = [session.run(split.read(range(i, min(i + rows, count)))[0]) for i in range(0, count, rows)]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def same_bits(one: dict[str, Array], other: dict[str, Array]) -> bool:
    """Whether two sets of arrays are equal in names, types, shapes and every bit."""
    return one.keys() == other.keys() and all(
        one[name].dtype == other[name].dtype
        and one[name].shape == other[name].shape
        and one[name].tobytes() == other[name].tobytes()
        for name in one
    )
