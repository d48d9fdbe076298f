"""The subcommands of `retort` for recipes, artifacts and stages."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from ..core.artifact import Artifact, is_finished, load_artifact
from ..core.console import Console
from ..core.context import Context, Place
from ..core.data.data_sources import load_data
from ..core.errors import MissingFileError, UserError
from ..core.options.recipe import load_recipe
from ..core.options.recipe import schema as recipe_schema
from ..core.options.stage_options import CaptureOptions, DataSpec, ModelSpec, Options, QuantizeOptions, Target, Task
from ..core.options.stage_table import STAGES, StageEntry
from ..core.system.owned_folders import claim, scratch_of
from ..pipeline import run as pipeline
from ..pipeline import run_summary, stages
from ..pipeline.cache_key import key_of
from ..pipeline.dispatch import RUNS, run_stage
from ..pipeline.reuse import find_finished
from ..pipeline.tuning.int8_speed import speed_of
from . import describe
from .flags import build_options, with_flags
from .interruptible import Interruptible
from .prune_groups import explainable
from .recipe_template import STARTER

app = typer.Typer(
    cls=Interruptible,
    help="Distil, prune, quantize, export and serve a trained PyTorch model, and measure what it costs and gains.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
)
Json = Annotated[bool, typer.Option("--json", help="Print one line of JSON instead of text.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
Runs = Annotated[Path, typer.Option(help="Folder that contains one folder per recipe.")]
Data = Annotated[str, typer.Option(help=DataSpec.model_fields["source"].description)]
DataArgs = Annotated[
    list[str], typer.Option("--data-arg", help="Argument of the data source, as key=value. Repeatable.")
]
TaskOption = Annotated[Task, typer.Option(help="What the model does.")]
TargetOption = Annotated[
    Target, typer.Option(help="Hardware that the model is made for. It determines the quantization scheme.")
]
Seed = Annotated[int, typer.Option(help="Random seed.")]
Out = Annotated[Path | None, typer.Option(help="Folder to write. By default it is named after the hash of its inputs.")]
Force = Annotated[bool, typer.Option("--force", help="Replace the result of other inputs or options in --out.")]
ForceFile = Annotated[bool, typer.Option("--force", help="Replace an existing file.")]
Settings = Annotated[
    list[str], typer.Option("--set", help="Any option by its key, such as --set recover.epochs=3. Repeatable.")
]
Source = Annotated[Path, typer.Argument(help="Artifact folder or model file.")]


def console(json_mode: bool) -> Console:
    """The console of a command."""
    return Console("json" if json_mode else "text")


@app.command("init")
def init(
    path: Annotated[Path, typer.Argument(help="Recipe file to write.")] = Path("recipe.yaml"),
    model: Annotated[str, typer.Option(help="package.module:factory, or a .pt2 file.")] = "my_package.my_module:build",
    data: Data = "my_package.my_data:splits",
    force: Annotated[bool, typer.Option(help="Overwrite an existing file.")] = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Write a commented starter recipe.

    Example: `retort init recipe.yaml --model my_net:build --data digits`
    """
    if path.exists() and not force:
        raise UserError(f"{path} already exists", "choose another name, or overwrite it with --force")
    if not path.parent.is_dir():
        raise MissingFileError(f"the folder {path.parent} does not exist", "create it, or choose another path")
    path.write_text(STARTER.format(name=path.stem, model=model, data=data))
    console(json).result({"recipe": str(path)}, f"wrote {path}; next: retort check {path}")


@app.command("check")
def check(
    recipe: Annotated[Path, typer.Argument(help="Recipe file.")], json: Json = False, debug: Debug = False
) -> None:
    """List all faults of a recipe at once, each with its line and the closest known spelling.

    Example: `retort check recipe.yaml`
    """
    made = load_recipe(recipe)
    names = [stage.name for stage in made.stages]
    text = f"{recipe} is valid: {' → '.join(names)}; {len(made.gates)} gate{'' if len(made.gates) == 1 else 's'}"
    console(json).result({"recipe": made.model_dump(mode="json"), "stages": names}, text)


