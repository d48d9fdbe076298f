"""Schedule of a pruning with several cuts: the share kept by each step, its recovery, and resuming a killed run."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from ...core.facts.prune_facts import LockedGroup, PruneStep
from ...core.facts.record import Record
from ...core.options.stage_options import PruneOptions, RecoverOptions
from ...core.system.atomic_files import write_atomically
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


class FreeGroup(Record):
    """A group of channels that can be cut, before the first cut.

    Attributes:
        name: name of its leading layer.
        layers: names of the layers that it spans.
        parameter: the leading layer's parameter.
        dim: its dimension that holds the channels.
        channels_before: size of that dimension.
    """

    name: str
    layers: tuple[str, ...]
    parameter: str
    dim: int
    channels_before: int


class Groups(Record):
    """The groups before the first cut.

    Attributes:
        free: those that can be cut.
        locked: those that cannot.
        unknown: why channels are locked by operators without a rule.
    """

    free: tuple[FreeGroup, ...] = ()
    locked: tuple[LockedGroup, ...] = ()
    unknown: tuple[str, ...] = ()


@dataclass
class Steps:
    """The finished steps, stored in ``scratch`` if there is such a folder."""

    scratch: Path | None
    identity: str
    done: list[PruneStep] = field(default_factory=list)
    groups: Groups = field(default_factory=Groups)

    def load(self) -> Program | None:
        """The program after the last finished step of the same pruning, or None."""
        path = self.scratch / _STATE if self.scratch else None
        if self.scratch is None or path is None or not path.is_file():
            return None
        state = json.loads(path.read_text())
        if state["identity"] != self.identity or not state["done"]:
            return None
        self.done = [PruneStep.model_validate(step) for step in state["done"]]
        self.groups = Groups.model_validate(state["groups"])
        return load_program(self.scratch / _PROGRAM.format(step=len(self.done)))

    def add(self, program: Program, facts: PruneStep) -> None:
        """Store a finished step; the list is written after the program that it names."""
        self.done.append(facts)
        if self.scratch is None:
            return
        self.scratch.mkdir(parents=True, exist_ok=True)
        save_program(program, self.scratch / _PROGRAM.format(step=len(self.done)))
        done = [step.to_json() for step in self.done]
        state = {"identity": self.identity, "done": done, "groups": self.groups.to_json()}
        write_atomically(self.scratch / _STATE, json.dumps(state).encode())

    def clear(self) -> None:
        """Delete the stored steps."""
        if self.scratch is None:
            return
        for path in [self.scratch / _STATE, *self.scratch.glob(_PROGRAM.format(step="*"))]:
            path.unlink(missing_ok=True)
