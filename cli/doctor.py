"""The subcommand `retort doctor`: what is missing on this machine, or what is wrong with a model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..core.artifact import load_artifact
from ..core.context import Context
from .app import Data, DataArgs, Debug, Json, Seed, TargetOption, TaskOption, app, console, context_of


@app.command("doctor")
def doctor(
    models: Annotated[
        list[Path] | None,
        typer.Argument(help="Forms of one model, .pt2 or .onnx. The first is the reference."),
    ] = None,
    data: Data = "",
    data_arg: DataArgs = [],  # noqa: B006
    task: TaskOption = "classification",
    target: TargetOption = "cpu",
    fix: Annotated[
        Path | None, typer.Option(help="Folder to write: quantize the first form again, with all corrections.")
    ] = None,
    seed: Seed = 0,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Report what is missing on this machine. Given a model, find the form that first loses accuracy, and why.

    A single FP32 program or ONNX file is enough: Retort makes its INT8 program and its Q/DQ file, and compares them on
    the validation split. With several files, the first is the reference.

    Example: `retort doctor`; `retort doctor runs/train-… --data digits`;
    `retort doctor fp32.pt2 fp32.onnx int8.pt2 int8.onnx --data digits --fix fixed`
    """
    if models:
        for path in models:
            load_artifact(path)  # a wrong path is told before the data are asked for and read
        _doctor_of_models(models, context_of(data, data_arg, task, target, seed, console(json)), fix)
        return
    from ..pipeline.diagnosis.environment import doctor as examine
    from ..pipeline.diagnosis.environment import table

    screen = console(json)
    checks = examine()
    columns, rows = table(checks)
    screen.table("retort doctor", columns, rows, words=True)
    screen.result({"checks": [vars(check) for check in checks]})


def _doctor_of_models(models: list[Path], context: Context, fix: Path | None) -> None:
    from ..pipeline.diagnosis.diagnose import diagnose, show
    from ..pipeline.diagnosis.diagnose import fix as requantize

    with context.console.working("doctor"):
        found = diagnose(models, context)
    show(found, context.console)
    facts = found.facts()
    if fix is not None:
        with context.console.working("doctor"):
            facts["mended"] = fixed = requantize(load_artifact(models[0]), fix, context)
        context.console.result({}, f"fixed: {fix}: centred SQNR {fixed.get('sqnr_centred_db')} dB")
    if context.console.mode == "json":
        context.console.result(facts)
    elif found.first is None and not found.findings:
        context.console.result({}, "no faults found")
