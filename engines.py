"""The subcommands about TensorRT and its rules: engine and lint."""

from __future__ import annotations

from typing import Any

from . import stages
from .commands import Debug, Json, Out, Settings, Source, _as_specs, _place, _reused, _tell, app, console, context_of
from .core.artifact import load_artifact, raise_if_not
from .core.options import EngineOptions
from .flags import build_options, with_flags


def engine(
    source: Source,
    set_: Settings = [],  # noqa: B006
    out: Out = None,
    json: Json = False,
    debug: Debug = False,
    **flags: Any,
) -> None:
    """Build the TensorRT plan of an ONNX graph, for the GPU and the TensorRT of this machine.

    A batch axis ranges over --batch-sizes; any other dynamic axis needs a range by its name:

    Example: `retort engine runs/export-…/model.onnx --axis sequence=8:128:512`
    """
    screen = console(json)
    parent = load_artifact(source)
    raise_if_not(parent, "graph")
    options = build_options(EngineOptions, _as_specs(flags), set_)
    context = context_of("", [], "classification", "tensorrt", 0, screen, needed=False)
    place = _place("engine", options, [parent], context, out, [stages.engine_identity()])
    _tell(_reused(place, screen) or stages.run_stage("engine", options, parent, place, context), screen)


app.command("engine")(with_flags(engine, EngineOptions))