@app.command("schema")
def schema(json: Json = False, debug: Debug = False) -> None:
    """Print the JSON Schema of recipes, so that an editor can check and complete them.

    Example: `retort schema > recipe.schema.json`
    """
    typer.echo(describe.dump(recipe_schema()))


@app.command("run")
def run(
    recipe: Annotated[Path, typer.Argument(help="Recipe file.")],
    runs: Runs = RUNS,
    until: Annotated[str | None, typer.Option(help="Last stage to run.")] = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Run all stages of a recipe. Stages that are already finished are reused.

    Example: `retort run examples/digits.yaml`
    """
    out = console(json)
    outcome = pipeline.run(recipe, runs, out, until)
    run_summary.show(outcome, out)
    out.result(run_summary.as_json(outcome))


@app.command("show")
def show(
    path: Annotated[Path, typer.Argument(help="Artifact folder, model file, or folder of a run.")],
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Show the content of an artifact or a run, and verify its hashes.

    Example: `retort show runs/digits`
    """
    if not path.exists():
        raise MissingFileError(f"{path} does not exist", "check the path")
    folders = [path] if path.is_file() or is_finished(path) else sorted(p for p in path.glob("*") if is_finished(p))
    if not folders:
        raise UserError(f"{path} contains no finished artifact", "run a recipe or a stage first")
    artifacts = [load_artifact(folder) for folder in folders]
    signature = describe.signature_of(artifacts[0]) if len(artifacts) == 1 else None
    out = console(json)
    rows = [describe.row(artifact) for artifact in artifacts]
    out.table(str(path), ["artifact", "kind", "key", "bytes", "parameters", "MACs"], rows)
    if signature is not None:
        out.table("inputs and outputs", ["", "name", "type", "axes"], describe.ports(signature))
    if len(artifacts) == 1 and out.mode == "text" and artifacts[0].facts:
        typer.echo(describe.dump(artifacts[0].facts))
    described = [describe.described(artifact) for artifact in artifacts]
    if signature is not None:
        described[0]["signature"] = asdict(signature)
    out.result({"artifacts": described})


@app.command("capture")
def capture(
    model: Annotated[str, typer.Argument(help=ModelSpec.model_fields["source"].description)] = "",
    hf: Annotated[Path | None, typer.Option(help="Directory written by the save_pretrained of transformers.")] = None,
    task: Annotated[str | None, typer.Option(help="Task of the --hf model, such as text-classification.")] = None,
    weights: Annotated[str | None, typer.Option(help=ModelSpec.model_fields["weights"].description)] = None,
    fix: Annotated[
        list[str], typer.Option(help="Value of an input of an .onnx file that becomes a constant, such as sr=16000.")
    ] = [],  # noqa: B006
    data: Data = "",
    data_arg: DataArgs = [],  # noqa: B006
    set_: Settings = [],  # noqa: B006
    seed: Seed = 0,
    out: Out = None,
    force: Force = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Capture a PyTorch model as a program, a .pt2 file that can be trained and opened without your source code.

    Example: `retort capture my_net:build --weights net.safetensors --data digits`, or
    `retort capture --hf my-bert --task text-classification`
    """
    screen = console(json)
    model = _one_model(model, hf)
    spec = ModelSpec(source=model, weights=weights, args={"task": task} if task else {})
    options = build_options(CaptureOptions, {}, [*set_, *(f"fixed.{item}" for item in fix)])
    context = context_of(data, data_arg, "classification", "cpu", seed, screen, needed=bool(data))
    place = place_of("capture", options, spec, context, out, force)
    made = find_finished(place, console=screen) or stages.capture(options, spec, place, context)
    describe.print_artifact(made, screen)


def _one_model(model: str, hf: Path | None) -> str:
    if (hf is None) == (not model):
        raise UserError(
            "give either MODEL or --hf, and not both", "for example: retort capture my_net:build --data digits"
        )
    if hf is not None and not (hf / "config.json").is_file():
        raise MissingFileError(
            f"{hf} is not a directory of a pretrained model: it has no config.json", "check the path"
        )
    return model or str(hf)


def _stage_command(entry: StageEntry) -> None:
    def command(
        source: Source,
        data: Data = "",
        data_arg: DataArgs = [],  # noqa: B006
        task: TaskOption = "classification",
        target: TargetOption = "cpu",
        seed: Seed = 0,
        set_: Settings = [],  # noqa: B006
        out: Out = None,
        force: Force = False,
        json: Json = False,
        debug: Debug = False,
        **flags: Any,
    ) -> None:
        screen = console(json)
        parent = load_artifact(source)
        options = build_options(entry.options, _as_specs(flags), set_)
        wanted = options_target(options, target)
        context = context_of(data, data_arg, task, wanted, seed, screen, needed="data" in entry.depends_on)
        place = place_of(entry.name, options, parent, context, out, force)
        shared = replace(context, scratch=scratch_of(place.directory))
        found = reused(place, screen, parent, out)
        made = found or run_stage(entry.name, options, parent, place, shared)
        more: dict[str, Any] = {}
        if isinstance(options, QuantizeOptions) and options.timed:
            more["speed"] = {batch: ratio.to_dict() for batch, ratio in speed_of(options, parent, made, shared).items()}
        describe.print_artifact(made, screen, more)

    command.__doc__ = f"{entry.purpose}\n\n    Example: `{entry.example}`"
    finished = with_flags(command, entry.options)
    app.command(entry.name)(explainable(finished) if entry.name == "prune" else finished)


def options_target(options: Options, target: Target) -> Target:
    """The target that the stage's own options name, or else the target of the command."""
    own: Target | None = getattr(options, "target", None)
    return own or target


def _as_specs(flags: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in flags.items() if value is not None and value != []}


for _entry in STAGES.values():
    if _entry.takes in ("program", "graph") and _entry.name != "engine":  # which has flags of its own
        _stage_command(_entry)


def context_of(
    data: str, data_arg: list[str], task: Task, target: Target, seed: int, screen: Console, needed: bool = True
) -> Context:
    """The context of one command's stage; unless ``needed``, the data may be missing."""
    if needed and not data:
        raise UserError(
            "--data is required",
            "give a built-in data set, package.module:function, a file (.csv, .jsonl, .parquet, .npz …) or a folder",
        )
    base = Path.cwd()
    args = build_options(DataSpec, {"source": data or "none"}, [f"args.{arg}" for arg in data_arg])
    splits: Any = load_data(args, base, seed, task, screen) if needed else None
    return Context(splits, base, task, target, seed, screen)


def place_of(
    name: str,
    options: Options,
    parent: Artifact | ModelSpec,
    context: Context,
    out: Path | None,
    force: bool,
) -> Place:
    """Where a command writes its result; by default a folder that is named after the key.

    Raises:
        UserError: ``out`` may not be written: see :func:`retort.core.system.owned_folders.claim`.
    """
    key = key_of(name, options, [parent], context)
    keys = (parent.key,) if isinstance(parent, Artifact) else ()
    if out is not None:
        given = [parent.path] if isinstance(parent, Artifact) else [Path(parent.source), Path(parent.weights or "")]
        read = [path for path in given if str(path) != "." and path.exists()]
        file = isinstance(parent, Artifact) and parent.kind == "graph" and STAGES[name].takes == "program"
        kind = "graph" if file and STAGES[name].makes == "program" else STAGES[name].makes
        claim(out, kind, key, read, force)
    return Place(out or RUNS / f"{name}-{key[:12]}", key, keys)


def reused(place: Place, screen: Console, parent: Artifact, out: Path | None) -> Artifact | None:
    """The finished artifact of equal inputs: at its place or, without --out, in the run that contains its parent."""
    return find_finished(place, *([parent.path.parent] if out is None else []), console=screen)
