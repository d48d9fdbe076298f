"""The training loop that train, distill, recovery and quantization-aware training share."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator

from ...core.artifact import Artifact, raise_if_not
from ...core.console import Console
from ...core.context import Context, Place
from ...core.counts import counted
from ...core.data.references import importable
from ...core.errors import DataError, MachineError, UserError
from ...core.facts.program_facts import Epoch, TrainFacts, Training, TrainTiming
from ...core.formats.program_file import fit_context
from ...core.metrics.task_metrics import unit_of
from ...core.options.stage_options import TrainOptions
from ...core.terminal.interruption import noting_what_is_kept
from ..graph.node_values import observing
from ..graph.workarounds import forget_accelerator
from ..program import Program, load_program, move, set_training, store
from .chance import doubt_of
from .checkpoint import (
    checkpoint_path,
    discard,
    identity_of,
    load_checkpoint,
    save_checkpoint,
    seeded,
    state_hash,
)
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
    """

    history: tuple[Epoch, ...]
    metric_name: str
    best_metric: float | None
    best_epoch: int
    epochs: int
    seconds: float


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
    machine = _machine(options)
    with seeded(context.seed), importable(context.base), _on_device(program, machine.device):
        loss = loss or task_loss(options, data, context.task, program)
        identity = _identity(program, options, context, loss)
        loop = Loop(program, data, options, loss, machine, context.task, context.seed)
        path = checkpoint_path(context.scratch, label) if context.scratch else None
        with observing(program, loop.observed):
            _run(loop, path, identity, context.console, label)
    at, seconds = loop.at, time.perf_counter() - started
    history = tuple(Epoch(**epoch) for epoch in at.history)
    result = FitResult(history, at.metric, at.best_metric, at.best_epoch, at.epoch, seconds)
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


def _run(loop: Loop, path: Path | None, identity: str, console: Console, label: str) -> None:
    state = load_checkpoint(path, identity, console) if path else None
    if state is not None:
        loop.restore(state)
    saved = loop.at.epoch

    def _kept() -> str:
        if not saved:
            return f"no epoch of `{label}` was saved, so that it begins again"
        return f"the checkpoint of `{label}` after epoch {saved} of {loop.options.epochs} is kept"

    with console.progress(label, loop.options.epochs * len(loop.feeding.spans)) as bar, noting_what_is_kept(_kept):
        bar.skip(loop.at.epoch * len(loop.feeding.spans))
        while not loop.finished:
            loop.run_epoch(bar)
            if path and (loop.finished or loop.at.epoch % loop.options.checkpoint_epochs == 0):
                save_checkpoint(path, identity, loop.state())
                saved = loop.at.epoch
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
        timing=TrainTiming(train_seconds=result.seconds),
    )


def _identity(program: Program, options: TrainOptions, context: Context, loss: Loss) -> str:
    return identity_of(
        options=options.model_dump(mode="json", exclude={"checkpoint_epochs"}),
        task=context.task,
        seed=context.seed,
        data=context.data.fingerprint(),
        graph=program.module.code,
        weights=state_hash(program.module.state_dict()),
        loss=getattr(loss, "identity", ""),
    )


@contextmanager
def _on_device(program: Program, device: torch.device) -> Iterator[None]:
    move(program, device)
    try:
        yield
    finally:
        set_training(program, False)
        move(program, "cpu")


def _machine(options: TrainOptions) -> Accelerator:
    """The device and precision of the options.

    Raises:
        MachineError: a GPU is requested and there is none, or the device does not support the precision.
        UserError: the training was started in several processes.
    """
    if options.device == "cuda" and not torch.cuda.is_available():
        raise MachineError(f"PyTorch {torch.__version__} finds no GPU", "set `device: cpu`, or install a CUDA build")
    on_cpu = options.device == "cpu" or not torch.cuda.is_available()
    if on_cpu and options.precision == "fp16":
        raise MachineError("half precision (fp16) needs a GPU", "set `precision: bf16` or `no`")
    forget_accelerator()
    machine = Accelerator(cpu=on_cpu, mixed_precision=options.precision)
    if machine.num_processes > 1:
        raise UserError(
            "training in several processes is not supported yet", "start a single process, without torchrun"
        )
    return machine
