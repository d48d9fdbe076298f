"""The commands of `retort bench` that measure under load: load, cold, sweep and sustain."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ...core.console import Console
from ...core.errors import Interrupted
from ...core.options.load_options import ColdOptions, LoadOptions, SustainOptions, SweepOptions
from ..app import Data, DataArgs, Debug, ForceFile, Json, Settings, console, context_of
from ..flags import build_options, with_flags
from .bench_models import benching

if TYPE_CHECKING:
    from ...benchmarks.scenarios.load_candidates import LoadCandidate
    from ...benchmarks.scenarios.load_result import LoadResult
    from ...core.data.splits import Splits

Candidates = Annotated[
    list[str],
    typer.Argument(
        help="Model files or artifact folders, also with their provider as in model.onnx@openvino, and addresses of "
        "models on a running server. The first is the reference."
    ),
]
Models = Annotated[
    list[str],
    typer.Argument(help="Model files or artifact folders, also with their provider as in model.onnx@openvino."),
]
LoadOut = Annotated[Path | None, typer.Option(help="File for the result, .json, .html or .md.")]


def load(
    candidates: Candidates,
    data: Data,
    data_arg: DataArgs = [],  # noqa: B006
    out: LoadOut = None,
    force: ForceFile = False,
    set_: Settings = [],  # noqa: B006
    json: Json = False,
    debug: Debug = False,
    **flags: Any,
) -> None:
    """Measure a load scenario of MLPerf with any mix of models and endpoints, in windows in random order.

    Example: `retort bench load fp32.onnx int8.onnx http://127.0.0.1:8080/predictions/digits --data digits`;
    `retort bench load int8.onnx --data digits --scenario server --p99-ms 20`
    """
    from ...benchmarks.load_report.load_files import claim_load
    from ...benchmarks.scenarios.measure_load import measure_load

    screen, options = console(json), build_options(LoadOptions, flags, set_)
    claim_load(out, force)
    asked, splits = _asked(candidates, data, data_arg, options, options.timeout_s, screen)
    with screen.working("load"):
        result = measure_load(asked, splits, options, screen)
    _told(result, out, screen)


benching.command("load")(with_flags(load, LoadOptions))


def cold(
    models: Models,
    out: LoadOut = None,
    force: ForceFile = False,
    set_: Settings = [],  # noqa: B006
    json: Json = False,
    debug: Debug = False,
    **flags: Any,
) -> None:
    """Measure cold starts: importing the runtime, opening the model, its first call, and the time until it is steady.

    Each start is a new process, which calls the model with zeros.

    Example: `retort bench cold fp32.onnx int8.onnx --starts 20`
    """
    from ...benchmarks.load_report.load_files import claim_load
    from ...benchmarks.scenarios.cold_starts import measure_cold, require_models
    from ...benchmarks.scenarios.load_candidates import named_models, split_provider

    screen, options = console(json), build_options(ColdOptions, flags, set_)
    claim_load(out, force)
    require_models(models)
    files = [split_provider(text, options.provider) for text in models]
    named = named_models(files)
    given = {name: (artifact, where) for (name, artifact), (_, where) in zip(named.items(), files, strict=True)}
    with screen.working("cold"):
        result = measure_cold(given, options, screen)
    _told(result, out, screen)


benching.command("cold")(with_flags(cold, ColdOptions))


def sweep(
    models: Models,
    data: Data,
    data_arg: DataArgs = [],  # noqa: B006
    out: LoadOut = None,
    force: ForceFile = False,
    set_: Settings = [],  # noqa: B006
    json: Json = False,
    debug: Debug = False,
    **flags: Any,
) -> None:
    """Measure models over numbers of threads and batch sizes, and mark the best latency for each throughput.

    Example: `retort bench sweep fp32.onnx int8.onnx --data digits --threads 1 --threads 2 --batch-sizes 1
    --batch-sizes 32`
    """
    from ...benchmarks.load_report.load_files import claim_load
    from ...benchmarks.scenarios.sweep import measure_sweep

    screen, options = console(json), build_options(SweepOptions, flags, set_)
    claim_load(out, force)
    asked, splits = _asked(models, data, data_arg, options, 60.0, screen)
    with screen.working("sweep"):
        result = measure_sweep(asked, splits, options, screen)
    _told(result, out, screen)


benching.command("sweep")(with_flags(sweep, SweepOptions))


def sustain(
    candidates: Candidates,
    data: Data,
    data_arg: DataArgs = [],  # noqa: B006
    out: LoadOut = None,
    force: ForceFile = False,
    set_: Settings = [],  # noqa: B006
    json: Json = False,
    debug: Debug = False,
    **flags: Any,
) -> None:
    """Measure without a break for minutes, and rank the candidates by their last minute.

    Example: `retort bench sustain fp32.onnx int8.onnx --data digits --minutes 10`
    """
    from ...benchmarks.load_report.load_files import claim_load
    from ...benchmarks.scenarios.sustain import measure_sustained

    screen, options = console(json), build_options(SustainOptions, flags, set_)
    claim_load(out, force)
    asked, splits = _asked(candidates, data, data_arg, options, options.timeout_s, screen)
    with screen.working("sustain"):
        result = measure_sustained(asked, splits, options, screen)
    _told(result, out, screen)


benching.command("sustain")(with_flags(sustain, SustainOptions))


def _asked(
    candidates: list[str],
    data: str,
    data_arg: list[str],
    options: LoadOptions | SweepOptions | SustainOptions,
    timeout_s: float,
    screen: Console,
) -> tuple[list[LoadCandidate], Splits]:
    """What is measured, and the samples with which."""
    from ...benchmarks.scenarios.load_candidates import load_candidates

    splits = context_of(data, data_arg, "classification", "cpu", options.seed, screen, "test").data
    return load_candidates(candidates, splits, options.provider, options.samples, timeout_s), splits


def _told(result: LoadResult, out: Path | None, screen: Console) -> None:
    """Print the tables, write the result if a file was given, and print its one line."""
    from ...benchmarks.load_report.load_files import write_load_result
    from ...benchmarks.load_report.load_table import print_load
    from ...benchmarks.scenarios.load_result import brief

    print_load(result, screen)
    if out is not None:
        write_load_result(result, out)
        screen.say(f"wrote {out}")
    screen.result(brief(result))
    if result.interrupted:
        screen.warn("it was stopped early: these are the figures until then")
        raise typer.Exit(Interrupted.exit_code)
