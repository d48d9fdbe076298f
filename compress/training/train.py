"""The training loop that train, distill, recovery and quantization-aware training share."""

from __future__ import annotations

import time
from dataclasses import dataclass

from ...core.artifact import Artifact, raise_if_not
from ...core.console import Console
from ...core.context import Context, Place
from ...core.counts import counted
from ...core.data.references import importable
from ...core.errors import DataError
from ...core.facts.program_facts import Epoch, TrainFacts, Training, TrainTiming
from ...core.formats.program_file import fit_context
from ...core.metrics.task_metrics import unit_of
from ...core.options.stage_options import TrainOptions
from ...core.terminal.interruption import noting_what_is_kept
from ..program import Program, load_program, store
from .chance import doubt_of
from .checkpoint import Checkpoints, checkpoint_path, discard, identity_of, state_hash
from .distributed.processes import lost_processes
from .divergence import require_finite
from .events import Events, events_folder
from .job import Job, at_work, require_device
from .loop import Loop
from .losses import Loss
from .task_losses import task_loss

__all__ = ["FitResult", "Loss", "discard", "fit", "train", "training_facts", "warn_of"]


@dataclass(frozen=True)
class FitResult:
    """The result of a training.

    Attributes:
        history: one entry per epoch.
        metric_name: ``accuracy``, ``mse``, or ``loss`` if the validation samples have no targets.
        best_metric: the metric of the kept weights; None without a validation split.
        best_epoch: the epoch of the kept weights.
        epochs: number of epochs.
        seconds: duration of this run, without that of interrupted runs before.
        augmentation: the transforms of the training samples in words.
        workers: number of processes that read samples.
    """

    history: tuple[Epoch, ...]
    metric_name: str
    best_metric: float | None
    best_epoch: int
    epochs: int
    seconds: float
    augmentation: tuple[str, ...] = ()
    workers: int = 0


def fit(
    program: Program, options: TrainOptions, context: Context, loss: Loss | None = None, label: str = "train"
) -> FitResult:
    """Train a program in place. Afterwards it has its best weights, in evaluation mode, on the CPU.

    The seed determines the order of samples, the optimizer's steps and all random numbers. An interrupted training
    resumes from its checkpoint; on the CPU it ends with exactly the same weights.

    Args:
        context: its train split is used for training, its validation split decides which epoch is kept. The checkpoint
            stays in its scratch folder until :func:`discard`.
        loss: function of outputs, inputs and targets that returns a scalar; None for the task's loss. Its attribute
            ``identity`` (text) distinguishes the loss from others in checkpoints.
        label: name of the progress bar and the checkpoint.

    Raises:
        DataError: there are no samples, values are not finite, or targets do not fit.
        UserError: the training diverged.
        MachineError: the device does not exist or does not support the precision.
    """
    started, data = time.perf_counter(), context.data
    if len(data.train) == 0:
        raise DataError("the training split is empty", "give at least one sample")
    require_device(options)
    with importable(context.base):
        loss = loss or task_loss(options, data, context.task, program)
        identity = _identity(program, options, context, loss)
        path = checkpoint_path(context.scratch, label) if context.scratch else None
        checkpoints = Checkpoints(path, identity, options)
        job = Job(program, options, data, context.task, context.seed, loss, checkpoints.load(context.console))
        folder = events_folder(context, label) if options.tensorboard else None
        with lost_processes(checkpoints.kept), at_work(job, context.base) as loop:
            events = Events(folder, loop.at.epoch) if folder else None
            _run(loop, checkpoints, context.console, label, events)
            workers, changes = loop.feeding.loader.workers, loop.feeding.changes
    at, seconds = loop.at, time.perf_counter() - started
    history = tuple(Epoch(**epoch) for epoch in at.history)
    result = FitResult(history, at.metric, at.best_metric, at.best_epoch, at.epoch, seconds, changes, workers)
    context.console.stage(label, _ending(result))
    return result


def _ending(result: FitResult) -> str:
    """``accuracy 98.61 % on the validation split, in epoch 7 of 10, whose weights are kept``."""
    loss = f"training loss {result.history[result.best_epoch - 1].loss:.4g}"
    if result.best_metric is None:
        return f"{loss} in the last of {counted(result.epochs, 'epoch')}, which is kept without a validation split"
    percent = result.metric_name not in ("", "loss") and unit_of(result.metric_name) == "percent"
    value = f"{100 * result.best_metric:.2f} %" if percent else f"{result.best_metric:.4g}"
    where = f"in epoch {result.best_epoch} of {result.epochs}, whose weights are kept"
    return f"{result.metric_name} {value} on the validation split, {loss}, {where}"


def _run(loop: Loop, checkpoints: Checkpoints, console: Console, label: str, events: Events | None) -> None:
    at = loop.at
    if loop.feeding.changes:
        console.stage(label, f"training samples are changed by {'; '.join(loop.feeding.changes)}")
    checkpoints.continued(at.epoch, at.position, at.step)

    def _after_step() -> None:
        if checkpoints.due_in_epoch(at.step):
            require_finite(loop)
            checkpoints.save(loop.state())

    def _kept() -> str:
        return f"`{label}`: {checkpoints.kept()}"

    batches = len(loop.feeding.spans)
    with console.progress(label, loop.options.epochs * batches) as bar, noting_what_is_kept(_kept):
        bar.skip(at.epoch * batches + min(at.position * loop.options.accumulate, batches))
        while not loop.finished:
            loop.run_epoch(bar, _after_step)
            if events is not None:
                events.write(loop)
            if checkpoints.due_after(at.epoch, loop.finished):
                checkpoints.save(loop.state())
    if events is not None:
        events.close()
        console.say(f"            TensorBoard: {events.folder}")
    loop.keep_best()


def train(options: TrainOptions, parent: Artifact, place: Place, context: Context) -> Artifact:
    """The stage that trains a program on its task.

    Raises:
        ArtifactError: ``parent`` is not a program.
        RetortError: as :func:`fit`.
    """
    raise_if_not(parent, "program")
    program = load_program(parent.main, context.data)
    context = fit_context(context, parent.main)
    result = fit(program, options, context)
    doubt = doubt_of(program, context.data, context.task)
    warn_of(doubt, "train", context.console)
    facts = TrainFacts(**dict(training_facts(result)), doubt=doubt)
    stored = store(program, place, "train", options=options, facts=facts)
    discard(context.scratch, "train")
    return stored


def warn_of(doubt: str, stage: str, console: Console) -> None:
    """Warn of a program that learned too little, with what may help."""
    if doubt:
        console.warn(f"`{stage}`: {doubt}; give `{stage}` more epochs, another learning rate or a wider model")


def training_facts(result: FitResult) -> Training:
    """Facts about a training for a manifest; all except ``timing`` are the same in every run."""
    return Training(
        epochs=result.epochs,
        best_epoch=result.best_epoch,
        best_metric=result.best_metric,
        metric=result.metric_name,
        history=result.history,
        augmentation=result.augmentation or None,
        timing=TrainTiming(train_seconds=result.seconds, workers=result.workers or None),
    )


def _identity(program: Program, options: TrainOptions, context: Context, loss: Loss) -> str:
    return identity_of(
        options=options.model_dump(
            mode="json",
            exclude={"checkpoint_epochs", "checkpoint_steps", "checkpoint_minutes", "tensorboard", "workers"},
        ),
        task=context.task,
        seed=context.seed,
        data=context.data.fingerprint(),
        graph=program.module.code,
        weights=state_hash(program.module.state_dict()),
        loss=getattr(loss, "identity", ""),
    )
