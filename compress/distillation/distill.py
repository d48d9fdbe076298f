"""Distillation: a student learns from a teacher's soft targets (Hinton et al., 2015)."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch.nn import functional

from ...core.artifact import Artifact, raise_if_not
from ...core.context import Context, Place
from ...core.data.model_inputs import fit_to
from ...core.errors import ModelError
from ...core.facts.program_facts import DistillFacts, Training
from ...core.formats.program_file import fit_context
from ...core.options.stage_options import DistillOptions, RecoverOptions, Task
from ...core.preprocessing.fitting import completed
from ...core.signature import Signature
from ...core.tensors import TensorSpec
from ..program import Program, cost, device_of, load_program, move, set_training, store
from ..training.chance import doubt_of
from ..training.checkpoint import discard, identity_of, state_hash
from ..training.losses import (
    CrossEntropy,
    Loss,
    Tensors,
    class_axis,
    first,
    has_classes,
    prediction_of,
    prediction_spec,
    present,
    shaped_like,
    squared_error,
)
from ..training.task_losses import task_loss
from ..training.train import fit, training_facts, warn_of
from .students.stored_student import NOTES, forget


class SoftTargetLoss:
    """``alpha · soft + (1 - alpha) · hard``, both means over the batch; the teacher runs in evaluation mode.

    Classification: soft is ``T² · KL(softmax(teacher / T) ‖ softmax(student / T))`` over the class axis (Hinton et
    al., 2015, section 2). Regression: soft is the mean squared error to the teacher's outputs.

    Attributes:
        identity: distinguishes this loss from one with another teacher or other options.
    """

    def __init__(
        self, teacher: Program, temperature: float, alpha: float, task: Task, hard: Loss | None = None
    ) -> None:
        set_training(teacher, False)
        self.teacher, self.temperature, self.alpha, self.task = teacher, temperature, alpha, task
        self._hard = hard or (CrossEntropy() if task == "classification" else squared_error)
        self.identity = identity_of(
            teacher=state_hash(teacher.module.state_dict()),
            graph=teacher.module.code,
            temperature=temperature,
            alpha=alpha,
            hard=getattr(hard, "identity", ""),
        )

    def __call__(self, outputs: Tensors, inputs: Tensors, targets: torch.Tensor | None) -> torch.Tensor:
        """The loss of one batch; targets may be None if ``alpha`` is 1."""
        student = first(outputs)
        total = torch.zeros((), device=student.device)
        if self.alpha > 0:
            total = total + self.alpha * self._soft(student.float(), self.predict(inputs).float())
        if self.alpha < 1:
            total = total + (1 - self.alpha) * self._hard(outputs, inputs, present(targets))
        return total

    def predict(self, inputs: Tensors) -> torch.Tensor:
        """The teacher's prediction for a batch of the student's inputs."""
        names = [spec.name for spec in self.teacher.signature.inputs]
        values = [inputs[name] for name in names] if set(names) <= set(inputs) else list(inputs.values())
        if values[0].device != device_of(self.teacher):
            move(self.teacher, values[0].device)
        with torch.no_grad():
            outputs: tuple[torch.Tensor, ...] = self.teacher.module(*values)
        return prediction_of(outputs)

    def _soft(self, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        if self.task == "regression" or not has_classes(student):
            return functional.mse_loss(student, shaped_like(teacher, student))
        axis = class_axis(student.dim())
        log_student = functional.log_softmax(student / self.temperature, axis)
        log_teacher = functional.log_softmax(teacher / self.temperature, axis)
        divergence = functional.kl_div(log_student, log_teacher, reduction="none", log_target=True).sum(axis)
        return divergence.mean() * self.temperature**2


def soft_target_loss(
    teacher: Program, temperature: float, alpha: float, task: Task, hard: Loss | None = None
) -> SoftTargetLoss:
    """The distillation loss for :func:`retort.compress.training.train.fit`.

    Args:
        teacher: it is not trained; it is set to evaluation mode, and moved to the student's device at its first use.
        temperature: softens both distributions; for classification only.
        alpha: weight of the soft loss, 0 to 1; at 1 no targets are needed.
        hard: the loss on the targets; cross entropy or mean squared error if None.
    """
    return SoftTargetLoss(teacher, temperature, alpha, task, hard)


def recover(program: Program, teacher: Program, options: RecoverOptions, context: Context, label: str) -> Training:
    """Train a program in place after weights were removed from it, by default on its previous outputs.

    Samples without labels are enough for the outputs: the loss on the labels is then left out.

    Args:
        teacher: the unchanged program; it is only evaluated.
        label: name of the checkpoint in the scratch folder of ``context``.

    Returns:
        The facts of the training.

    Raises:
        RetortError: as :func:`retort.compress.training.train.fit`.
    """
    if options.distill and len(context.data.train) and context.data.train.read([0])[1] is None:
        context.console.say(
            "            the samples have no labels: it is trained on the outputs of the original alone"
        )
        alone: Loss = soft_target_loss(teacher, options.temperature, 1.0, context.task)
        return training_facts(fit(program, options, context, alone, label))
    loss: Loss = task_loss(options, context.data, context.task, program)
    if options.distill:
        loss = soft_target_loss(teacher, options.temperature, options.alpha, context.task, loss)
    return training_facts(fit(program, options, context, loss, label))


def distill(options: DistillOptions, parent: Artifact, place: Place, context: Context, student: Program) -> Artifact:
    """The stage that trains a student on its teacher's outputs.

    Args:
        parent: the teacher's program.
        student: trained in place.

    Raises:
        ArtifactError: ``parent`` is not a program.
        ModelError: teacher and student have different inputs or different outputs.
        RetortError: as :func:`retort.compress.training.train.fit`.
    """
    raise_if_not(parent, "program")
    teacher = load_program(parent.main, context.data)
    check_pair(teacher.signature, student.signature)
    known = teacher.signature
    student.signature = completed(student.signature.naming(known.classes), known)
    given = fit_context(context, parent.main).data
    context = _for_student(context, parent, student)
    hard = task_loss(options, context.data, context.task, student) if options.alpha < 1 else None
    loss = soft_target_loss(teacher, options.temperature, options.alpha, context.task, hard)
    result = fit(student, options, context, loss, "distill")
    doubt = doubt_of(student, context.data, context.task, teacher, given)
    warn_of(doubt, "distill", context.console)
    parameters = cost(teacher).parameters
    made = student.meta.pop(NOTES, None)
    facts = DistillFacts(
        **dict(training_facts(result)),
        teacher_parameters=parameters,
        doubt=doubt,
        student=None if made is None else tuple(made),
    )
    stored = store(student, place, "distill", options=options, facts=facts)
    discard(context.scratch, "distill")
    forget(context.scratch)
    return stored


def _for_student(context: Context, parent: Artifact, student: Program) -> Context:
    """A context whose data have the student's input names, assigned by name or in the order of the teacher's inputs."""
    named = {spec.name for spec in student.signature.inputs} <= set(context.data.train.read([0])[0])
    given = context if named else fit_context(context, parent.main)
    return replace(context, data=fit_to(given.data, student.signature))


def check_pair(teacher: Signature, student: Signature) -> None:
    """Check that a student can learn from a teacher, by their inputs and outputs.

    Raises:
        ModelError: their inputs or their predictions differ.
    """
    theirs, ours = prediction_spec(teacher), prediction_spec(student)
    if not _fits(theirs, ours):
        raise ModelError(
            f"the teacher predicts {theirs.describe()}, the student {ours.describe()}",
            "give the student as many classes (or values) as the teacher has",
        )
    wanted, given = ({spec.name: spec for spec in signature.inputs} for signature in (teacher, student))
    pairs = (
        [(wanted[name], given[name]) for name in wanted]
        if set(wanted) <= set(given)
        else list(zip(wanted.values(), given.values()))
    )
    if len(wanted) > len(given) or not all(_fits(one, other) for one, other in pairs):
        inputs = teacher.describe_inputs(), student.describe_inputs()
        raise ModelError(
            f"the teacher takes {inputs[0]}; the student takes {inputs[1]}",
            "give both models the same inputs",
        )


def _fits(one: TensorSpec, other: TensorSpec) -> bool:
    sizes = zip(one.shape, other.shape)
    return len(one.shape) == len(other.shape) and all(
        left == right for left, right in sizes if isinstance(left, int) and isinstance(right, int)
    )
