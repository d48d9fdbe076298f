"""The subcommands that write a model for servers: bundle and pack."""

from __future__ import annotations

from typing import Any

from ..core.artifact import load_artifact
from ..core.options.stage_options import Options
from ..core.options.stage_table import STAGES
from ..pipeline.dispatch import run_stage
from .app import Debug, Force, Json, Out, Settings, Source, app, console, context_of, given_options, place_of, reused
from .describe import print_artifact
from .flags import build_options, with_flags


def bundle(
    source: Source,
    set_: Settings = [],  # noqa: B006
    out: Out = None,
    force: Force = False,
    json: Json = False,
    debug: Debug = False,
    **flags: Any,
) -> None:
    """Run the bundle stage."""
    _run("bundle", source, flags, set_, out, force, json)


def pack(
    source: Source,
    set_: Settings = [],  # noqa: B006
    out: Out = None,
    force: Force = False,
    json: Json = False,
    debug: Debug = False,
    **flags: Any,
) -> None:
    """Run the pack stage."""
    _run("pack", source, flags, set_, out, force, json)


def _run(
    name: str, source: Source, flags: dict[str, Any], settings: list[str], out: Out, force: bool, json: bool
) -> None:
    screen = console(json)
    parent = load_artifact(source)
    options: Options = build_options(STAGES[name].options, given_options(flags), settings)
    context = context_of("", [], "classification", "cpu", 0, screen, needed="nothing")
    place = place_of(name, options, parent, context, out, force)
    found = reused(place, screen, parent, out)
    print_artifact(found or run_stage(name, options, parent, place, context), screen)


for _command in (bundle, pack):
    _entry = STAGES[_command.__name__]
    _command.__doc__ = f"{_entry.purpose}\n\n    Example: `{_entry.example}`"
    app.command(_entry.name)(with_flags(_command, _entry.options))
