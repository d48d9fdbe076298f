"""The subcommands for measurements: bench, report and compare."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from ..core.artifact import load_artifact
from ..core.options.stage_options import BenchOptions, MetricName
from .app import Data, DataArgs, Debug, ForceFile, Json, Seed, Settings, app, console, context_of
from .flags import build_options, with_flags


def bench(
    models: Annotated[list[Path], typer.Argument(help="Model files or artifact folders. The first is the reference.")],
    data: Data,
    data_arg: DataArgs = [],  # noqa: B006
    metric: Annotated[
        MetricName | None,
        typer.Option(
            help="Metric on the test split. By default it is chosen from the type of the targets; without targets, it "
            "is the agreement with the first model."
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="File for the result, .json or .html.")] = None,
    force: ForceFile = False,
    as_is: Annotated[
        bool,
        typer.Option(
            "--as-is",
            help="Measure programs (.pt2) in PyTorch, also beside an ONNX file. By default they are exported first, "
            "because otherwise the ratio would include the change of the runtime.",
        ),
    ] = False,
    seed: Seed = 0,
    set_: Settings = [],  # noqa: B006
    json: Json = False,
    debug: Debug = False,
    **flags: Any,
) -> None:
    """Compare the accuracy of model files sample by sample, and their latency in randomised interleaved blocks.

    Example: `retort bench fp32.onnx int8.onnx --data digits --batch-sizes 1 --batch-sizes 32`;
    `retort bench fp32.onnx int8.onnx --data digits --provider cuda`
    """
    from ..benchmarks.compare_models import by_name, compare_files
    from ..benchmarks.report.result_files import claim_result, write_result
    from ..benchmarks.report.table import print_table
    from ..pipeline.one_runtime import in_one_runtime

    screen = console(json)
    claim_result(out, force)
    options = build_options(BenchOptions, flags, set_)
    named = by_name([load_artifact(path) for path in models])
    context = context_of(data, data_arg, "classification", "cpu", seed, screen, "test")
    with screen.working("bench"), tempfile.TemporaryDirectory() as folder:
        compared, notes = (named, []) if as_is else in_one_runtime(named, Path(folder), context)
        result = compare_files(compared, context.data, options, metric, screen, notes)
    print_table(result, screen)
    if out is not None:
        write_result(result, out)
        screen.say(f"wrote {out}")
    screen.result(result.model_dump(mode="json", by_alias=True))


app.command("bench")(with_flags(bench, BenchOptions))


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
