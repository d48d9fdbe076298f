"""The result of a run: every stage compared with the reference, as JSON, a table and an HTML report."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ...benchmarks.compare_models import measures_memory, ran_on
from ...benchmarks.sessions import runtime_name
from ...benchmarks.timing_limits import thread_limits
from ...core.artifact import Artifact, load_artifact, new_artifact, stable_hash
from ...core.context import Place
from ...core.counts import counted, listed
from ...core.cpu_targets import why_not_timed
from ...core.dynamic_kernels import DEPENDENT_ROWS
from ...core.facts.any_facts import AnyFacts
from ...core.facts.program_facts import Epoch
from ...core.facts.quantize_facts import QuantizeFacts
from ...core.options.stage_options import BenchOptions, ReportOptions
from ...core.options.stage_table import PROGRAM_STAGES, stages_that
from ..cache_key import metric_identity
from ..measure import accuracy, compared_on, graph_of, reference_of
from .recommendation import recommended
from .stage_evidence import evidence

if TYPE_CHECKING:
    from ...benchmarks.result import Result, StageEntry
    from ...benchmarks.timing.latency import LatencyComparison
    from ..line import Line

JUDGED = (*PROGRAM_STAGES, *stages_that(make="graph"), "serve")


def measured_stages(line: Line) -> list[str]:
    """The stages that have a row in the result: all from the reference on, in order."""
    made = line.outcome.artifacts
    names = [name for name in made if made[name].kind != "deployment"]  # which is a folder and no file to measure
    return [name for name in names[names.index(reference_of(line)) :] if name in {*JUDGED, "pack"}]


def bench(line: Line, options: BenchOptions, timed: bool = True) -> Artifact:
    """Measure every stage and the reference: accuracy, drop, bytes, memory, and latency in interleaved blocks.

    Args:
        timed: whether latency and memory are measured. They never are for ``arm`` without an Arm processor.
    """
    timed = timed and not _untimed(line, options)
    stages = measured_stages(line)
    graphs = {name: graph_of(line, name) for name in stages if name in PROGRAM_STAGES}
    parents = [*graphs.values(), *(line.outcome.artifacts[name] for name in stages if name not in PROGRAM_STAGES)]
    metric = metric_identity(line.recipe.metric, line.base)
    measured = {"timed": timed, "metric": metric, "stages": stages, "shipped": line.shipped()}
    told = _told(line)

    def _make(place: Place) -> Artifact:
        from ...benchmarks.result import save_result

        found = load_bench(_measurement(line, options, parents, graphs, measured)).model_copy(update=told)
        result = found.model_copy(update={"ship": recommended(line, found)})
        with new_artifact(place, "measurement", "bench") as draft:
            save_result(result, draft.folder / "measurement.json")
        return load_artifact(place.directory)

    words = [measured, {name: repr(value) for name, value in told.items()}, str(line.folder)]
    artifact = line.measure("bench", options, parents, _make, {"told": stable_hash(words)})
    line.outcome.result = load_bench(artifact)
    return artifact


def _untimed(line: Line, options: BenchOptions) -> str:
    """Why nothing is timed; empty on the target's processor, which may be that of a device."""
    return "" if options.timer is not None else why_not_timed(line.recipe.target)


def _told(line: Line) -> dict[str, Any]:
    """What a result tells beside its measurements; a change of it measures nothing again."""
    from ...benchmarks.result import GateEntry

    return {
        "title": line.recipe.name,
        "recipe": line.text,
        "details": tuple(evidence(line)),
        "gates": tuple(GateEntry(**gate.to_dict()) for gate in line.outcome.gates),
    }


def _measurement(
    line: Line,
    options: BenchOptions,
    parents: list[Artifact],
    graphs: dict[str, Artifact],
    measured: dict[str, Any],
) -> Artifact:
    """The result without what is told beside it.

    Args:
        measured: what is measured; it is part of the key.
    """

    def _make(place: Place) -> Artifact:
        from ...benchmarks.result import save_result

        result = _measure(line, options, measured["stages"], graphs, measured["timed"])
        with new_artifact(place, "measurement", "bench") as draft:
            save_result(result, draft.folder / "measurement.json")
        return load_artifact(place.directory)

    return line.measure("bench-outputs", options, parents, _make, measured)


def load_bench(artifact: Artifact) -> Result:
    """The result inside a measurement artifact."""
    from ...benchmarks.result import load_result

    return load_result(artifact.main)


