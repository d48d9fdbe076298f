"""The subcommands for TensorRT: engine, lint and trtexec."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

import typer

from ..core.artifact import Artifact, is_finished, load_artifact, raise_if_not
from ..core.console import Console
from ..core.counts import counted
from ..core.errors import ArtifactError, VerificationError
from ..core.facts.any_facts import AnyFacts
from ..core.options.stage_options import EngineOptions, Target
from ..core.system.owned_folders import claim_file
from ..pipeline.dispatch import run_stage
from .app import (
    Debug,
    Force,
    ForceFile,
    Json,
    Out,
    Settings,
    Source,
    app,
    console,
    context_of,
    given_options,
    place_of,
    reused,
)
from .describe import print_artifact
from .flags import build_options, with_flags

if TYPE_CHECKING:
    from onnx import ModelProto


def engine(
    source: Source,
    set_: Settings = [],  # noqa: B006
    out: Out = None,
    force: Force = False,
    explain: Annotated[
        bool, typer.Option("--explain", help="Build nothing. Show the type in which each layer computes.")
    ] = False,
    emit: Annotated[
        Literal["trtexec"] | None, typer.Option(help="Build nothing. Print the equivalent trtexec command.")
    ] = None,
    json: Json = False,
    debug: Debug = False,
    **flags: Any,
) -> None:
    """Build a TensorRT plan from an ONNX graph for this machine's GPU and TensorRT version.

    --batch-sizes sets the range of the batch axis. Every other dynamic axis needs its own range:

    Example: `retort engine runs/export-…/model.onnx --axis sequence=8:128:512`
    """
    screen = console(json)
    parent = load_artifact(source)
    options = build_options(EngineOptions, given_options(flags), set_)
    if explain:
        return _explain(options, parent, screen)
    raise_if_not(parent, "graph")
    if emit is not None:
        return _emit(options, parent, screen)
    context = context_of("", [], "classification", "tensorrt", 0, screen, needed="nothing")
    place = place_of("engine", options, parent, context, out, force)
    return print_artifact(
        reused(place, screen, parent, out) or run_stage("engine", options, parent, place, context), screen
    )


def _explain(options: EngineOptions, parent: Artifact, screen: Console) -> None:
    from ..export.trt.stage import explain

    found = explain(options, parent, screen)
    rows = [(row.layer, row.kind, row.precision, row.reason, row.change) for row in found.heavy]
    columns = ["layer", "type", "computes in", "why", "what to change"]
    screen.table(f"{parent.path}: layers that multiply, according to the {found.source}", columns, rows, words=True)
    if found.reformats:
        cells = [(item["layer"], item["from"], item["to"]) for item in found.reformats]
        screen.table("conversions between types or layouts", ["layer", "from", "to"], cells, words=True)
    totals = ", ".join(f"{count} {name}" for name, count in Counter(row.precision for row in found.heavy).items())
    text = "\n".join([f"layers that multiply: {totals or 'none'}", *found.notes])
    screen.result(found.to_dict(), text)


def _emit(options: EngineOptions, parent: Artifact, screen: Console) -> None:
    from ..export.trt.stage import engine_profiles
    from ..export.trt.trtexec_command import commands

    made = commands(parent.main, engine_profiles(options, parent.main), options)
    lines = [f"# TensorRT {line}\n{build}\n{measure}" for line, (build, measure) in made.items()]
    value = {line: {"build": build, "measure": measure} for line, (build, measure) in made.items()}
    screen.result(value, "\n".join(lines))


app.command("engine")(with_flags(engine, EngineOptions))


@app.command("lint")
def lint(
    model: Annotated[Path, typer.Argument(help=".onnx file, or folder of an export.")],
    target: Annotated[
        Target | None,
        typer.Option(
            help="Hardware that the model is made for. It determines the rules. The default is what the file was "
            "exported for, or tensorrt for a file that Retort did not export."
        ),
    ] = None,
    fix: Annotated[
        Path | None, typer.Option(help="File for the model in which all faults that can be fixed are fixed.")
    ] = None,
    force: ForceFile = False,
    advice: Annotated[bool, typer.Option(help="Also show advice on speed.")] = True,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Check an ONNX file against the rules of its target. Each fault comes with its rule, node, reason and remedy.

    `reject`: TensorRT rejects the file. `silent`: TensorRT accepts the file but computes something else.
    `advice`: the file runs slower than necessary. The exit code is 5 if there is a `reject` or a `silent`.

    Example: `retort lint model.onnx --fix fixed.onnx`
    """
    from ..export.files import load_graph
    from ..export.lint import lint as check

    screen = console(json)
    claim_file(fix, force)
    source = load_artifact(model)
    raise_if_not(source, "graph")
    loaded = load_graph(source.main)
    target = target or _exported_for(source) or "tensorrt"
    if target == "tensorrt" and _is_for_cpu(loaded):
        screen.warn(
            f"{model} was made for the cpu (UINT8 activations or ONNX Runtime's own operators): the faults below are "
            "those that it has for TensorRT; give `--target cpu` or `--target arm`, or export the program "
            "with `--target tensorrt`"
        )
    findings = check(loaded, target)
    fixed = _fix(loaded, target, fix, screen) if fix is not None else None
    shown = [item for item in findings if advice or item.verdict != "advice"]
    rows = [(item.rule, item.verdict, item.node, item.message, item.remedy) for item in shown]
    if rows:
        screen.table(f"{model}, for {target}", ["rule", "verdict", "node", "what is wrong", "remedy"], rows, words=True)
    serious = sum(item.verdict != "advice" for item in findings)
    text = f"{counted(serious, 'fault')}, {counted(len(findings) - serious, 'hint')} on speed"
    screen.result({"findings": [item.to_dict() for item in shown], "faults": serious, "fix": fixed}, text)
    left = serious if fixed is None else fixed["faults_left"]
    if left:
        raise typer.Exit(VerificationError.exit_code)


