"""The command `retort bench gate`: whether models are still as fast, as accurate and as small as a stored baseline."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ...core.artifact import Artifact, load_artifact
from ...core.errors import GateError, UserError
from ...core.kinds import kind_of_suffix
from ...core.options.option_types import Provider
from ...core.options.stage_options import BenchOptions, MetricName
from ...core.system.atomic_files import write_atomically
from ...core.system.owned_folders import claim_file
from ..app import DataArgs, Debug, ForceFile, Json, MetricOption, Seed, Settings, console, context_of, given_options
from ..flags import build_options
from .bench_models import benching

if TYPE_CHECKING:
    from ...benchmarks.gating.baseline import Bounds
    from ...benchmarks.gating.gate_models import Gated
    from ...benchmarks.result import Result
    from ...core.console import Console
    from ...core.context import Context

SHARE_OF_BOUND = 0.4
"""How precisely the times are measured, as a share of the slowdown that must be found."""


@benching.command("gate")
def gate(
    current: Annotated[
        list[Path],
        typer.Argument(help="Model files to measure now, or one result: a .json file, a bench artifact or a run."),
    ],
    baseline: Annotated[Path, typer.Option(help="The stored result: a .json file, a bench artifact or a run.")],
    data: Annotated[str, typer.Option(help="Data on which model files are measured, as of `retort bench`.")] = "",
    data_arg: DataArgs = [],  # noqa: B006
    metric: MetricOption = None,
    slower: Annotated[str, typer.Option(help="The slowdown that must be found, such as 5%.")] = "5%",
    latency: Annotated[
        bool, typer.Option("--latency/--no-latency", help="Whether times are gated, or only accuracy and size.")
    ] = True,
    accuracy_drop: Annotated[
        float | None,
        typer.Option(
            min=0, help="Largest loss of the metric, such as 0.01 for one percentage point. Not gated if left out."
        ),
    ] = None,
    size: Annotated[
        str | None, typer.Option(help="Largest growth of the file, such as 5% or 0%. Not gated if left out.")
    ] = None,
    stage: Annotated[
        str | None, typer.Option(help="Stage of the baseline for one model. By default that of the same name.")
    ] = None,
    baseline_model: Annotated[
        Path | None,
        typer.Option(
            help="Model file of the baseline, for one model. By default a file with its name and SHA-256 in the folder "
            "of the baseline or up to two levels below."
        ),
    ] = None,
    cannot_tell: Annotated[
        Literal["pass", "fail"],
        typer.Option(help="What an undecided gate does. NOISY measurements never pass."),
    ] = "fail",
    markdown: Annotated[Path | None, typer.Option(help="File for a comment in Markdown.")] = None,
    batch_sizes: Annotated[
        list[int], typer.Option(min=1, help="Batch sizes to time. By default those of the baseline. Repeatable.")
    ] = [],  # noqa: B006
    threads: Annotated[
        int | None, typer.Option(min=1, help="Number of runtime threads. By default as in the baseline.")
    ] = None,
    budget_s: Annotated[float, typer.Option(min=0.1, help="Seconds of measurement per batch size.")] = 20.0,
    provider: Annotated[Provider, typer.Option(help="The execution provider, as of `retort bench`.")] = "cpu",
    force: ForceFile = False,
    seed: Seed = 0,
    set_: Settings = [],  # noqa: B006
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Compare models with a stored baseline; exit with 6 if they are slower, less accurate or larger than allowed.

    Model files are measured together with the baseline's own file, in interleaved blocks, if that file is still there:
    this finds a slowdown of 5 % on a busy machine. Without it two runs are compared, which differ by 2 to 5 % for one
    file, so that a small change cannot be told. Times of another machine, runtime or number of threads are refused.

    Example: `retort bench model.onnx --data digits --out baseline.json`, and later
    `retort bench gate new.onnx --baseline baseline.json --data digits --accuracy-drop 0.01`
    """
    from ...benchmarks.gating.baseline import Bounds
    from ...benchmarks.gating.gate_page import MARK
    from ...benchmarks.load_report.load_files import is_load

    screen = console(json)
    claim_file(markdown, force, MARK)
    slower_percent = percent_of(slower, "--slower") if latency else None
    bounds = Bounds(slower_percent, accuracy_drop, None if size is None else percent_of(size, "--size"))
    if is_load(baseline) or any(is_load(path) for path in current):
        _tell(_loads(baseline, current, bounds, data), markdown, cannot_tell, screen, _remedy_of_load)
        return
    before = _unedited(baseline)
    models = [path for path in current if _is_model(path)]
    if models and len(models) != len(current):
        raise UserError("results and model files cannot be gated together", "give either, in separate commands")
    with screen.working("gate"):
        if models:
            context = context_of(data, data_arg, "classification", "cpu", seed, screen, "test")
            asked = {"batch_sizes": batch_sizes, "threads": threads, "seed": seed, "provider": provider}
            options = _options(before, bounds, {**asked, "budget_s": budget_s}, set_)
            places = baseline, baseline_model, stage
            found = _measured(
                [load_artifact(path) for path in models], before, places, bounds, context, options, metric
            )
        else:
            found = _read(current, before, bounds, stage, data)
    _tell(found, markdown, cannot_tell, screen)