def _measure(
    line: Line,
    options: BenchOptions,
    stages: list[str],
    graphs: dict[str, Artifact],
    timed: bool,
) -> Result:
    from ...benchmarks.build_result import new_result
    from ...benchmarks.footprint import measure_memory

    found: dict[int, LatencyComparison] = {}
    machine: dict[str, Any] | None = None
    if timed:
        sizes = listed(options.batch_sizes)
        line.console.stage("bench", f"{counted(graphs, 'model')} in interleaved blocks, at batch {sizes}")
        found, machine = compared_on(line, graphs, options)
    measured = line.console.track(list(graphs.items()), "memory") if timed and measures_memory(options) else ()
    memory = {name: measure_memory(graph.main) for name, graph in measured}
    entries = [_entry(line, name, graphs, found, memory, options) for name in stages]
    untimed = _untimed(line, options)
    limits = thread_limits([options.threads]) if timed and options.timer is None else []
    notes = [f"Latency was {untimed}."] if untimed else limits
    return new_result(
        line.recipe.name,
        entries,
        reference=reference_of(line),
        latency=found,
        data={"fingerprint": line.fingerprint, "test_samples": len(line.data.test), "source": line.recipe.data.source},
        notes=["Every program is measured as its exported ONNX file in ONNX Runtime.", *notes, *ran_on(options)],
        machine=machine,
    )


def _entry(
    line: Line,
    name: str,
    graphs: dict[str, Artifact],
    timed: dict[int, LatencyComparison],
    memory: dict[str, Any],
    options: BenchOptions,
) -> StageEntry:
    from ...benchmarks.build_result import stage_entry

    shipped = line.shipped()
    program = name if name in graphs else shipped
    facts = line.outcome.artifacts[program].facts_as(AnyFacts)
    artifact = graphs.get(name) or line.outcome.artifacts["pack" if name == "serve" else name]
    in_process = name in graphs or name == "export"
    latency = {batch: replace(run, candidates={name: run.candidates[program]}) for batch, run in timed.items()}
    return stage_entry(
        name,
        artifact,
        runtime=runtime_name(artifact.main, options.provider),
        accuracy=accuracy(line, name, reference_of(line), options.confidence) if name in JUDGED else None,
        latency=latency if in_process else None,
        memory=memory.get(program) if in_process else None,
        parameters=facts.parameters,
        macs=facts.macs,
        history=[_numbers(epoch) for epoch in facts.history] if name in graphs else [],
        notes=_notes(name, shipped) + _fidelity(line.outcome.artifacts.get(name)) + _dependent_rows(artifact),
    )


def _numbers(epoch: Epoch) -> dict[str, float]:
    """An epoch without the metric if there is no validation split."""
    return {name: value for name, value in epoch.to_json().items() if value is not None}


def _notes(name: str, shipped: str) -> list[str]:
    if name == "export":
        return [f"the ONNX file of `{shipped}`, which is shipped"]
    return ["over HTTP, equal to the local session bit for bit"] if name == "serve" else []


def _fidelity(artifact: Artifact | None) -> list[str]:
    """How similar the outputs of an INT8 program are to FP32, and what was needed for that."""
    if artifact is None or artifact.manifest.stage != "quantize":
        return []
    facts = artifact.facts_as(QuantizeFacts)
    notes = [f"INT8 against FP32 on held-out samples: {facts.against_fp32.describe()}"]
    kept = [trial.remedy for trial in facts.floor.tried if trial.kept] if facts.floor else []
    if kept:
        notes.append(f"INT8 in all layers would ruin the model, so it has {kept[0]}")
    elif facts.floor is not None and not facts.floor.met:
        notes.append(f"INT8 ruins this model, which was accepted: {facts.floor.shortfall}")
    return notes


def _dependent_rows(artifact: Artifact) -> list[str]:
    """The note about a file whose rows depend on each other."""
    return [] if artifact.facts_as(AnyFacts).batch_invariant else [DEPENDENT_ROWS]


def report(line: Line, options: ReportOptions) -> Artifact:
    """Write the result as one self-contained HTML file."""
    parent = line.outcome.artifacts["bench"]

    def _make(place: Place) -> Artifact:
        from ...benchmarks.report.html_report import write_report

        result = load_bench(parent)
        shown = result.model_copy(update={"title": options.title}) if options.title else result
        with new_artifact(place, "report", "report") as draft:
            write_report(shown, draft.folder / "report.html")
        return load_artifact(place.directory)

    artifact = line.measure("report", options, [parent], _make)
    line.outcome.report = artifact.main
    return artifact
