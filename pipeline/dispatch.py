"""Runs a stage by name on an artifact; INT8 programs are quantized again and ONNX files imported where needed."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.artifact import Artifact, is_finished, load_artifact
from ..core.context import Context, Place
from ..core.errors import RetortError, UserError
from ..core.options.stage_options import CaptureOptions, EngineOptions, ExportOptions, ModelSpec, Options
from ..core.options.stage_table import STAGES, stages_that
from ..core.system.folder_locks import held
from ..core.system.owned_folders import RUNS
from . import stages
from .cache_key import key_of
from .requantize import for_target
from .sample_faults import raise_if_samples_fail

if TYPE_CHECKING:
    from ..export.trt.explain import Explanation

StageFunction = Callable[[Any, Artifact, Place, Context], Artifact]


def stage_function(name: str) -> StageFunction:
    """The function of a stage that works on one artifact.

    Raises:
        UserError: there is no such stage.
    """
    entry = STAGES.get(name)
    if entry is None or entry.takes in (None, "model"):
        known = [entry.name for entry in STAGES.values() if entry.takes not in (None, "model")]
        raise UserError(f"'{name}' is not a stage that works on an artifact", f"one of {', '.join(known)}")
    function: StageFunction = getattr(stages, name)
    return function


def run_stage(name: str, options: Options, parent: Artifact, place: Place, context: Context) -> Artifact:
    """Run a stage on an artifact; its scratch folder is deleted at the end.

    A stage that works on programs also takes an ONNX file: the file is imported, and the result is exported again.

    Args:
        place: place of the stage's result, or of the ONNX file if one was given.

    Raises:
        UserError: there is no such stage, or an INT8 program for another target cannot be quantized again.
    """
    if parent.kind != "graph" or name not in stages_that(take="program"):
        return _run(name, options, parent, place, context)
    program = program_of(parent, context)
    if STAGES[name].makes != "program":
        return _run(name, options, program, place, context)
    made = _run(name, options, program, replace(place, directory=program_folder(place.directory)), context)
    return stages.export(ExportOptions(), made, replace(place, parents=(made.key,)), context)


def _run(name: str, options: Options, parent: Artifact, place: Place, context: Context) -> Artifact:
    stage = stage_function(name)
    origin = for_target(name, options, parent, place, context)
    own = place if origin is parent else replace(place, parents=(origin.key,))
    try:
        with context.console.working(name), _held(context.scratch):
            artifact = stage(options, origin, own, context)
            if context.scratch is not None:
                shutil.rmtree(context.scratch, ignore_errors=True)
    except Exception as error:
        if not isinstance(error, RetortError):
            raise_if_samples_fail(error, origin, context)
        raise
    return artifact


def _held(scratch: Path | None) -> AbstractContextManager[None]:
    """Keep `retort clean` from the folder of checkpoints while a stage may write there."""
    return nullcontext() if scratch is None else held(scratch)


def program_folder(directory: Path) -> Path:
    """The folder of the program from which a graph is exported."""
    return directory.with_name(f"{directory.name}-program")


def program_of(parent: Artifact, context: Context, runs: Path = RUNS) -> Artifact:
    """Import a graph as a program, once, and reuse it later; a program is returned unchanged.

    Raises:
        ModelError: the graph is already quantized, or has an operator that cannot be imported.
        CaptureError: the outputs of the imported program differ from ONNX Runtime.
    """
    if parent.kind != "graph":
        return parent
    spec = ModelSpec(source=str(parent.main.resolve()))
    key = key_of("capture", CaptureOptions(), [spec], context)
    place = Place(runs / f"import-{key[:12]}", key)
    if is_finished(place.directory):
        return load_artifact(place.directory)
    return stages.capture(CaptureOptions(), spec, place, context)


def explain(options: EngineOptions, parent: Artifact, context: Context) -> Explanation:
    """The types in which the layers of a graph or an engine compute, according to the installed TensorRT."""
    from ..export.trt.stage import explain as parse

    return parse(options, parent, context.console)
