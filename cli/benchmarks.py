"""The subcommands for measured results: report and compare."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .app import Debug, ForceFile, Json, app, console


@app.command("report")
def report(
    source: Annotated[Path, typer.Argument(help="Folder of a run, a bench artifact, or a result in .json.")],
    out: Annotated[Path, typer.Option(help="HTML file to write.")] = Path("report.html"),
    force: ForceFile = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Write a result as one self-contained HTML file.

    Example: `retort report runs/digits --out report.html`
    """
    from ..benchmarks.report.result_files import claim_result, write_result
    from ..benchmarks.report.table import print_table
    from ..pipeline.runs.run_folders import result_of

    screen = console(json)
    claim_result(out, force)
    result = result_of(source)
    write_result(result, out)
    print_table(result, screen)
    screen.result({"report": str(out)}, f"wrote {out}")


@app.command("compare")
def compare(
    before: Annotated[
        Path, typer.Argument(help="First result: a .json file, a bench artifact, or the folder of a run.")
    ],
    after: Annotated[Path, typer.Argument(help="Second result, in one of the same forms.")],
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Compare two measured results stage by stage, such as the runs of two different weeks.

    Example: `retort compare before.json runs/digits`
    """
    from ..benchmarks.report.compare import compare_results, comparison_rows, to_dict
    from ..pipeline.runs.run_folders import result_of

    screen = console(json)
    found = compare_results(result_of(before), result_of(after))
    screen.table(f"{before} → {after}", *comparison_rows(found))
    for note in found.notes:
        screen.warn(note)
    screen.result(to_dict(found))