def percent_of(text: str, option: str) -> float:
    """Percent from ``5%``, ``5 %`` or a share such as ``0.05``.

    Raises:
        UserError: it is neither, is negative, or is a number from 1 on without a percent sign.
    """
    found = re.fullmatch(r"([0-9]*\.?[0-9]+)\s*(%?)", text.strip())
    if found is None or (not found[2] and float(found[1]) >= 1):
        raise UserError(f"{option} {text} is no share", "write a percentage such as 5%, or a share such as 0.05")
    return float(found[1]) * (1 if found[2] else 100)


def _is_model(path: Path) -> bool:
    if path.is_dir():
        from ...core.artifact import is_finished

        return is_finished(path) and load_artifact(path, verify=False).kind != "measurement"
    return kind_of_suffix(path.suffix) not in (None, "measurement")


def _options(before: Result, bounds: Bounds, flags: dict[str, Any], set_: list[str]) -> BenchOptions:
    """What is measured: by default at the batch sizes and with the threads of the baseline."""
    asked = dict(given_options(flags))
    if before.runs:
        asked.setdefault("batch_sizes", sorted({run.batch for run in before.runs}))
        asked.setdefault("threads", before.runs[0].threads)
    if bounds.slower_percent:
        asked.setdefault("precision", min(0.02, SHARE_OF_BOUND * bounds.slower_percent / 100))
    found: BenchOptions = build_options(BenchOptions, asked, set_)
    return found


def _measured(
    models: list[Artifact],
    before: Result,
    places: tuple[Path, Path | None, str | None],
    bounds: Bounds,
    context: Context,
    options: BenchOptions,
    metric: MetricName | None,
) -> Gated:
    """Measure model files, together with those of the baseline that are found.

    Args:
        places: the baseline, its model file and its stage as the user names them.
    """
    from ...benchmarks.compare_models import by_name, compare_files
    from ...benchmarks.gating.baseline import model_of, paired_names
    from ...benchmarks.gating.gate_models import gate_runs, gate_together
    from ...pipeline.one_runtime import in_one_runtime

    def measure(given: Any) -> Result:
        with tempfile.TemporaryDirectory() as folder:
            compared, notes = in_one_runtime(given, Path(folder), context)
            return compare_files(compared, context.data, options, metric, context.console, notes)

    baseline, given, stage = places
    named = by_name(models)
    names = paired_names([one.stage for one in before.stages], list(named), stage)
    if given is not None and len(names) != 1:
        raise UserError("--baseline-model is the file of one model", "gate one model in each command")
    files = {name: model_of(before.stage(old), baseline, given) for name, old in names.items()}
    pairs = {name: (file, named[name]) for name, file in files.items() if file is not None}
    if len(pairs) == len(names):
        return gate_together(pairs, measure, bounds, before)
    lost = ", ".join(f"{before.stage(names[name]).file}" for name in names if name not in pairs)
    context.console.warn(f"the baseline's file {lost} was not found below {baseline.parent}, so two runs are compared")
    return gate_runs(before, measure(named), names, bounds)


