"""The loss of a distillation: several losses by weight, and the loss against the targets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from ...core.console import SILENT, Console
from ...core.data.references import source_identity
from ...core.errors import UserError
from ...core.options.distill_losses import (
    ContrastiveOptions,
    CosineOptions,
    DistOptions,
    DkdOptions,
    FunctionOptions,
    KdOptions,
    LossOptions,
    MinilmOptions,
    MseOptions,
    PairedOptions,
    SelfOptions,
)
from ...core.options.distill_options import SoftTargetOptions
from ...core.options.stage_options import Task
from ..program import Program
from ..training.checkpoint import identity_of, seeded, state_hash
from ..training.losses import Loss, Tensors, present, squared_error
from ..training.task_losses import plain_loss
from .compared import Compared, Term
from .inner_terms import AttentionRelations, paired_term
from .output_terms import Correlations, Decoupled, Embeddings, OutputError, OwnAverage, SoftTargets
from .teacher import Teacher
from .user_function import UserFunction


class CombinedLoss:
    """The sum of losses with their weights, each a mean over the batch, in float32; the teacher is only evaluated.

    It is a :class:`retort.compress.training.observed_loss.ObservingLoss`.

    Attributes:
        identity: distinguishes this loss from one with another teacher, other options or other code of the user.
        observes: nodes of the student whose values are needed.
        module: projections that are trained with the student.
    """

    def __init__(
        self, teacher: Program, terms: Sequence[Term], hard: Loss, hard_weight: float, base: Path | None = None
    ) -> None:
        self.terms, self._hard, self._hard_weight = terms, hard, hard_weight
        self._teacher = Teacher(teacher, tuple(dict.fromkeys(name for term in terms for name in term.teacher_nodes)))
        self.observes = tuple(dict.fromkeys(name for term in terms for name in term.student_nodes))
        self.module = nn.ModuleList(term.module for term in terms)
        functions = [term.options.loss for term in terms if isinstance(term.options, FunctionOptions)]
        self.identity = identity_of(
            teacher=state_hash(teacher.module.state_dict()),
            graph=teacher.module.code,
            losses=[[term.options.model_dump(mode="json"), getattr(term, "temperature", None)] for term in terms],
            nodes=[[*term.student_nodes, *term.teacher_nodes] for term in terms],
            functions=[source_identity(name, base or Path.cwd()) for name in functions],
            hard_weight=hard_weight,
            hard=getattr(hard, "identity", ""),
        )

    def __call__(self, outputs: Tensors, inputs: Tensors, targets: torch.Tensor | None) -> torch.Tensor:
        """The loss of one batch; targets may be None if no loss needs them."""
        device = next(iter(outputs.values())).device
        batch = Compared(outputs, inputs, targets, self._teacher.outputs)
        total = torch.zeros((), device=device)
        for term in self.terms:
            if self._asks(term):
                _ = batch.teacher  # in the precision of the training; what follows is computed in float32
            with torch.autocast(device.type, enabled=False):
                total = total + term.options.weight * term(batch)
        if self._hard_weight > 0:
            total = total + self._hard_weight * self._hard(outputs, inputs, present(targets))
        return total

    def predict(self, inputs: Tensors) -> torch.Tensor:
        """The teacher's prediction for a batch of the student's inputs."""
        return self._teacher.predict(inputs)

    @staticmethod
    def _asks(term: Term) -> bool:
        return not isinstance(term, OwnAverage)


def soft_target_loss(
    teacher: Program, temperature: float, alpha: float, task: Task, hard: Loss | None = None
) -> CombinedLoss:
    """``alpha · kd + (1 - alpha) · hard`` for :func:`retort.compress.training.train.fit` (Hinton et al., 2015).

    Args:
        teacher: it is not trained; it is set to evaluation mode, and moved to the student's device at its first use.
        temperature: softens both distributions; for classification only.
        alpha: weight of the soft loss, 0 to 1; at 1 no targets are needed.
        hard: the loss on the targets; cross entropy or mean squared error if None.
    """
    terms = [SoftTargets(KdOptions(weight=alpha), temperature, task)] if alpha > 0 else []
    return CombinedLoss(teacher, terms, hard or (plain_loss(task) if alpha < 1 else squared_error), 1 - alpha)


def distillation_loss(
    options: SoftTargetOptions,
    student: Program,
    teacher: Program,
    task: Task,
    hard: Loss | None = None,
    *,
    labelled: bool = True,
    seed: int = 0,
    base: Path | None = None,
    console: Console = SILENT,
) -> CombinedLoss:
    """The loss that options describe, for :func:`retort.compress.training.train.fit`.

    Args:
        student: the program that is trained.
        hard: the loss on the targets; cross entropy or mean squared error if None.
        labelled: whether the samples have labels; without them `losses` leave out the loss on the targets.
        seed: of the projections.
        base: folder from which the user's functions are imported.
        console: is told which layers were paired.

    Raises:
        ModelError: a layer does not exist, no layers can be paired, or a model has no attention.
        UserError: a function of the user does not exist, or a loss does not fit the task, the batches or mixed samples.
    """
    if not options.losses:
        return soft_target_loss(teacher, options.temperature, options.alpha, task, hard)
    _check(options, task)
    with seeded(seed):
        terms = [_term(loss, options, student, teacher, task, base or Path.cwd()) for loss in options.losses]
    for term in terms:
        for line in term.chosen:
            console.say(f"            {term.options.loss}: {line}")
    weight = options.target_weight
    if not labelled and not options.needs_targets:
        weight = 0.0
    return CombinedLoss(teacher, terms, hard or (plain_loss(task) if weight > 0 else squared_error), weight, base)


def _check(options: SoftTargetOptions, task: Task) -> None:
    wrong = options.misfit(task)
    if wrong is not None:
        raise UserError(*wrong)


def _term(
    loss: LossOptions, options: SoftTargetOptions, student: Program, teacher: Program, task: Task, base: Path
) -> Term:
    temperature = options.temperature
    if isinstance(loss, KdOptions):
        return SoftTargets(loss, temperature, task)
    if isinstance(loss, DkdOptions):
        return Decoupled(loss, temperature)
    if isinstance(loss, DistOptions):
        return Correlations(loss, temperature)
    if isinstance(loss, MseOptions):
        return OutputError(loss)
    if isinstance(loss, CosineOptions | ContrastiveOptions):
        return Embeddings(loss, student, teacher)
    if isinstance(loss, SelfOptions):
        return OwnAverage(loss, temperature, task, student)
    if isinstance(loss, MinilmOptions):
        return AttentionRelations(loss, student, teacher)
    if isinstance(loss, PairedOptions):
        return paired_term(loss, student, teacher)
    assert isinstance(loss, FunctionOptions)
    return UserFunction(loss, student, teacher, base)
