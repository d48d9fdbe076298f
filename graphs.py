"""ONNX files in, ONNX files out: the stages that work on programs, for people who have only a graph."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from . import speed, stages
from .core.artifact import Artifact, is_finished, load_artifact, settle, stable_hash, write_atomically
from .core.context import Context, Place
from .core.options import ExportOptions, ModelSpec, Options, QuantizeOptions
from .pipeline import RUNS
from .replacing import for_target

ON_PROGRAMS = ("train", "distill", "prune", "quantize", "export")


def run_stage(
    name: str, options: Options, parent: Artifact, place: Place, context: Context, slow: Mapping[str, str] | None = None
) -> Artifact:
    """A stage on any artifact: an ONNX file is imported before it, and what comes out is exported again.

    Args:
        place: of the stage's result; of the ONNX file, where one was given.
        slow: for ``quantize``, what stays in floating point for speed.
    """
    if parent.kind != "graph" or name not in ON_PROGRAMS:
        return _run(name, options, parent, place, context, slow)
    program = program_of(parent, context)
    if name == "export":
        return stages.run_stage(name, options, program, place, context)
    made = _run(name, options, program, Place(_beside(place.directory), place.key, place.parents), context, slow)
    return stages.export(ExportOptions(), made, Place(place.directory, place.key, (made.key,)), context)


def _run(
    name: str, options: Options, parent: Artifact, place: Place, context: Context, slow: Mapping[str, str] | None
) -> Artifact:
    if slow and isinstance(options, QuantizeOptions):
        made = stages.quantize(options, parent, place, context, slow)
        shutil.rmtree(context.scratch, ignore_errors=True)
        return made
    return stages.run_stage(name, options, parent, place, context)


def quantize(
    options: QuantizeOptions, parent: Artifact, place: Place, context: Context
) -> tuple[Artifact, speed.Ratios]:
    """Quantize, time it against FP32, and where it is slower quantize again without what is faster in FP32.

    A training is not done twice: with ``qat`` the search comes first.

    Returns:
        The artifact, and how many times as fast as FP32 it is; empty where it was not timed.
    """
    origin = for_target("quantize", options, parent, place, context)
    parent, place = origin, place if origin is parent else replace(place, parents=(origin.key,))
    batches = options.timed_batches
    slow: Mapping[str, str] = {}
    if not options.timed or context.target != "cpu" or options.plan is not None:
        made = run_stage("quantize", options, parent, place, context)
        return made, speed.tell(parent, made, context, batches) if options.timed else {}
    if options.qat is not None:
        slow = _kept(parent, options, place, context)
        made = run_stage("quantize", options, parent, place, context, slow)
        return made, speed.tell(parent, made, context, batches)
    # beside, until it is known to stay: a run that is killed must not leave it for the finished one
    first = run_stage("quantize", options, parent, replace(place, directory=_first(place.directory)), context)
    ratios = speed.tell(parent, first, context, batches)
    slow = speed.look_for_faster(_as_program(parent, context), options, context) if speed.is_slower(ratios) else {}
    if not slow:
        return _settled(first, place.directory), ratios
    made = run_stage("quantize", options, parent, place, context, slow)
    for folder in (first.path, _beside(first.path)):
        shutil.rmtree(folder, ignore_errors=True)
    return made, speed.tell(parent, made, context, batches)


def _first(directory: Path) -> Path:
    return directory.with_name(f".{directory.name}-first")


def _beside(directory: Path) -> Path:
    """Where the program lies that a graph is exported from."""
    return directory.with_name(f"{directory.name}-program")


def _settled(first: Artifact, directory: Path) -> Artifact:
    if is_finished(_beside(first.path)):
        settle(_beside(first.path), _beside(directory))
    settle(first.path, directory)
    return load_artifact(directory)


def _kept(parent: Artifact, options: QuantizeOptions, place: Place, context: Context) -> Mapping[str, str]:
    """The placement of a training, kept until it is done: resumed, it must meet the same program."""
    path = context.scratch / "placement.json"
    stored = json.loads(path.read_text()) if path.is_file() else {}
    if stored.get("key") != place.key:
        slow = speed.look_for_faster(_as_program(parent, context), options, context)
        stored = {"key": place.key, "slow": dict(slow)}
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(stored).encode())
    found: Mapping[str, str] = stored["slow"]
    return found


def _as_program(parent: Artifact, context: Context) -> Artifact:
    return program_of(parent, context) if parent.kind == "graph" else parent


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