def _unedited(path: Path) -> Result:
    """The result of a path, whose figures follow from its raw times.

    Raises:
        ArtifactError: it was edited.
    """
    from ...benchmarks.validation.edited import require_unedited
    from ...benchmarks.validation.recomputation import Recomputation
    from ...pipeline.runs.run_folders import result_of

    found = result_of(path)
    require_unedited(path, Recomputation(found).faults)
    return found


def _read(current: list[Path], before: Result, bounds: Bounds, stage: str | None, data: str) -> Gated:
    from ...benchmarks.gating.baseline import paired_names
    from ...benchmarks.gating.gate_models import gate_runs

    if len(current) != 1:
        raise UserError("one result can be gated at a time", "give one result, or model files with --data")
    if data:
        raise UserError(f"{current[0]} is a result, so nothing is measured with --data", "leave out --data")
    after = _unedited(current[0])
    names = paired_names([one.stage for one in before.stages], [one.stage for one in after.stages], stage)
    return gate_runs(before, after, names, bounds)


def _loads(baseline: Path, current: list[Path], bounds: Bounds, data: str) -> Gated:
    """Two results of `retort bench load`, of which only the latency can be gated.

    Raises:
        UserError: something else is asked.
        ArtifactError: one of them was edited.
    """
    from ...benchmarks.gating.load_gate import gate_loads
    from ...benchmarks.scenarios.load_result import read_load
    from ...benchmarks.validation.edited import require_unedited
    from ...benchmarks.validation.load_recomputation import LoadRecomputation

    if bounds.slower_percent is None or bounds.accuracy_drop is not None or bounds.growth_percent is not None or data:
        raise UserError("of a load only the latency can be gated", "gate accuracy and size with `retort bench` results")
    if len(current) != 1:
        raise UserError("one result can be gated at a time", "give one result of `retort bench load`")
    before, after = read_load(baseline), read_load(current[0])
    for path, result in ((baseline, before), (current[0], after)):
        require_unedited(path, LoadRecomputation(result).faults)
    return gate_loads(before, after, bounds.slower_percent)


def _tell(
    found: Gated,
    markdown: Path | None,
    cannot_tell: str,
    screen: Console,
    remedy: Callable[[Gated], str] | None = None,
) -> None:
    """Print the table, write the page, and fail unless the gate passed.

    Args:
        remedy: what to do if it did not; by default that of models and results.

    Raises:
        GateError: the gate was missed, or could not be decided.
    """
    from ...benchmarks.build_result import this_command
    from ...benchmarks.gating import gate_page

    screen.table("gate", list(gate_page.COLUMNS), gate_page.rows(found))
    for note in found.notes:
        screen.say(note)
    if markdown is not None:
        write_atomically(markdown, gate_page.markdown(found, this_command()).encode())
        screen.say(f"wrote {markdown}")
    sentence = gate_page.verdict_line(found)
    if found.outcome == "passed" or (found.outcome == "cannot tell" and cannot_tell == "pass"):
        screen.result(found.to_dict(), sentence)
        return
    raise GateError(sentence.rstrip("."), (remedy or _remedy)(found), gate=found.to_dict())


_OR_PASS = "; or let undecided gates pass with --cannot-tell pass"


def _remedy(found: Gated) -> str:
    if found.outcome == "failed":
        return "find the change that did it, or store a new baseline if it is wanted"
    if found.of_device:
        longer = "measure both again with `retort edge run` and a larger --seconds"
        return longer if found.outcome == "invalid" else longer + _OR_PASS
    if found.outcome == "invalid":
        return "measure again on a machine that is less busy, or with a larger --budget-s"
    if not found.together:
        together = "gate the model file with --data and keep the baseline's model file beside it"
        return f"{together}, so that both are measured together{_OR_PASS}"
    return f"measure longer with --budget-s, use more test samples{_OR_PASS}"


def _remedy_of_load(found: Gated) -> str:
    """Loads are always compared in two runs, whose length is that of `bench load`."""
    if found.outcome == "failed":
        return _remedy(found)
    longer = "measure both again with a larger --seconds, on a machine that is less busy"
    return longer if found.outcome == "invalid" else longer + _OR_PASS
