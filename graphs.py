"""ONNX files in, ONNX files out: the stages that work on programs, for people who have only a graph."""

from __future__ import annotations

from pathlib import Path

from . import stages
from .core.artifact import Artifact, is_finished, load_artifact, stable_hash
from .core.options import ExportOptions, ModelSpec, Options
from .pipeline import RUNS
from .stages import Context, Place

ON_PROGRAMS = ("train", "distill", "prune", "quantize", "export")


def run_stage(name: str, options: Options, parent: Artifact, place: Place, context: Context) -> Artifact:
    """A stage on any artifact: an ONNX file is imported before it, and what comes out is exported again.

    Args:
        place: of the stage's result; of the ONNX file, where one was given.
    """
    if parent.kind != "graph" or name not in ON_PROGRAMS:
        return stages.run_stage(name, options, parent, place, context)
    program = program_of(parent, context)
    if name == "export":
        return stages.run_stage(name, options, program, place, context)
    beside = place.directory.with_name(f"{place.directory.name}-program")
    made = stages.run_stage(name, options, program, Place(beside, place.key, place.parents), context)
    return stages.export(ExportOptions(), made, Place(place.directory, place.key, (made.key,)), context)


def program_of(graph: Artifact, context: Context, runs: Path = RUNS) -> Artifact:
    """The graph as a program, imported once and reused afterwards.

    Raises:
        ModelError: it is quantized already, or has an operator that cannot be imported.
        CaptureError: the imported program does not agree with ONNX Runtime.
    """
    key = stable_hash(["import", graph.key, context.data.fingerprint(), stages.code_version("capture")])
    place = Place(runs / f"import-{key[:12]}", key)
    if is_finished(place.directory):
        return load_artifact(place.directory)
    return stages.capture(ModelSpec(source=str(graph.main.resolve())), place, context)
