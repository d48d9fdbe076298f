"""The subcommands that write a model for servers: bundle and pack."""

from __future__ import annotations

from typing import Any

from ...core.artifact import load_artifact
from ...core.options.stage_options import Options
from ...core.options.stage_table import STAGES, StageEntry
from ...pipeline.dispatch import run_stage
from ..app import Debug, Force, Json, Out, Settings, Source, app, console, context_of, given_options, place_of, reused
from ..describe import print_artifact
from ..flags import build_options, with_flags


def _packing_command(entry: StageEntry) -> None:
    def command(
        source: Source,
        set_: Settings = [],  # noqa: B006
        out: Out = None,
        force: Force = False,
        json: Json = False,
        debug: Debug = False,
        **flags: Any,
    ) -> None:
        screen = console(json)
        parent = load_artifact(source)
        options: Options = build_options(entry.options, given_options(flags), set_)
        context = context_of("", [], "classification", "cpu", 0, screen, needed="nothing")
        place = place_of(entry.name, options, parent, context, out, force)
        found = reused(place, screen, parent, out)
        print_artifact(found or run_stage(entry.name, options, parent, place, context), screen)

    command.__doc__ = f"{entry.purpose}\n\n    Example: `{entry.example}`"
    app.command(entry.name)(with_flags(command, entry.options))


for _name in ("bundle", "pack"):
    _packing_command(STAGES[_name])
