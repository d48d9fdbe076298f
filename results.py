"""The result of a line: every stage measured beside the reference, as JSON, a table and an HTML report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .core.artifact import Artifact, is_finished, load_artifact, new_artifact, stable_hash
from .core.console import Console
from .core.context import Place
from .core.data import Splits
from .core.dynamic import NEIGHBOURS
from .core.errors import MissingFileError, UserError
from .core.options import BenchOptions, MetricName, ReportOptions
from .core.session import PROVIDERS
from .core.sources import fit_to
from .core.stage_table import PROGRAM_STAGES, stages_that
from .core.tensors import Array
from .measuring import LATENCY_SAMPLES, accuracy, compare, graph_of, opener, reference_of

if TYPE_CHECKING:
    from .benchmarks.latency import LatencyComparison
    from .benchmarks.result import Result, StageEntry
    from .line import Line

JUDGED = (*PROGRAM_STAGES, *stages_that(make="graph"), "serve")


def measured_stages(line: Line) -> list[str]:
    """The stages that get a row, from the reference on, in order."""
    names = list(line.outcome.artifacts)
    return [name for name in names[names.index(reference_of(line)) :] if name in {*JUDGED, "pack"}]


def bench(line: Line, options: BenchOptions) -> Artifact:
    """Measure every stage beside the reference: accuracy, drop, bytes, memory, and latency in interleaved blocks."""
    stages = measured_stages(line)
    graphs = {name: graph_of(line, name) for name in stages if name in PROGRAM_STAGES}
    parents = [*graphs.values(), *(line.outcome.artifacts[name] for name in stages if name not in PROGRAM_STAGES)]
    gates = [gate.to_dict() for gate in line.outcome.gates]

    def _make(place: Place) -> Artifact:
        from .benchmarks.result import save_result

        result = _measure(line, options, stages, graphs, gates)
        with new_artifact(place, "measurement", "bench") as folder:
            save_result(result, folder / "measurement.json")
        return load_artifact(place.directory)

    artifact = line.measure("bench", options, parents, _make, {"gates": stable_hash(gates)})
    line.outcome.result = load_bench(artifact)
    return artifact


def load_bench(artifact: Artifact) -> Result:
    """The result inside a measurement artifact."""
    from .benchmarks.result import load_result

    return load_result(artifact.main)


def _measure(
    line: Line, options: BenchOptions, stages: list[str], graphs: dict[str, Artifact], gates: list[dict[str, Any]]
) -> Result:
    from .benchmarks.assemble import new_result
    from .benchmarks.footprint import measure_memory

    line.console.stage("bench", f"{len(graphs)} models in interleaved blocks, batch {list(options.batch_sizes)}")
    timed = compare(line, graphs, options)
    told = line.console.track(list(graphs.items()), "memory") if options.provider == "cpu" else ()
    memory = {name: measure_memory(graph.main) for name, graph in told}
    entries = [_entry(line, name, graphs, timed, memory, options.confidence) for name in stages]
    return new_result(
        line.recipe.name,
        entries,
        reference=reference_of(line),
        latency=timed,
        gates=gates,
        data={"fingerprint": line.fingerprint, "test_samples": len(line.data.test), "source": line.recipe.data.source},
        notes=["Every program is measured as the ONNX file exported of it, in ONNX Runtime.", *_ran_on(options)],
    )


def _entry(
    line: Line,
    name: str,
    graphs: dict[str, Artifact],
    timed: dict[int, LatencyComparison],
    memory: dict[str, Any],
    confidence: float,
) -> StageEntry:
    from .benchmarks.assemble import stage_entry

    shipped = line.shipped()
    program = name if name in graphs else shipped
    facts = line.outcome.artifacts[program].facts
    artifact = graphs.get(name) or line.outcome.artifacts["pack" if name == "serve" else name]
    in_process = name in graphs or name == "export"
    latency = {batch: replace(run, candidates={name: run.candidates[program]}) for batch, run in timed.items()}
    return stage_entry(
        name,
        artifact,
        accuracy=accuracy(line, name, reference_of(line), confidence) if name in JUDGED else None,
        latency=latency if in_process else None,
        memory=memory.get(program) if in_process else None,
        parameters=facts.get("parameters"),
        macs=facts.get("macs"),
        seconds=facts.get("timing", {}).get("seconds"),
        history=facts.get("history", []) if name in graphs else [],
        notes=_notes(name, shipped) + _neighbours(artifact),
    )


def _notes(name: str, shipped: str) -> list[str]:
    if name == "export":
        return [f"the ONNX file of `{shipped}`, as it is shipped"]
    return ["over HTTP, bit for bit as the local session"] if name == "serve" else []


def _neighbours(artifact: Artifact) -> list[str]:
    """What is said of a file whose rows are not independent."""
    return [] if artifact.facts.get("batch_invariant", True) else [NEIGHBOURS]


def report(line: Line, options: ReportOptions) -> Artifact:
    """Write the result as one self-contained HTML file."""
    parent = line.outcome.artifacts["bench"]

    def _make(place: Place) -> Artifact:
        from .benchmarks.report import write_report

        result = load_bench(parent)
        shown = result.model_copy(update={"title": options.title}) if options.title else result
        with new_artifact(place, "report", "report") as folder:
            write_report(shown, folder / "report.html")
        return load_artifact(place.directory)

    artifact = line.measure("report", options, [parent], _make)
    line.outcome.report = artifact.main
    return artifact


def print_table(result: Result, console: Console) -> None:
    """One row per stage on stdout."""
    from .benchmarks.table import table_rows

    columns, rows = table_rows(result)
    console.table(result.title, columns, rows)


def compare_files(
    given: list[Artifact] | Mapping[str, Artifact],
    splits: Splits,
    options: BenchOptions,
    metric: MetricName | None,
    console: Console,
) -> Result:
    """Measure model files beside the first of them.

    Args:
        given: the files, with a name for each where the caller has one; by default names are made of the paths.

    Raises:
        UserError: two of them have the same name.
    """
    from .benchmarks.accuracy import measure_accuracy, predict
    from .benchmarks.assemble import new_result, stage_entry
    from .benchmarks.footprint import measure_memory
    from .benchmarks.latency import compare_sessions

    names = list(given) if isinstance(given, Mapping) else _names(given)
    models = list(given.values()) if isinstance(given, Mapping) else given
    openers = {name: opener(model, options) for name, model in zip(names, models, strict=True)}
    sessions = [opened() for opened in openers.values()]
    data = [fit_to(splits, session.signature).test for session in sessions]
    found = [predict(*pair, console=console) for pair in zip(sessions, data, strict=True)]
    judged = metric or metric_of(found[0].targets)
    samples = data[0].read(range(min(LATENCY_SAMPLES, len(data[0]))))[0]
    for session in sessions:
        session.close()
    timed = compare_sessions(openers, samples, options, console)
    entries = []
    for index, (name, model) in enumerate(zip(names, models, strict=True)):
        reference = found[0] if index else None
        measured = judged and measure_accuracy(judged, found[index], reference, confidence=options.confidence)
        memory = measure_memory(model.main, threads=options.threads) if options.provider == "cpu" else None
        entries.append(stage_entry(name, model, accuracy=measured or None, latency=timed, memory=memory))
    facts = {"fingerprint": splits.fingerprint(), "test_samples": len(splits.test)}
    title, notes = " against ".join(reversed(names)), _ran_on(options)
    return new_result(title, entries, reference=names[0], latency=timed, data=facts, notes=notes)


def _ran_on(options: BenchOptions) -> list[str]:
    """What is said of models that did not run on the CPU, whose memory in this machine says nothing of them."""
    if options.provider == "cpu":
        return []
    return [f"ONNX files ran on {PROVIDERS[options.provider][0]}, asked node by node; memory is not measured."]


def metric_of(targets: Array | None) -> MetricName | None:
    """The usual metric for targets: accuracy for classes, MSE for values, none without targets."""
    if targets is None:
        return None
    return "accuracy" if targets.dtype.kind in "iu" else "mse"


def _names(models: list[Artifact]) -> list[str]:
    forms = (
        [model.path.stem if model.path.is_file() else model.path.name for model in models],
        [model.path.resolve().parent.name if model.path.is_file() else model.path.name for model in models],
        [str(model.path) for model in models],
    )
    for names in forms:
        if len(set(names)) == len(names):
            return names
    raise UserError("the same model was given twice", "give each model once; copy the file for an A/A comparison")


def write_result(result: Result, path: Path) -> None:
    """Write a result as ``.json`` or as an HTML report.

    Raises:
        UserError: another suffix.
    """
    from .benchmarks.report import write_report
    from .benchmarks.result import save_result

    if path.suffix not in {".json", ".html"}:
        raise UserError(f"cannot write a result as '{path.suffix}'", "name a .json or an .html file")
    (save_result if path.suffix == ".json" else write_report)(result, path)


def find_result(source: Path) -> Result:
    """The result in a file, a bench artifact, or the newest one in a run's folder.

    Raises:
        MissingFileError: there is none.
    """
    from .benchmarks.result import load_result

    if source.is_dir() and not is_finished(source):
        benches = sorted(source.glob("*-bench-*"), key=lambda folder: folder.stat().st_mtime)
        if not benches:
            raise MissingFileError(f"{source} holds no measurement", "run a recipe with a `bench` stage first")
        source = benches[-1]
    return load_result(load_artifact(source).main if source.is_dir() else source)
