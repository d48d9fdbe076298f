"""`retort prune --explain`: the coupled groups of a program as a table, without any cut."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.artifact import Artifact, load_artifact, raise_if_not
from ..core.console import Console

if TYPE_CHECKING:
    from ..compress.pruning.coupling.explain import Row

HELP = "Cut nothing. Show which layers are coupled, the step of their channels, and which layers are locked and why."
_SHOWN = 2


def groups_of(artifact: Artifact, excluded: Sequence[str] = ()) -> list[Row]:
    """The coupled groups of a program artifact: first those that can be cut, then the locked ones.

    Raises:
        ArtifactError: the artifact is not a program.
        UserError: a pattern matches nothing.
    """
    from ..compress.program import load_program
    from ..compress.pruning.coupling.explain import explain

    raise_if_not(artifact, "program")
    return explain(load_program(artifact.main), excluded)


def explain_command(values: Mapping[str, Any]) -> None:
    """Show the groups of the program that the arguments of `retort prune` name."""
    show(values["source"], values["exclude"] or (), Console("json" if values["json"] else "text"))


def show(path: Path, excluded: Sequence[str], screen: Console) -> None:
    """Print the groups of a program: two tables of text, or one line of JSON."""
    rows = groups_of(load_artifact(path), excluded)
    free, locked = [row for row in rows if row.units], [row for row in rows if not row.units]
    if free:
        columns = ["coupling", "layers", "channels", "units", "step", "MACs"]
        screen.table(f"{path.name}: what can be cut", columns, [_free(row) for row in free], words=True)
        screen.result({}, _LEGEND) if screen.mode == "text" else None
    if locked:
        screen.table("locked", ["layer", "channels", "reason"], [_locked(row) for row in locked], words=True)
    screen.result({"groups": [asdict(row) for row in rows]})


_LEGEND = (
    "units: what can be removed one at a time; step: channels of the first layer that are removed with one unit;\n"
    "MACs: share of all multiply-accumulates that read or write the group (two groups can share a layer, so the\n"
    "shares overlap). Use --exclude 'layer.name*' to keep all channels of a layer.\n"
)


def _free(row: Row) -> list[str]:
    low, high = row.step
    step = str(low) if low == high else f"{low} to {high}"
    return [row.kind, _names(row.layers), str(row.channels), str(row.units), step, f"{row.macs:.1%}"]


def _locked(row: Row) -> list[str]:
    return [_names(row.layers), str(row.channels), row.reason]


def _names(layers: Sequence[str]) -> str:
    more = len(layers) - _SHOWN
    return ", ".join(layers[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
