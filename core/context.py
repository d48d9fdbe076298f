"""What a stage is given beside its options and its parent: the context that stages share, and its own place."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from .console import SILENT, Console
from .data.splits import Splits
from .options.stage_options import Target, Task


@dataclass(frozen=True)
class Context:
    """What the stages of one line or one command share.

    Attributes:
        data: the four splits.
        base: folder that relative paths and the user's modules are looked up from.
        task: what the model does.
        target: what the model is for; it fixes the quantization scheme.
        seed: of everything random.
        console: shows progress.
        scratch: folder for resumable checkpoints, from which a killed stage goes on; None keeps none.
    """

    data: Splits
    base: Path = field(default_factory=Path.cwd)
    task: Task = "classification"
    target: Target = "cpu"
    seed: int = 0
    console: Console = SILENT
    scratch: Path | None = None


@dataclass(frozen=True)
class Place:
    """Where an artifact goes and what determines it.

    Attributes:
        directory: the folder of the artifact.
        key: hash of everything that determines the content; empty for the hash of the content itself.
        parents: keys of the artifacts that it is made from.
    """

    directory: Path
    key: str = ""
    parents: tuple[str, ...] = ()
