"""`retort distill --explain`: the layers and blocks that a student can leave out, as tables, without any training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.artifact import Artifact, load_artifact, raise_if_not
from ..core.console import Console

if TYPE_CHECKING:
    from ..compress.distillation.students.parts import Parts

HELP = "Train nothing. Show the layers and the residual blocks of the teacher that a student can leave out."


def explain_command(values: Mapping[str, Any]) -> None:
    """Show what can be left out of the program that the arguments of `retort distill` name."""
    show(values["source"], Console("json" if values["json"] else "text"))


def parts_of(artifact: Artifact) -> Parts:
    """The layers and blocks of a program artifact that can be left out.

    Raises:
        ArtifactError: the artifact is not a program.
    """
    from ..compress.distillation.students.parts import leavable
    from ..compress.program import load_program

    raise_if_not(artifact, "program")
    return leavable(load_program(artifact.main))


def show(path: Path, screen: Console) -> None:
    """Print the layers and blocks of a program: two tables of text, or one line of JSON."""
    found = parts_of(load_artifact(path))
    if found.stacks:
        rows = [[item.name, str(item.layers), f"{item.macs:.1%}"] for item in found.stacks]
        screen.table(f"{path.name}: stacks of equal layers", ["stack", "layers", "MACs of one"], rows, words=True)
    if found.blocks:
        rows = [[item.name, f"{item.macs:.1%}"] for item in found.blocks]
        screen.table("residual blocks", ["block", "MACs"], rows, words=True)
    screen.result(asdict(found), _advice(found))


def _advice(found: Parts) -> str:
    forms = [form for form, there in (("layers:0.5", found.stacks), ("blocks:0.5", found.blocks)) if there]
    combined = ", or layers:0.5,macs:0.3" if found.stacks else ""
    return f"These students need no new code: --student {' or '.join([*forms, 'macs:0.3'])}{combined}."
