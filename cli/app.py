"""The command line's application, the arguments that commands share, and the context that they make of them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from ..core.artifact import Artifact
from ..core.console import Console
from ..core.context import Context, Place
from ..core.errors import UserError
from ..core.options.metric_names import known_metric
from ..core.options.option_types import SEED_MAX
from ..core.options.stage_options import DataSpec, ModelSpec, Options, Target, Task
from ..core.options.stage_table import STAGES, kind_made
from ..core.system.owned_folders import RUNS, claim
from . import completion
from .flags import build_options
from .interruptible import Interruptible

app = typer.Typer(
    cls=Interruptible,
    help="Distil, prune, quantize, export and serve a trained PyTorch model, and measure what it costs and gains.",
    no_args_is_help=True,
    add_completion=True,
    rich_markup_mode="markdown",
)
Json = Annotated[bool, typer.Option("--json", help="Print one line of JSON instead of text.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
RecipeFile = Annotated[Path, typer.Argument(help="Recipe file.")]
Runs = Annotated[Path, typer.Option(help="Folder that contains one folder per recipe.")]
Data = Annotated[
    str, typer.Option(help=DataSpec.model_fields["source"].description, autocompletion=completion.data_sources)
]
DataArgs = Annotated[
    list[str], typer.Option("--data-arg", help="Argument of the data source, as key=value. Repeatable.")
]
TaskOption = Annotated[Task, typer.Option(help="What the model does.")]


def _metric(name: str | None) -> str | None:
    """A metric of the command line.

    Raises:
        BadParameter: there is none of that name.
    """
    try:
        return None if name is None else known_metric(name)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


MetricOption = Annotated[
    str | None,
    typer.Option(
        callback=_metric,
        help="Metric on the test split, such as accuracy, f1, top3, miou, cer, recall@10 or package.module:function. "
        "By default it is chosen from the targets; without targets, it is the agreement with the first model.",
    ),
]
TargetOption = Annotated[
    Target, typer.Option(help="Hardware that the model is made for. It determines the quantization scheme.")
]
Seed = Annotated[int, typer.Option(min=0, max=SEED_MAX, help="Random seed.")]
Out = Annotated[Path | None, typer.Option(help="Folder to write. By default it is named after the hash of its inputs.")]
Force = Annotated[bool, typer.Option("--force", help="Replace the result of other inputs or options in --out.")]
ForceFile = Annotated[bool, typer.Option("--force", help="Replace an existing file.")]
Settings = Annotated[
    list[str], typer.Option("--set", help="Any option by its key, such as --set recover.epochs=3. Repeatable.")
]
Source = Annotated[Path, typer.Argument(help="Artifact folder or model file.", autocompletion=completion.artifacts)]

Needed = Literal["all", "test", "nothing"]
"""The data that a command needs: samples of every split, only those on which models are judged, or none."""


def console(json_mode: bool) -> Console:
    """The console of a command."""
    return Console("json" if json_mode else "text")


def options_target(options: Options, target: Target) -> Target:
    """The target that the stage's own options name, or else the target of the command."""
    own: Target | None = getattr(options, "target", None)
    return own or target


def given_options(flags: dict[str, Any]) -> dict[str, Any]:
    """The flags of a stage that were given."""
    return {key: value for key, value in flags.items() if value is not None and value != []}


def context_of(
    data: str, data_arg: list[str], task: Task, target: Target, seed: int, screen: Console, needed: Needed = "all"
) -> Context:
    """The context of one command's stage, with all splits, with at least a test split, or without data."""
    if needed != "nothing" and not data:
        raise UserError(
            "--data is required",
            "give a built-in data set, package.module:function, a file (.csv, .jsonl, .parquet, .npz …) or a folder",
        )
    from ..core.data.data_sources import load_data

    base = Path.cwd()
    args = build_options(DataSpec, {"source": data or "none"}, data_arg, "--data-arg", "args")
    splits: Any = load_data(args, base, seed, task, screen, judging=needed == "test") if needed != "nothing" else None
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
    from ..pipeline.cache_key import identity_of

    identity = identity_of(name, options, [parent], context)
    key = identity.key
    keys = (parent.key,) if isinstance(parent, Artifact) else ()
    if out is not None:
        given = [parent.path] if isinstance(parent, Artifact) else [Path(parent.source), Path(parent.weights or "")]
        read = [path for path in given if str(path) != "." and path.exists()]
        file = isinstance(parent, Artifact) and parent.kind == "graph" and STAGES[name].takes == "program"
        kind = "graph" if file and STAGES[name].makes == "program" else kind_made(name, options)
        claim(out, kind, key, read, force)
    return Place(out or RUNS / f"{name}-{key[:12]}", key, keys, identity.inputs)


def reused(place: Place, screen: Console, parent: Artifact, out: Path | None) -> Artifact | None:
    """The finished artifact of equal inputs: at its place or, without --out, in the run that contains its parent."""
    from ..pipeline.reuse import find_finished

    return find_finished(place, *([parent.path.parent] if out is None else []), console=screen)
