"""The pruning stage: proven cuts in equal ratio steps, with recovery training after each; a killed run resumes."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...core.artifact import Artifact, raise_if_not, stable_hash, write_atomically
from ...core.console import SILENT, Console
from ...core.data import Splits
from ...core.options import PruneOptions, Task
from ..checkpoint import discard, state_hash
from ..distill import soft_target_loss
from ..losses import task_loss
from ..program import Program, clone, cost, load_program, save_program, store
from ..train import FitResult, Loss, fit, training_facts
from .context import fetch
from .groups import Grouping
from .step import counted, measure_of, plan, prune_program, share_of

_PROGRAM = "prune-step.{step}.pt2"
_STATE = "prune-steps.json"
_COARSE = 0.02


@dataclass
class _Steps:
    """What is done so far, kept in ``scratch``."""

    scratch: Path
    identity: str
    done: list[dict[str, Any]] = field(default_factory=list)
    groups: dict[str, Any] = field(default_factory=dict)

    def load(self) -> Program | None:
        """The program after the last finished step of the same pruning, or None."""
        path = self.scratch / _STATE
        if not path.is_file():
            return None
        state = json.loads(path.read_text())
        if state["identity"] != self.identity or not state["done"]:
            return None
        self.done, self.groups = state["done"], state["groups"]
        return load_program(self.scratch / _PROGRAM.format(step=len(self.done)))

    def add(self, program: Program, facts: dict[str, Any]) -> None:
        """Keep a finished step; the list is written after the program it names."""
        self.scratch.mkdir(parents=True, exist_ok=True)
        save_program(program, self.scratch / _PROGRAM.format(step=len(self.done) + 1))
        self.done.append(facts)
        state = {"identity": self.identity, "done": self.done, "groups": self.groups}
        write_atomically(self.scratch / _STATE, json.dumps(state).encode())

    def clear(self) -> None:
        """Remove what was kept."""
        for path in [self.scratch / _STATE, *self.scratch.glob(_PROGRAM.format(step="*"))]:
            path.unlink(missing_ok=True)


def prune(
    options: PruneOptions,
    artifact: Artifact,
    directory: Path,
    *,
    data: Splits,
    task: Task,
    seed: int,
    scratch: Path,
    console: Console = SILENT,
    key: str = "",
    parents: tuple[str, ...] = (),
) -> Artifact:
    """The stage that removes coupled channels, proves every cut and recovers.

    Args:
        artifact: the program to prune; it stays as it is.
        directory: where the pruned program goes.
        scratch: folder for finished steps and resumable checkpoints; empty of them again afterwards.

    Raises:
        ArtifactError: ``artifact`` is no program.
        UserError: a pattern matches nothing, or the budget cannot be reached.
        VerificationError: a proof failed.
        RetortError: as :func:`retort.compress.train.fit`.
    """
    raise_if_not(artifact, "program")
    original = load_program(artifact.main)
    steps = _Steps(scratch, _identity(original, options, data, task, seed))
    program = steps.load()
    share, measure = share_of(options), measure_of(options)
    whole = counted(cost(original), measure)
    if program is None:
        program = original
        _, grouping, _ = plan(original, options, share * whole)
        steps.groups = _describe(grouping)
    recover = _recovery(original, options, data, task, seed, scratch, console)
    for step in range(len(steps.done), options.steps):
        target = share ** ((step + 1) / options.steps) * whole
        console.say(f"cut {step + 1} of {options.steps}: {target / whole:.1%} of the {measure} to keep")
        pruned = prune_program(program, options, target)
        program = pruned.program
        left = counted(pruned.cost, measure) / whole
        facts = {"asked": target / whole, "got": left, "proof": _proof_facts(pruned.proof)}
        facts["recovery"] = recover(program, step)
        steps.add(program, facts)
        discard(scratch, _label(step))
    facts = _facts(original, program, options, steps)
    _warn(console, facts)
    stored = store(program, directory, "prune", options=options, facts=facts, key=key, parents=parents)
    steps.clear()
    return stored


def _identity(program: Program, options: PruneOptions, data: Splits, task: Task, seed: int) -> str:
    weights = state_hash(program.module.state_dict())
    given = options.model_dump(mode="json")
    return stable_hash([given, weights, program.module.code, data.fingerprint(), task, seed])


def _label(step: int) -> str:
    return f"recover {step + 1}"


def _recovery(
    original: Program, options: PruneOptions, data: Splits, task: Task, seed: int, scratch: Path, console: Console
) -> Callable[[Program, int], dict[str, Any] | None]:
    """What trains a program after a cut; it learns from the uncut program by default."""
    asked = options.recover
    if asked is None:
        return lambda program, step: None
    training = asked

    def recover(program: Program, step: int) -> dict[str, Any] | None:
        """Train in place; the facts of the training."""
        loss: Loss = task_loss(training, data, task, program)
        if training.distill:
            loss = soft_target_loss(clone(original), training.temperature, training.alpha, task, loss)
        result: FitResult = fit(
            program,
            data,
            training,
            task=task,
            seed=seed + step,
            loss=loss,
            scratch=scratch,
            console=console,
            label=_label(step),
        )
        return training_facts(result)

    return recover


def _proof_facts(proof: Any) -> dict[str, Any]:
    return {
        "relative_error": proof.error,
        "output_relative_error": proof.outputs,
        "dtype": proof.dtype,
        "batches": list(proof.batches),
    }


def _describe(grouping: Grouping) -> dict[str, Any]:
    free = [
        {
            "name": group.name,
            "layers": group.layers,
            "parameter": group.makers[0].parameter,
            "dim": group.makers[0].dim,
            "channels_before": group.channels,
        }
        for group in grouping.free
    ]
    locked = [{"name": group.name, "channels": group.channels, "reason": group.reason} for group in grouping.locked]
    return {"free": free, "locked": locked, "unknown": sorted(set(grouping.coupling.unknown.values()))}


def _facts(original: Program, program: Program, options: PruneOptions, steps: _Steps) -> dict[str, Any]:
    before, after, measure = cost(original), cost(program), measure_of(options)
    groups = [
        {
            "name": group["name"],
            "layers": group["layers"],
            "channels_before": group["channels_before"],
            "channels_after": fetch(program.module, group["parameter"]).shape[group["dim"]],
        }
        for group in steps.groups["free"]
    ]
    timing = [done["recovery"].pop("timing", {}) if done["recovery"] else {} for done in steps.done]
    return {
        "budget": measure,
        "asked": share_of(options),
        "got": counted(after, measure) / counted(before, measure),
        "parameters_before": before.parameters,
        "parameters_after": after.parameters,
        "macs_before": before.macs,
        "macs_after": after.macs,
        "groups": groups,
        "locked": steps.groups["locked"],
        "unknown_operators": steps.groups["unknown"],
        "steps": steps.done,
        "proof_relative_error": max((done["proof"]["relative_error"] for done in steps.done), default=0.0),
        "timing": {"recover_seconds": sum(item.get("train_seconds", 0.0) for item in timing)},
    }


def _warn(console: Console, facts: dict[str, Any]) -> None:
    asked, got = facts["asked"], facts["got"]
    if got > asked or got < asked - _COARSE:
        console.warn(f"{got:.1%} of the {facts['budget']} are left where {asked:.1%} were asked for")
    for reason in facts["unknown_operators"]:
        console.warn(f"channels stay whole, {reason}")
