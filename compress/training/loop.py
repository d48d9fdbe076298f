"""One training in progress: its epochs, its validation, its best weights, and the state for resuming."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from accelerate import Accelerator

from ...core.console import Bar
from ...core.data.splits import Splits
from ...core.options.stage_options import Task, TrainOptions
from ..program import Program, evaluating, set_training
from .averaging import MovingAverage, copies
from .checkpoint import State, random_state, restore_random
from .divergence import require_finite, require_finite_loss
from .feeding import Batch, Reader, feeding_of
from .frozen_weights import FrozenWeights
from .losses import Loss, Tensors
from .observed_loss import train_also
from .optimizers import add_penalties, make_optimizer, rate_factor, set_rate
from .passes import Passes
from .score import Score

_SHOWN_EVERY_S = 0.1
"""The progress bar is drawn at most so often, because drawing takes as long as a small step."""


@dataclass
class Progress:
    """The progress of a training in plain values that can be written to a checkpoint.

    Attributes:
        epoch: number of finished epochs.
        step: number of finished optimizer steps.
        history: per epoch: ``epoch`` (from 1), ``loss`` (training mean), ``metric`` (validation, or None).
        metric: name of the validation metric.
        best_epoch: the epoch whose weights are kept; the later one of equal epochs.
        waited: number of epochs since the last improvement of the metric.
        position: number of finished steps of an epoch that is not finished.
        loss_sum: sum of the losses of their samples.
    """

    epoch: int = 0
    step: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    metric: str = ""
    best_epoch: int = 0
    best_metric: float | None = None
    waited: int = 0
    position: int = 0
    loss_sum: float = 0.0


class Loop:
    """A program in training on one device, or on that of each process."""

    def __init__(
        self,
        program: Program,
        data: Splits,
        options: TrainOptions,
        loss: Loss,
        machine: Accelerator,
        task: Task,
        seed: int,
    ) -> None:
        self.program, self.data, self.options = program, data, options
        self.machine, self.task, self.seed = machine, task, seed
        self.frozen = FrozenWeights(program.module, options)
        self.passes = Passes(program, loss, machine)
        self.reader = Reader(program, task, machine.device)
        self.feeding = feeding_of(data, options, self.reader, seed, self.passes.share)
        optimizer = make_optimizer(program.module, options)
        train_also(optimizer, self.passes.loss_module, options.weight_decay)
        # the wrapper scales gradients, and looks for packages at every step
        self.optimizer = optimizer if machine.scaler is None else machine.prepare_optimizer(optimizer)
        self.average = MovingAverage(program.module, options.ema) if options.ema is not None else None
        self.best: Tensors | None = None
        self.zeros = zero_masks(program)
        self.at = Progress()
        self.optimizer.zero_grad(set_to_none=True)

    @property
    def finished(self) -> bool:
        """Whether all epochs are finished, or patience has run out."""
        patience = self.options.patience
        return self.at.epoch >= self.options.epochs or (patience is not None and self.at.waited >= patience)

    def run_epoch(self, bar: Bar, after_step: Callable[[], None] = lambda: None) -> None:
        """Train for one epoch or the rest of one, validate, and keep the weights if they are the best so far.

        Args:
            after_step: called after each optimizer step of which another one follows in the epoch.

        Raises:
            DataError: samples are not finite, or targets do not fit.
            UserError: the training diverged, or BatchNorm got batches of one sample.
        """
        at = self.at
        set_training(self.program, True)
        self._seed_step()
        step_sum, passes, seen, shown_s = 0.0, 0, self.feeding.rows_before(at.position), 0.0
        for batch in self.feeding.batches(at.epoch, at.position):
            step_sum += self._pass(batch)
            passes += 1
            if batch.last:
                self._step(step_sum)
                seen += batch.step_rows
                step_sum = 0.0
                if at.position == self.feeding.steps or time.monotonic() - shown_s > _SHOWN_EVERY_S:
                    bar.advance(passes, self._note(at.loss_sum / seen))
                    passes, shown_s = 0, time.monotonic()
                if at.step == 1:
                    require_finite(self)
                if at.position < self.feeding.steps:
                    after_step()
        require_finite(self)
        self._close_epoch(at.loss_sum / len(self.data.train))

    def _pass(self, batch: Batch) -> float:
        """Forward and backward of one batch; the sum of the losses of this process's samples."""
        loss = float(self.passes.backward(batch))
        if self.passes.team is None:  # several processes must notice it together
            require_finite_loss(self, loss)
        return loss * batch.rows if batch.rows else 0.0

    def _step(self, step_sum: float) -> None:
        """One optimizer step with the gradients of the batches since the last one."""
        if self.passes.team is not None:
            step_sum = self.passes.team.total([step_sum])[0]
            require_finite_loss(self, step_sum)
        options = self.options
        self.frozen.drop_gradients(self.at.epoch)
        set_rate(self.optimizer, options.learning_rate * rate_factor(options, self.at.step, self.feeding.steps))
        if options.l1 or options.l2:
            self.machine.unscale_gradients()
            add_penalties(self.program.module, options)
        if options.clip_norm is not None:
            self.machine.clip_grad_norm_(self.passes.trained(), options.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self._keep_zeros()
        self.frozen.keep_buffers(self.at.epoch)
        self.at.step += 1
        self.at.position += 1
        self.at.loss_sum += step_sum
        if self.average is not None:
            self.average.update(self.at.step)
        self._seed_step()

    def _seed_step(self) -> None:
        if self.passes.team is not None:
            self.passes.team.seed_step(self.seed, self.at.step)

    def validate(self) -> Score:
        """The validation metric of the weights that would be kept: of the moving average if there is one."""
        split, size = self.data.validation, self.options.batch_size
        score = Score(self.task, self.options.keep)
        if not len(split):
            return score
        averaged = nullcontext() if self.average is None else self.average.in_use()
        with evaluating(self.program), averaged, torch.no_grad():
            for start in range(0, len(split), size):
                rows = range(start, min(start + size, len(split)))
                for part in self.passes.evaluate(split, rows, self.reader, self.at.epoch == 0):
                    score.add(part.outputs, part.targets, part.loss)
        return score

    def _close_epoch(self, loss: float) -> None:
        at, score = self.at, self.validate()
        metric, before = score.value, at.best_metric
        at.epoch += 1
        at.position, at.loss_sum = 0, 0.0
        at.metric = score.name
        at.history.append({"epoch": at.epoch, "loss": loss, "metric": metric})
        better = metric is None or before is None or (metric > before if score.higher_is_better else metric < before)
        at.waited = 0 if better else at.waited + 1
        if better or metric == before:
            at.best_metric, at.best_epoch = metric, at.epoch
            self.best = copies(self.average.values if self.average else self.program.module.state_dict())

    def keep_best(self) -> None:
        """Load the best weights into the program."""
        self.frozen.release()
        if self.best is not None:
            self.program.module.load_state_dict(self.best)

    def state(self) -> State:
        """Everything on which the next step depends; it does not depend on the number of processes."""
        scaler = self.machine.scaler
        return {
            "model": self.program.module.state_dict(),
            "loss": self.passes.loss_module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": None if scaler is None else scaler.state_dict(),
            "average": None if self.average is None else self.average.values,
            "best": self.best,
            "progress": asdict(self.at),
            "random": random_state(),
        }

    def restore(self, state: State) -> None:
        """Inverse of :meth:`state`."""
        self.program.module.load_state_dict(state["model"])
        self.passes.loss_module.load_state_dict(state["loss"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.machine.scaler is not None and state["scaler"] is not None:
            self.machine.scaler.load_state_dict(state["scaler"])
        if self.average is not None and state["average"] is not None:
            self.average.restore(state["average"])
        self.best = state["best"]
        self.at = Progress(**state["progress"])
        restore_random(state["random"])

    def _keep_zeros(self) -> None:
        """Reset the zeros of a sparse program."""
        if not self.zeros:
            return
        with torch.no_grad():
            for weight, mask in self.zeros:
                weight.mul_(mask)

    def _note(self, loss: float) -> str:
        best = "" if self.at.best_metric is None else f" best {self.at.metric} {self.at.best_metric:.4f}"
        return f"epoch {self.at.epoch + 1}/{self.options.epochs} loss {loss:.4f}{best}"


def zero_masks(program: Program) -> list[tuple[torch.nn.Parameter, torch.Tensor]]:
    """The sparse parameters that ``program.meta["sparsity"]`` names, with masks of their nonzero values."""
    named = dict(program.module.named_parameters(remove_duplicate=False))
    names = program.meta.get("sparsity", {}).get("layers", {})
    return [(named[name], named[name].detach() != 0) for name in names if name in named]
