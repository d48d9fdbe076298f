"""One training as each of its processes does it: what it is given, the device, and the loop at work."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs

from ...core.console import SILENT
from ...core.data.references import importable
from ...core.data.splits import Splits
from ...core.errors import MachineError, UserError
from ...core.options.stage_options import Task, TrainOptions
from ..graph.node_values import observing
from ..graph.workarounds import forget_accelerator
from ..program import Program, move, set_training
from .checkpoint import State, seeded
from .distributed.batch_norm import synchronised
from .distributed.processes import Team, lost_processes, started_in_several, team
from .loop import Loop
from .losses import Loss


@dataclass(frozen=True)
class Job:
    """Everything that determines a training.

    Attributes:
        state: the checkpoint at which it goes on; None at the beginning.
    """

    program: Program
    options: TrainOptions
    data: Splits
    task: Task
    seed: int
    loss: Loss
    state: State | None = None


@contextmanager
def at_work(job: Job, base: Path) -> Iterator[Loop]:
    """The loop of a job on its device, also in the other processes if there are any.

    Afterwards the program is in evaluation form on the CPU.

    Args:
        base: folder in which the user's modules are looked up.

    Raises:
        MachineError: the device does not support the precision.
        UserError: the process was started by torchrun, but not through Retort's command.
    """
    others = team()
    if others is None and started_in_several():
        raise UserError(
            "training in several processes works only through the command line",
            "start `torchrun --nproc-per-node N -m retort run RECIPE`, or a single process",
        )
    if others is not None and others.rank == 0:
        others.send(
            replace(job, data=replace(job.data, calibration=job.data.validation, test=job.data.validation)), base
        )
    machine = _machine(job.options)
    with seeded(job.seed), _on_device(job.program, machine.device), ExitStack() as stack:
        if others is not None:
            stack.enter_context(synchronised(job.program))
        loop = Loop(job.program, job.data, job.options, job.loss, machine, job.task, job.seed)
        stack.callback(loop.feeding.close)
        if job.state is not None:
            loop.restore(job.state)
        stack.enter_context(observing(job.program, loop.passes.observed))
        yield loop


def work_for(others: Team) -> None:
    """Take part in every training of rank 0, until it has ended.

    Raises:
        MachineError: another process ended.
        RetortError: as :func:`retort.compress.training.train.fit`.
    """
    while True:
        with lost_processes():
            base = others.wait()
            if base is None:
                return
            with (
                importable(base),
                at_work(others.receive(), base) as loop,
                SILENT.progress("training", 1) as bar,
            ):
                while not loop.finished:
                    loop.run_epoch(bar)


def require_device(options: TrainOptions) -> None:
    """Fail before any work if the device is not there.

    Raises:
        MachineError: a GPU is requested and there are too few, or the device does not support the precision.
    """
    if options.device == "cuda" and not torch.cuda.is_available():
        raise MachineError(f"PyTorch {torch.__version__} finds no GPU", "set `device: cpu`, or install a CUDA build")
    on_cpu = _on_cpu(options)
    if on_cpu and options.precision == "fp16":
        raise MachineError("half precision (fp16) needs a GPU", "set `precision: bf16` or `no`")
    others = team()
    if others is not None and not on_cpu and torch.cuda.device_count() < others.here:
        raise MachineError(
            f"{others.here} processes on this machine need as many GPUs, and it has {torch.cuda.device_count()}",
            "start fewer processes, or set `device: cpu`",
        )


def _on_cpu(options: TrainOptions) -> bool:
    return options.device == "cpu" or not torch.cuda.is_available()


def _machine(options: TrainOptions) -> Accelerator:
    forget_accelerator()
    # a model may have parameters that the loss does not reach; buffers are equal by synchronised statistics
    several = DistributedDataParallelKwargs(
        find_unused_parameters=True, broadcast_buffers=False, gradient_as_bucket_view=True
    )
    return Accelerator(cpu=_on_cpu(options), mixed_precision=options.precision, kwargs_handlers=[several])


@contextmanager
def _on_device(program: Program, device: torch.device) -> Iterator[None]:
    move(program, device)
    try:
        yield
    finally:
        set_training(program, False)
        move(program, "cpu")
