"""The subcommands for measured results: report and compare."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..core.console import Console
from .app import Debug, ForceFile, Json, app, console


@app.command("report")
def report(
    source: Annotated[
        Path,
        typer.Argument(
            help="Folder of a run or of a device's results, a bench artifact, or a result in .json, also of a load."
        ),
    ],
    out: Annotated[
        Path, typer.Option(help="File to write: .html for a page, .md for Markdown, .json for the result itself.")
    ] = Path("report.html"),
    force: ForceFile = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Write a result as one self-contained HTML file, or as Markdown for a pull request or a README.

    Every figure is computed again from the raw times first; a result that was edited is reported as INVALID.

    Example: `retort report runs/digits --out report.html`
    """
    from ..benchmarks.load_report.load_files import is_load

    screen = console(json)
    faults = _reported_load(source, out, force, screen) if is_load(source) else _reported(source, out, force, screen)
    for fault in faults:
        screen.warn(fault)
    screen.result({"report": str(out), "faults": faults}, f"wrote {out}")


def _reported(source: Path, out: Path, force: bool, screen: Console) -> list[str]:
    """Write and print a result; the figures that do not follow from its raw times."""
    from ..benchmarks.report.result_files import claim_result, write_result
    from ..benchmarks.report.table import print_table
    from ..benchmarks.validation.recomputation import Recomputation
    from ..pipeline.runs.run_folders import result_of

    claim_result(out, force)
    result = result_of(source)
    faults = Recomputation(result).faults
    write_result(result, out, faults)
    print_table(result, screen)
    return faults


def _reported_load(source: Path, out: Path, force: bool, screen: Console) -> list[str]:
    """The same for a measurement under load."""
    from ..benchmarks.load_report.load_files import claim_load, write_load_result
    from ..benchmarks.load_report.load_table import print_load
    from ..benchmarks.scenarios.load_result import read_load
    from ..benchmarks.validation.load_recomputation import LoadRecomputation

    claim_load(out, force)
    result = read_load(source)
    faults = LoadRecomputation(result).faults
    write_load_result(result, out, faults)
    print_load(result, screen)
    return faults


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
    from ..benchmarks.validation.edited import invalid
    from ..benchmarks.validation.recomputation import Recomputation
    from ..pipeline.runs.run_folders import result_of

    screen = console(json)
    results = {path: result_of(path) for path in (before, after)}
    edited = [told for path, one in results.items() if (told := invalid(path, Recomputation(one).faults))]
    found = compare_results(results[before], results[after])
    screen.table(f"{before} → {after}", *comparison_rows(found))
    for note in (*found.notes, *edited):
        screen.warn(note)
    screen.result(to_dict(found) | {"edited": edited})
