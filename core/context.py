"""The arguments of a stage besides its options and its parent: the shared context and the stage's own place."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from numbers import Integral
from pathlib import Path

from .console import SILENT, Console
from .data.splits import Splits
from .errors import UserError
from .options.option_types import SEED_MAX
from .options.stage_options import MetricName, Target, Task


@dataclass(frozen=True)
class Context:
    """What all stages of one run or one command share.

    Attributes:
        data: the four splits.
        base: folder in which relative paths and the user's modules are looked up.
        task: what the model does.
        metric: metric of the recipe; None for that of the task.
        target: hardware that the model is made for; it determines the quantization scheme.
        seed: random seed.
        console: shows progress.
        scratch: folder for checkpoints, from which an interrupted stage resumes; None writes none.
    """

    data: Splits
    base: Path = field(default_factory=Path.cwd)
    task: Task = "classification"
    target: Target = "cpu"
    seed: int = 0
    console: Console = SILENT
    scratch: Path | None = None
    metric: MetricName | None = None

    def __post_init__(self) -> None:
        require_seed(self.seed)


def require_seed(seed: int) -> None:
    """Fail if a random seed is not one that every generator takes.

    Raises:
        UserError: it is negative, too large, or no whole number.
    """
    given: object = seed
    if isinstance(given, bool) or not isinstance(given, Integral) or not 0 <= seed <= SEED_MAX:
        raise UserError(f"the seed {seed} is not a whole number from 0 to {SEED_MAX}", "give another seed, such as 0")


@dataclass(frozen=True)
class Place:
    """The folder of an artifact and the key of what determines its content.

    Attributes:
        directory: the folder of the artifact.
        key: hash of everything that determines the content; if empty, the hash of the content is used.
        parents: keys of the artifacts from which it is made.
        inputs: a short hash of each input that is part of the key: options, parents, data, code …
        started: when the work on the artifact began, on the monotonic clock in seconds.
    """

    directory: Path
    key: str = ""
    parents: tuple[str, ...] = ()
    inputs: Mapping[str, str] = field(default_factory=dict, compare=False)
    started: float = field(default_factory=time.monotonic, compare=False)