def _exported_for(graph: Artifact) -> Target | None:
    """The target of an export, of which the folder or the file is given; None for any other file."""
    folder = graph.path if graph.path.is_dir() else graph.path.resolve().parent
    if not is_finished(folder):
        return None
    try:
        whole = load_artifact(folder, verify=False)
    except ArtifactError:  # another program's manifest.json
        return None
    if whole.kind != "graph" or graph.main.name not in whole.manifest.files:
        return None
    target = whole.facts_as(AnyFacts).target
    return next((known for known in get_args(Target) if known == target), None)


def _is_for_cpu(model: ModelProto) -> bool:
    """Whether a file has what only CPU files have: ONNX Runtime's operators, or activations that become UINT8."""
    unsigned = {item.name for item in model.graph.initializer if item.data_type == item.UINT8}
    return any(
        node.domain == "com.microsoft"
        or (node.op_type == "QuantizeLinear" and len(node.input) > 2 and node.input[2] in unsigned)
        for node in model.graph.node
    )


def _fix(loaded: ModelProto, target: Target, path: Path, screen: Console) -> dict[str, Any]:
    from onnx import ModelProto as Model

    from ..export.files import save_graph
    from ..export.lint import lint as check
    from ..export.lint.change import measure_change
    from ..export.lint.fixes import fix

    fixed = Model()
    fixed.CopyFrom(loaded)
    done = fix(fixed)
    change, obstacle = measure_change(loaded, fixed)
    left = sum(item.verdict != "advice" for item in check(fixed, target))
    save_graph(fixed, path)
    if left:
        screen.warn("what remains cannot be fixed in the file: export the program again for its target")
    counts = ", ".join(f"{rule} ({count})" for rule, count in done.items()) or "nothing"
    numbers = ", ".join(f"{name} {value:.1e}" for name, value in change.items())
    screen.say(f"fixed {counts}; wrote {path}; {counted(left, 'fault')} {'remains' if left == 1 else 'remain'}")
    screen.say(f"largest change of the outputs: {numbers}" if change else f"outputs were not compared: {obstacle}")
    return {"file": str(path), "mended": done, "change": change, "not_compared": obstacle, "faults_left": left}


@app.command("trtexec")
def trtexec(
    log: Annotated[Path, typer.Argument(help="Output of trtexec, or the file that its --exportTimes wrote.")],
    plan: Annotated[Path, typer.Option(help="The plan that was measured.")],
    batch: Annotated[int, typer.Option(min=1, help="Rows per inference.")] = 1,
    out: Annotated[Path | None, typer.Option(help="File for the result, .json or .html.")] = None,
    force: ForceFile = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Convert the measurements of trtexec into a result that can be reported or compared with another.

    Example: `retort trtexec times.json --plan model.plan --batch 8 --out result.json`
    """
    from ..benchmarks.report.result_files import claim_result, write_result
    from ..benchmarks.report.table import print_table
    from ..benchmarks.trtexec_log import trtexec_result

    screen = console(json)
    claim_result(out, force)
    made = trtexec_result(log, plan, batch)
    print_table(made, screen)
    if out is not None:
        write_result(made, out)
        screen.say(f"wrote {out}")
    screen.result(made.model_dump(mode="json", by_alias=True))
