"""Schedule of a pruning with several cuts: the share kept by each step, its recovery, and resuming a killed run."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...core.artifact import write_atomically
from ...core.options.stage_options import PruneOptions, RecoverOptions
from ..program import Program, load_program, save_program

_PROGRAM = "prune-step.{step}.pt2"
_STATE = "prune-steps.json"


def ramp(options: PruneOptions, share: float) -> list[float]:
    """Share of the cost to keep after every step, ending at ``share``.

    Geometric: every step keeps the same ratio. Linear: every step removes the same amount. Cubic: early steps remove
    most, ``s + (1 - s)(1 - t)³`` (Zhu and Gupta, 2017).
    """
    kind = options.ramp or ("cubic" if options.schedule == "gradual" else "geometric")
    times = [(step + 1) / options.cuts for step in range(options.cuts)]
    if kind == "geometric":
        return [share**time for time in times]
    power = 3 if kind == "cubic" else 1
    return [share + (1 - share) * (1 - time) ** power for time in times]


def recovery_of(options: PruneOptions, step: int) -> RecoverOptions | None:
    """The training after a step: all epochs, or, in the gradual schedule, a part of the epochs."""
    asked = options.recover
    if asked is None or options.schedule != "gradual":
        return asked
    between = max(1, asked.epochs // (2 * options.cuts))
    last = step == options.cuts - 1
    epochs = max(1, asked.epochs - between * (options.cuts - 1)) if last else between
    return asked.model_copy(update={"epochs": epochs})


@dataclass
class Steps:
    """The finished steps, stored in ``scratch`` if there is such a folder."""

    scratch: Path | None
    identity: str
    done: list[dict[str, Any]] = field(default_factory=list)
    groups: dict[str, Any] = field(default_factory=dict)

    def load(self) -> Program | None:
        """The program after the last finished step of the same pruning, or None."""
        path = self.scratch / _STATE if self.scratch else None
        if self.scratch is None or path is None or not path.is_file():
            return None
        state = json.loads(path.read_text())
        if state["identity"] != self.identity or not state["done"]:
            return None
        self.done, self.groups = state["done"], state["groups"]
        return load_program(self.scratch / _PROGRAM.format(step=len(self.done)))

    def add(self, program: Program, facts: dict[str, Any]) -> None:
        """Store a finished step; the list is written after the program that it names."""
        self.done.append(facts)
        if self.scratch is None:
            return
        self.scratch.mkdir(parents=True, exist_ok=True)
        save_program(program, self.scratch / _PROGRAM.format(step=len(self.done)))
        state = {"identity": self.identity, "done": self.done, "groups": self.groups}
        write_atomically(self.scratch / _STATE, json.dumps(state).encode())

    def clear(self) -> None:
        """Delete the stored steps."""
        if self.scratch is None:
            return
        for path in [self.scratch / _STATE, *self.scratch.glob(_PROGRAM.format(step="*"))]:
            path.unlink(missing_ok=True)
