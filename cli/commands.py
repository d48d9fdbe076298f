"""The subcommands for artifacts and stages: show, capture, and one for each stage of the table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import typer

from ..core.artifact import Artifact, is_finished, load_artifact
from ..core.console import Console
from ..core.errors import MissingFileError, UserError
from ..core.options.stage_options import CaptureOptions, ModelSpec, QuantizeOptions
from ..core.options.stage_table import STAGES, StageEntry
from ..core.system.owned_folders import scratch_of
from ..pipeline import stages
from ..pipeline.dispatch import run_stage
from ..pipeline.reuse import find_finished
from ..pipeline.tuning.int8_speed import speed_of
from . import completion, describe, prune_groups, student_layers
from .app import (
    Data,
    DataArgs,
    Debug,
    Force,
    Json,
    Needed,
    Out,
    Seed,
    Settings,
    Source,
    TargetOption,
    TaskOption,
    app,
    console,
    context_of,
    given_options,
    options_target,
    place_of,
    reused,
)
from .cross_validation import with_folds
from .explain_flag import explainable
from .flags import build_options, settings_flag, with_flags
from .program_nodes import HEADER, nodes_of, row

CaptureSettings: TypeAlias = settings_flag(CaptureOptions)  # type: ignore[valid-type]


@app.command("show")
def show(
    path: Annotated[
        Path,
        typer.Argument(help="Artifact folder, model file, or folder of a run.", autocompletion=completion.artifacts),
    ],
    nodes: Annotated[
        bool,
        typer.Option(
            "--nodes",
            help="List the values that a program computes, with the module, the operator and the shape of each.",
        ),
    ] = False,
    match: Annotated[
        str, typer.Option(help="Only nodes whose module, name or operator contains this text, or matches it with *.")
    ] = "",
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Show the content of an artifact or a run, and verify its hashes.

    Example: `retort show runs/digits`, or `retort show runs/digits/02-train-… --nodes --match "layer1*"`
    """
    if not path.exists():
        raise MissingFileError(f"{path} does not exist", "check the path")
    folders = [path] if path.is_file() or is_finished(path) else sorted(p for p in path.glob("*") if is_finished(p))
    if not folders:
        raise UserError(f"{path} contains no finished artifact", "run a recipe or a stage first")
    artifacts = [load_artifact(folder) for folder in folders]
    out = console(json)
    if nodes or match:
        _show_nodes(artifacts, match, out)
        return
    signers = describe.verify_archives(artifacts, out)
    signature = describe.signature_of(artifacts[0]) if len(artifacts) == 1 else None
    rows = [describe.row(artifact) for artifact in artifacts]
    out.table(str(path), ["artifact", "kind", "key", "bytes", "parameters", "MACs"], rows)
    if signature is not None:
        out.table("inputs and outputs", ["", "name", "type", "axes"], describe.ports(signature))
    if len(artifacts) == 1 and out.mode == "text" and artifacts[0].facts:
        typer.echo(describe.dump(artifacts[0].facts))
    for artifact, signer in zip(artifacts, signers, strict=True):
        if signer is not None and out.mode == "text":
            typer.echo(f"{artifact.path.name}: signed by {signer.describe()}")
    described = [
        {**describe.described(artifact), "signer": signer and asdict(signer)}
        for artifact, signer in zip(artifacts, signers, strict=True)
    ]
    if signature is not None:
        described[0]["signature"] = asdict(signature)
    out.result({"artifacts": described})


def _show_nodes(artifacts: Sequence[Artifact], match: str, out: Console) -> None:
    if len(artifacts) != 1:
        raise UserError(f"--nodes shows one program, and there are {len(artifacts)}", "give one of them")
    found = nodes_of(artifacts[0], match)
    out.table(str(artifacts[0].path), HEADER, [row(value) for value in found])
    out.result({"nodes": [asdict(value) for value in found]})


@app.command("capture")
def capture(
    model: Annotated[str, typer.Argument(help=ModelSpec.model_fields["source"].description)] = "",
    hf: Annotated[Path | None, typer.Option(help="Directory written by the save_pretrained of transformers.")] = None,
    task: Annotated[str | None, typer.Option(help="Task of the --hf model, such as text-classification.")] = None,
    weights: Annotated[str | None, typer.Option(help=ModelSpec.model_fields["weights"].description)] = None,
    weights_fit: Annotated[str, typer.Option(help=ModelSpec.model_fields["weights_fit"].description)] = "all",
    weights_name: Annotated[
        list[str], typer.Option(help="Other names of the file's weights, as PATTERN=NEW, such as encoder.*=backbone.*.")
    ] = [],  # noqa: B006
    fix: Annotated[
        list[str], typer.Option(help="Value of an input of an .onnx file that becomes a constant, such as sr=16000.")
    ] = [],  # noqa: B006
    data: Data = "",
    data_arg: DataArgs = [],  # noqa: B006
    set_: CaptureSettings = [],  # noqa: B006
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
    given = {"source": model, "weights": weights, "args": {"task": task} if task else {}, "weights_fit": weights_fit}
    given["weights_names"] = dict(_two_names(item) for item in weights_name)
    spec = build_options(ModelSpec, given, [])
    options = build_options(CaptureOptions, {}, [*set_, *(f"fixed.{item}" for item in fix)])
    context = context_of(data, data_arg, "classification", "cpu", seed, screen, needed="all" if data else "nothing")
    place = place_of("capture", options, spec, context, out, force)
    made = find_finished(place, console=screen) or stages.capture(options, spec, place, context)
    describe.print_artifact(made, screen)


def _two_names(item: str) -> tuple[str, str]:
    pattern, separator, new = item.partition("=")
    if not separator:
        raise UserError(f"--weights-name {item} has no `=`", "give PATTERN=NEW, such as encoder.*=backbone.*")
    return pattern, new


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
        options = build_options(entry.options, given_options(flags), set_)
        wanted = options_target(options, target)
        needed: Needed = "all" if "data" in entry.depends_on else "nothing"
        context = context_of(data, data_arg, task, wanted, seed, screen, needed)
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
    shown = {"prune": prune_groups, "distill": student_layers}.get(entry.name)
    finished = with_folds(finished) if entry.name == "train" else finished
    app.command(entry.name)(explainable(finished, shown.explain_command, shown.HELP) if shown else finished)


for _entry in STAGES.values():
    if _entry.takes in ("program", "graph") and _entry.name not in (
        "engine",
        "bundle",
        "pack",
    ):  # with flags of their own
        _stage_command(_entry)
