"""The subcommand of `retort bench` that validates result files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ...core.errors import ArtifactError
from ..app import Debug, Json, console
from .bench_models import benching


@benching.command("validate")
def validate(
    file: Annotated[Path, typer.Argument(help="Result in .json, also of a load or of `import`, or a device's.")],
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Say whether a result is valid, or list all its faults; every figure is computed again from its raw times.

    Checksums are compared for the measured files that lie beside the result. Medians, percentiles, ratios, intervals,
    losses and verdicts must follow from what the result keeps; the exit code is not 0 if one does not. Older versions
    of the schema are read, too.

    Example: `retort bench validate result.json`
    """
    from ...benchmarks.validation.validation import validate_file

    screen = console(json)
    found = validate_file(file)
    for fault in found.faults:
        screen.warn(fault)
    for note in found.notes:
        screen.say(note)
    screen.result(found.to_dict(), found.sentence)
    if found.faults:
        raise typer.Exit(ArtifactError.exit_code)
