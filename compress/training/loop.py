"""One training in progress: its epochs, its validation, its best weights, and the state for resuming."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from accelerate import Accelerator

from ...core.console import Bar
from ...core.data.splits import Splits
from ...core.errors import UserError
from ...core.options.stage_options import Task, TrainOptions
from ..graph.node_values import named_values
from ..program import Program, evaluating, set_training
from .checkpoint import State, random_state, restore_random
from .feeding import Batch, Feeding, Reader
from .losses import Loss, Tensors
from .observed_loss import module_of, observed_by, train_also
from .optimizers import make_optimizer, rate_factor, set_rate
from .score import Score


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
    """

    epoch: int = 0
    step: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    metric: str = ""
    best_epoch: int = 0
    best_metric: float | None = None
    waited: int = 0


class Loop:
    """A program in training on one device."""

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
        self.loss, self.machine, self.task, self.seed = loss, machine, task, seed
        self.reader = Reader(program, task, machine.device)
        self.feeding = Feeding(data.train, self.reader, options.batch_size, options.accumulate, seed)
        self.observed, self.loss_module = observed_by(loss), module_of(loss, machine.device)
        optimizer = make_optimizer(program.module, options)
        train_also(optimizer, self.loss_module, options.weight_decay)
        self.optimizer = machine.prepare_optimizer(optimizer)
        self.average = copies(program.module.state_dict()) if options.ema is not None else None
        self.best: Tensors | None = None
        self.zeros = zero_masks(program)
        self.at = Progress()
        self.optimizer.zero_grad(set_to_none=True)

    @property
    def finished(self) -> bool:
        """Whether all epochs are finished, or patience has run out."""
        patience = self.options.patience
        return self.at.epoch >= self.options.epochs or (patience is not None and self.at.waited >= patience)

    def run_epoch(self, bar: Bar) -> None:
        """Train for one epoch, validate, and keep the weights if they are the best so far.

        Raises:
            DataError: samples are not finite, or targets do not fit.
            UserError: the training diverged, or BatchNorm got batches of one sample.
        """
        set_training(self.program, True)
        total, step_total, passes, seen = 0.0, 0.0, 0, 0
        for batch in self.feeding.batches(self.at.epoch):
            step_total += self._pass(batch)
            passes += 1
            if batch.last:
                self._step()
                total, seen = total + step_total, seen + batch.step_rows
                bar.advance(passes, self._note(total / seen))
                step_total, passes = 0.0, 0
                if self.at.step == 1:
                    self._check_state()
        self._check_state()
        self._close_epoch(total / len(self.data.train))

    def _pass(self, batch: Batch) -> float:
        """Forward and backward of one batch; the sum of its samples' losses."""
        loss = self._forward(batch.inputs, batch.targets)
        self.machine.backward(loss * (batch.rows / batch.step_rows))
        return self._finite(loss) * batch.rows

    def _step(self) -> None:
        """One optimizer step with the gradients of the batches since the last one."""
        set_rate(
            self.optimizer,
            self.options.learning_rate * rate_factor(self.options, self.at.step, self.feeding.steps),
        )
        if self.options.clip_norm is not None:
            trained = [*self.program.module.parameters(), *self.loss_module.parameters()]
            self.machine.clip_grad_norm_(trained, self.options.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self._keep_zeros()
        self.at.step += 1
        self._update_average()

    def _forward(self, inputs: Tensors, targets: torch.Tensor | None) -> torch.Tensor:
        with self.machine.autocast():
            return self.loss(self._outputs(inputs), inputs, targets)

    def _outputs(self, inputs: Tensors) -> Tensors:
        with self.machine.autocast():
            values = self.program.module(*inputs.values())
        return named_values(self.program, self.observed, values)

    def validate(self) -> Score:
        """The validation metric of the weights that would be kept: of the moving average if there is one."""
        split, size = self.data.validation, self.options.batch_size
        score = Score(self.task, self.options.keep)
        with evaluating(self.program), self._averaged(), torch.no_grad():
            for start in range(0, len(split), size):
                rows = range(start, min(start + size, len(split)))
                inputs, targets = self.reader.read(split, rows, "the validation split", check=self.at.epoch == 0)
                outputs = self._outputs(inputs)
                score.add(outputs, targets, None if targets is not None else self.loss(outputs, inputs, None))
        return score

    def _close_epoch(self, loss: float) -> None:
        at, score = self.at, self.validate()
        metric, before = score.value, at.best_metric
        at.epoch += 1
        at.metric = score.name
        at.history.append({"epoch": at.epoch, "loss": loss, "metric": metric})
        better = metric is None or before is None or (metric > before if score.higher_is_better else metric < before)
        at.waited = 0 if better else at.waited + 1
        if better or metric == before:
            at.best_metric, at.best_epoch = metric, at.epoch
            self.best = copies(self.average or self.program.module.state_dict())

    def keep_best(self) -> None:
        """Load the best weights into the program."""
        if self.best is not None:
            self.program.module.load_state_dict(self.best)

    def state(self) -> State:
        """Everything on which the next epoch depends."""
        scaler = self.machine.scaler
        return {
            "model": self.program.module.state_dict(),
            "loss": self.loss_module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": None if scaler is None else scaler.state_dict(),
            "average": self.average,
            "best": self.best,
            "progress": asdict(self.at),
            "random": random_state(),
        }

    def restore(self, state: State) -> None:
        """Inverse of :meth:`state`."""
        self.program.module.load_state_dict(state["model"])
        self.loss_module.load_state_dict(state["loss"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.machine.scaler is not None and state["scaler"] is not None:
            self.machine.scaler.load_state_dict(state["scaler"])
        device = self.machine.device
        if state["average"] is not None:
            self.average = {name: value.to(device) for name, value in state["average"].items()}
        self.best = state["best"]
        self.at = Progress(**state["progress"])
        restore_random(state["random"])

    def _keep_zeros(self) -> None:
        """Reset the zeros of a sparse program."""
        with torch.no_grad():
            for weight, mask in self.zeros:
                weight.mul_(mask)

    def _update_average(self) -> None:
        """Update the exponential moving average, with a smaller decay in the first steps."""
        if self.average is None or self.options.ema is None:
            return
        decay = min(self.options.ema, (1 + self.at.step) / (10 + self.at.step))
        for name, value in self.program.module.state_dict().items():
            if value.is_floating_point():
                self.average[name].lerp_(value, 1 - decay)
            else:
                self.average[name].copy_(value)

    @contextmanager
    def _averaged(self) -> Iterator[None]:
        """Use the averaged weights in the program within this context."""
        if self.average is None:
            yield
            return
        before = copies(self.program.module.state_dict())
        self.program.module.load_state_dict(self.average)
        try:
            yield
        finally:
            self.program.module.load_state_dict(before)

    def _finite(self, loss: torch.Tensor) -> float:
        value = float(loss.detach())
        if not math.isfinite(value):
            raise self._diverged(f"the loss is {value}")
        return value

    def _check_state(self) -> None:
        for name, value in self.program.module.state_dict().items():
            if value.is_floating_point() and not bool(torch.isfinite(value).all()):
                if name.endswith("running_var") and any(end - begin == 1 for begin, end in self.feeding.spans):
                    raise self._too_few_samples(name)
                raise self._diverged(f"'{name}' has values that are not finite")

    def _too_few_samples(self, name: str) -> UserError:
        alone = len(self.data.train) == 1
        return UserError(
            f"BatchNorm needs at least 2 samples in each batch, and '{name}' has a variance of 1 sample",
            "give more training samples" if alone else f"set batch_size (now {self.options.batch_size}) to 2 or more",
        )

    def _diverged(self, what: str) -> UserError:
        rate = self.options.learning_rate
        return UserError(
            f"the training diverged: {what} in epoch {self.at.epoch + 1}, step {self.at.step + 1}",
            f"lower learning_rate (now {rate:g}), or set clip_norm: 1.0 and warmup_epochs: 1",
            epoch=self.at.epoch + 1,
            step=self.at.step + 1,
        )

    def _note(self, loss: float) -> str:
        best = "" if self.at.best_metric is None else f" best {self.at.metric} {self.at.best_metric:.4f}"
        return f"epoch {self.at.epoch + 1}/{self.options.epochs} loss {loss:.4f}{best}"


def zero_masks(program: Program) -> list[tuple[torch.nn.Parameter, torch.Tensor]]:
    """The sparse parameters that ``program.meta["sparsity"]`` names, with masks of their nonzero values."""
    named = dict(program.module.named_parameters(remove_duplicate=False))
    names = program.meta.get("sparsity", {}).get("layers", {})
    return [(named[name], named[name].detach() != 0) for name in names if name in named]


def copies(state: Mapping[str, torch.Tensor]) -> Tensors:
    """Tensors that share no memory with the given ones."""
    return {name: value.detach().clone() for name, value in state.items()}
