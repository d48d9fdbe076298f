"""The pruning stage: one proven cut or a schedule of cuts, each followed by recovery training; killed runs resume."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from ...core.artifact import Artifact, raise_if_not, stable_hash
from ...core.context import Context, Place
from ...core.errors import UserError
from ...core.facts.program_facts import Training
from ...core.facts.prune_facts import FileProof, PruneStep, Reconstruction
from ...core.formats.program_file import fit_context
from ...core.options.stage_options import PruneOptions
from ...core.system.memory import give_back
from ..distillation.distill import recover
from ..program import Program, cost, load_program, store
from ..training.checkpoint import discard, state_hash
from .goal import Goal, latency_budget_of
from .latency.latency_table import Timer
from .manifest_facts import describe, facts_of, proof_facts, warn
from .output_change import outputs_changed
from .proof.onnx_check import FileCheck, prove_file
from .reconstruction.proven_cut import reconstruct_cut
from .resume import Steps, recovery_of
from .selection.cost_model import counted
from .selection.gradients import Samples
from .sparsity.masks import KEY
from .step import Pruned, cut_and_prove, measure_of
from .trial_cuts import Trial


def prune(
    options: PruneOptions,
    parent: Artifact,
    place: Place,
    context: Context,
    *,
    check_file: FileCheck | None = None,
    timer: Timer | None = None,
    tables: Path | None = None,
) -> Artifact:
    """The stage that removes coupled channels, proves every cut and trains to recover.

    Args:
        parent: the program to prune; it is not changed.
        context: its scratch folder stores finished steps and checkpoints, which are deleted at the end.
        check_file: writes, runs and compares the ONNX file of every cut; None to prove in PyTorch only.
        timer: measures programs if the budget is a latency.
        tables: folder of the latency tables; the user's cache if None.

    Raises:
        ArtifactError: ``parent`` is not a program.
        UserError: a pattern matches nothing, or the budget cannot be reached.
        VerificationError: a proof failed, or the budget is a latency and the program is not faster.
        RetortError: as :func:`retort.compress.training.train.fit`.
    """
    raise_if_not(parent, "program")
    original, context = load_program(parent.main, context.data), fit_context(context, parent.main)
    data, task, console = context.data, context.task, context.console
    give_back()
    _require_dense(original)
    options = _trainable(options, context)
    steps = Steps(context.scratch, _identity(original, options, context))
    program = steps.load()
    goal = Goal.of(original, options, latency_budget_of(original, options, timer, steps, tables, console))
    if program is None:
        program = original
        steps.groups = describe(goal.check(original, options))
    before, uncut = cost(original), partial(load_program, parent.main)
    del original  # it is loaded again if needed, so that only the pruned program is in memory after the first proof
    samples = Samples(data.calibration, task, options.score_batch, options.score_samples, context.seed, console)
    for step in range(len(steps.done), options.cuts):
        asked, now = goal.share_after(step, console), _at(options, step)
        trial = Trial(data.calibration, task, goal.counted(step, now), console=console)
        pruned = cut_and_prove(program, now, goal.choose(step, now), samples, trial)
        dense = partial(_same, program) if step else uncut
        program = pruned.program
        file, seconds = _prove_file(uncut, pruned, check_file)
        rebuilt = reconstruct_cut(dense, pruned, options, context, recovery_of(options, step) is not None)
        recovery = _recover(program, uncut, options, context, step)
        got = counted(pruned.cost, measure_of(options)) / max(goal.whole, 1)
        steps.add(program, _step_facts(pruned, (asked, got), trial, (file, rebuilt, recovery), seconds))
        discard(context.scratch, _label(step))
    change = outputs_changed(uncut, program, context)
    facts = facts_of(before, program, options, steps, goal.reached(program), change)
    warn(console, facts, options)
    stored = store(program, place, "prune", options=options, facts=facts)
    steps.clear()
    goal.clear()
    return stored


def _same(program: Program) -> Program:
    return program


def _trainable(options: PruneOptions, context: Context) -> PruneOptions:
    """The options without the default recovery if the data have no labels to train on."""
    asked, train = options.recover, context.data.train
    if asked is None or "recover" in options.model_fields_set or (len(train) and train.read([0])[1] is not None):
        return options
    context.console.say("the data have no labels, so no training follows the cut (set `recover` to train without them)")
    return options.model_copy(update={"recover": None})


def _require_dense(program: Program) -> None:
    """Refuse a program with a sparsity pattern that a cut would break.

    Raises:
        UserError: the weights have an N:M pattern, which is formed by channels.
    """
    pattern = str(program.meta.get(KEY, {}).get("pattern", ""))
    if ":" in pattern:
        raise UserError(
            f"prune: the weights have the sparsity pattern {pattern}, which a cut would break",
            "prune before `sparsify`",
        )


def _at(options: PruneOptions, step: int) -> PruneOptions:
    """The options of a step: fixed widths are cut in the first step and do not change afterwards."""
    kept = dict.fromkeys(options.layers, 1.0)
    return options.model_copy(update={"layers": kept}) if step and kept else options


def _step_facts(
    pruned: Pruned,
    shares: tuple[float, float],
    trial: Trial,
    done: tuple[FileProof, Reconstruction | None, Training | None],
    cpu_seconds: dict[str, float],
) -> PruneStep:
    """The facts of one cut; ``shares`` are the requested and the reached one."""
    (asked, got), (file, rebuilt, recovery) = shares, done
    return PruneStep(
        asked=asked,
        got=got,
        importance=pruned.criterion,
        normalize=pruned.normalize,
        importance_unmeasured=pruned.unmeasured,
        proof=proof_facts(pruned.proof),
        file=file,
        trials=tuple(trial.losses),
        trials_refused=tuple(trial.refused),
        reconstruction=rebuilt,
        recovery=recovery,
        cpu_seconds=cpu_seconds,
    )


def _prove_file(
    uncut: Callable[[], Program], pruned: Pruned, check: FileCheck | None
) -> tuple[FileProof, dict[str, float]]:
    """The proof of the file, and the CPU time of each phase in seconds."""
    started = time.process_time()
    give_back()
    file = prove_file(uncut, pruned.program, pruned.proof, check)
    give_back()
    return file, {**pruned.cpu_seconds, "prove_file": time.process_time() - started}


def _identity(program: Program, options: PruneOptions, context: Context) -> str:
    weights, given = state_hash(program.module.state_dict()), options.model_dump(mode="json")
    data = context.data.fingerprint()
    return stable_hash([given, weights, program.module.code, data, context.task, context.seed])


def _label(step: int) -> str:
    return f"recover {step + 1}"


def _recover(
    program: Program, uncut: Callable[[], Program], options: PruneOptions, context: Context, step: int
) -> Training | None:
    """Train a program after a cut, by default on the outputs of the original; its facts, or None without training."""
    training = recovery_of(options, step)
    if training is None:
        return None
    return recover(program, uncut(), training, replace(context, seed=context.seed + step), _label(step))
