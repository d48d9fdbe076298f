"""The group `retort bench` and its command for model files, which may be left out: `retort bench a.onnx b.onnx`."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from ...core.artifact import load_artifact
from ...core.options.stage_options import BenchOptions
from ..app import Data, DataArgs, Debug, ForceFile, Json, MetricOption, Seed, Settings, app, console, context_of
from ..flags import build_options, with_flags
from ..interruptible import Interruptible


class DefaultRun(Interruptible):
    """A group in which arguments without a command's name belong to the command `run`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put the name before arguments that have none; `--help` alone is that of the group."""
        named = not args or args[0] in self.commands or args[0] in ctx.help_option_names
        return list(super().parse_args(ctx, args if named else ["run", *args]))


benching = typer.Typer(
    cls=DefaultRun,
    help="Measure models: accuracy on paired samples, and latency in interleaved blocks.\n\n"
    "The command `run` may be left out: `retort bench fp32.onnx int8.onnx --data digits`.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)
app.add_typer(benching, name="bench")


def run(
    models: Annotated[list[Path], typer.Argument(help="Model files or artifact folders. The first is the reference.")],
    data: Data,
    data_arg: DataArgs = [],  # noqa: B006
    metric: MetricOption = None,
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

    The word `run` may be left out.

    Example: `retort bench fp32.onnx int8.onnx --data digits --batch-sizes 1 --batch-sizes 32`;
    `retort bench fp32.onnx int8.onnx --data digits --provider cuda`
    """
    from ...benchmarks.compare_models import by_name, compare_files
    from ...benchmarks.edge.device_timing import require_timable
    from ...benchmarks.report.result_files import claim_result, write_result
    from ...benchmarks.report.table import print_table
    from ...pipeline.one_runtime import in_one_runtime

    screen = console(json)
    claim_result(out, force)
    options = build_options(BenchOptions, flags, set_)
    named = by_name([load_artifact(path) for path in models])
    if as_is:
        require_timable(named, options)
    context = context_of(data, data_arg, "classification", "cpu", seed, screen, "test")
    with screen.working("bench"), tempfile.TemporaryDirectory() as folder:
        compared, notes = (named, []) if as_is else in_one_runtime(named, Path(folder), context)
        result = compare_files(compared, context.data, options, metric, screen, notes)
    print_table(result, screen)
    if out is not None:
        write_result(result, out)
        screen.say(f"wrote {out}")
    screen.result(result.model_dump(mode="json", by_alias=True))


benching.command("run")(with_flags(run, BenchOptions))
