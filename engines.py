"""The subcommands about TensorRT and its rules: engine and lint."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import stages
from .commands import Debug, Json, Out, Settings, Source, _as_specs, _place, _reused, _tell, app, console, context_of
from .core.artifact import load_artifact, raise_if_not
from .core.console import Console
from .core.errors import VerificationError
from .core.options import EngineOptions, Target
from .flags import build_options, with_flags

if TYPE_CHECKING:
    from onnx import ModelProto


def engine(
    source: Source,
    set_: Settings = [],  # noqa: B006
    out: Out = None,
    json: Json = False,
    debug: Debug = False,
    **flags: Any,
) -> None:
    """Build the TensorRT plan of an ONNX graph, for the GPU and the TensorRT of this machine.

    A batch axis ranges over --batch-sizes; any other dynamic axis needs a range by its name:

    Example: `retort engine runs/export-…/model.onnx --axis sequence=8:128:512`
    """
    screen = console(json)
    parent = load_artifact(source)
    raise_if_not(parent, "graph")
    options = build_options(EngineOptions, _as_specs(flags), set_)
    context = context_of("", [], "classification", "tensorrt", 0, screen, needed=False)
    place = _place("engine", options, [parent], context, out, [stages.engine_identity()])
    _tell(_reused(place, screen) or stages.run_stage("engine", options, parent, place, context), screen)


app.command("engine")(with_flags(engine, EngineOptions))


@app.command("lint")
def lint(
    model: Annotated[Path, typer.Argument(help="an .onnx file, or the folder of an export")],
    target: Annotated[Target, typer.Option(help="what the model is for; fixes the rules")] = "tensorrt",
    fix: Annotated[Path | None, typer.Option(help="write the model with all that can be mended to this file")] = None,
    advice: Annotated[bool, typer.Option(help="show advice on speed, too")] = True,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Check an ONNX file against the rules of its target; each fault with its rule, node, reason and remedy.

    `reject`: TensorRT refuses the file. `silent`: it takes it for another model. `advice`: it runs slower than need be.
    The exit code is 5 when there is more than advice.

    Example: `retort lint model.onnx --fix mended.onnx`
    """
    from .export.graph_file import load_graph
    from .export.lint import lint as check

    screen = console(json)
    loaded = load_graph(load_artifact(model).main)
    findings = check(loaded, target)
    mended = _mend(loaded, target, fix, screen) if fix is not None else None
    shown = [item for item in findings if advice or item.verdict != "advice"]
    rows = [(item.rule, item.verdict, item.node, item.message, item.remedy) for item in shown]
    if rows:
        screen.table(f"{model}, for {target}", ["rule", "verdict", "node", "what is wrong", "remedy"], rows, words=True)
    serious = sum(item.verdict != "advice" for item in findings)
    text = f"{serious} faults, {len(findings) - serious} pieces of advice"
    screen.result({"findings": [item.to_dict() for item in shown], "faults": serious, "fix": mended}, text)
    left = serious if mended is None else mended["faults_left"]
    if left:
        raise typer.Exit(VerificationError.exit_code)


def _mend(loaded: ModelProto, target: Target, path: Path, screen: Console) -> dict[str, Any]:
    from onnx import ModelProto as Model
    from onnx import save

    from .export.lint import lint as check
    from .export.lint.change import measure_change
    from .export.lint.fixes import fix as mend

    fixed = Model()
    fixed.CopyFrom(loaded)
    done = mend(fixed)
    change, obstacle = measure_change(loaded, fixed)
    left = sum(item.verdict != "advice" for item in check(fixed, target))
    save(fixed, str(path))
    counts = ", ".join(f"{rule} ({count})" for rule, count in done.items()) or "nothing"
    numbers = ", ".join(f"{name} {value:.1e}" for name, value in change.items())
    screen.say(f"mended {counts}; wrote {path}; {left} faults left")
    screen.say(f"largest change of the outputs: {numbers}" if change else f"not compared: {obstacle}")
    return {"file": str(path), "mended": done, "change": change, "not_compared": obstacle, "faults_left": left}
