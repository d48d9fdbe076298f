"""The subcommand that shows how a data source is read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ..core.data.class_labels import shortened
from ..core.data.held_out import StandIn
from ..core.data.splits import NAMES, Split
from ..core.errors import UserError
from ..core.options.stage_options import DataSpec, TrainOptions
from ..core.system.owned_folders import claim_file
from ..core.tensors import Array
from .app import DataArgs, Debug, Json, Seed, TaskOption, app, console, context_of
from .flags import build_options


@app.command("data")
def data(
    source: Annotated[str, typer.Argument(help=DataSpec.model_fields["source"].description)],
    data_arg: DataArgs = [],  # noqa: B006
    task: TaskOption = "classification",
    augment: Annotated[
        list[str],
        typer.Option(help="Transform of training samples to look at, as name or name=value. Repeatable."),
    ] = [],  # noqa: B006
    preview: Annotated[
        Path | None, typer.Option(help="PNG file to write: a few training samples, each with views of it.")
    ] = None,
    seed: Seed = 0,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Show how a data source is read: its splits, inputs and targets, and the names of its classes.

    With --augment and --preview, it also writes a picture of what augmentation makes of some samples.

    Example: `retort data flowers.csv --data-arg target=kind`, or
    `retort data digits --augment shift=0.1 --augment rotate=10 --preview sheet.png`
    """
    screen = console(json)
    if bool(augment) != (preview is not None):
        raise UserError("--augment and --preview belong together", "for example: --augment flip --preview sheet.png")
    changes = build_options(TrainOptions, {"augment": augment}, [])
    claim_file(preview, force=True)
    splits = context_of(source, data_arg, task, "cpu", seed, screen, "test").data
    shown = [name for name in NAMES if not isinstance(getattr(splits, name), StandIn)]
    found = {name: _described(getattr(splits, name)) for name in shown}
    rows = [[name, f"{part['samples']:,}", ", ".join(part["inputs"]), part["targets"]] for name, part in found.items()]
    screen.table(source, ["split", "samples", "inputs", "targets"], rows, words=True)
    named = f"classes: {shortened(splits.classes, 20)}" if splits.classes else "the classes have no names"
    if preview is not None:
        from ..pipeline.augment_preview import write_preview

        made = write_preview(preview, splits, changes.augment, seed, task)
        screen.stage("augment", f"{'; '.join(made)}: wrote {preview}")
    screen.result({"splits": found, "classes": list(splits.classes), "fingerprint": splits.fingerprint()}, named)


def _described(split: Split) -> dict[str, Any]:
    """The number of samples, and inputs and targets in words."""
    inputs, targets = split.read(range(min(len(split), 2)))
    return {
        "samples": len(split),
        "inputs": [f"{name}: {_rows(array)}" for name, array in inputs.items()],
        "targets": "none" if targets is None else _targets(targets),
    }


def _targets(values: Array) -> str:
    if values.dtype.kind in "iu" and values.ndim == 1:
        return "class indices"
    return _rows(values)


def _rows(values: Array) -> str:
    """Type and axes of samples: ``float32[batch, 30]``."""
    return f"{values.dtype}[{', '.join(['batch', *map(str, values.shape[1:])])}]"
