"""Distillation: a student learns from a teacher's outputs and from what happens inside it."""

from __future__ import annotations

from dataclasses import replace

from ...core.artifact import Artifact, raise_if_not
from ...core.context import Context, Place
from ...core.data.model_inputs import fit_to
from ...core.errors import DataError, ModelError
from ...core.facts.program_facts import DistillFacts, Training
from ...core.formats.program_file import fit_context
from ...core.options.distill_options import DistillOptions, RecoverOptions, SoftTargetOptions
from ...core.preprocessing.fitting import completed
from ...core.signature import Signature
from ...core.tensors import TensorSpec
from ..program import Program, cost, load_program, store
from ..training.chance import doubt_of
from ..training.checkpoint import discard
from ..training.losses import Loss, prediction_spec
from ..training.task_losses import task_loss
from ..training.train import fit, training_facts, warn_of
from .combined_loss import CombinedLoss, distillation_loss
from .students.stored_student import NOTES, forget


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
    labelled = has_labels(context)
    if options.distill and not labelled:
        context.console.say(
            "            the samples have no labels: it is trained on the outputs of the original alone"
        )
        if not options.losses:
            options = options.model_copy(update={"alpha": 1.0})
    hard: Loss | None = task_loss(options, context.data, context.task, program) if labelled else None
    loss = hard
    if options.distill:
        loss = learned_from(options, program, teacher, context, hard)
    return training_facts(fit(program, options, context, loss, label))


def learned_from(
    options: SoftTargetOptions, student: Program, teacher: Program, context: Context, hard: Loss | None
) -> CombinedLoss:
    """The loss of a student that learns from a teacher; without labels, from the teacher alone.

    Args:
        hard: the loss on the targets; None for the one of the task.

    Raises:
        DataError: a loss needs labels, and the samples have none.
        RetortError: as :func:`retort.compress.distillation.combined_loss.distillation_loss`.
    """
    labelled = has_labels(context)
    needing = [loss.loss for loss in options.losses if loss.needs_targets]
    if needing and not labelled:
        raise DataError(
            f"the loss `{needing[0]}` needs labels, but the data set has none", "add labels, or use kd or dist instead"
        )
    if options.losses and not labelled and not options.needs_targets:
        context.console.say("            the samples have no labels: the student learns from the teacher alone")
    return distillation_loss(
        options,
        student,
        teacher,
        context.task,
        hard,
        labelled=labelled,
        seed=context.seed,
        base=context.base,
        console=context.console,
    )


def has_labels(context: Context) -> bool:
    """Whether the training samples have labels."""
    train = context.data.train
    return len(train) == 0 or train.read([0])[1] is not None


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
    check_pair(teacher.signature, student.signature, options.needs_equal_outputs)
    known = teacher.signature
    student.signature = completed(student.signature.naming(known.classes), known)
    given = fit_context(context, parent.main).data
    context = _for_student(context, parent, student)
    labelled = options.needs_targets or has_labels(context)
    hard = task_loss(options, context.data, context.task, student) if options.target_weight > 0 and labelled else None
    loss = learned_from(options, student, teacher, context, hard)
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


def check_pair(teacher: Signature, student: Signature, outputs: bool = True) -> None:
    """Check that a student can learn from a teacher, by their inputs and outputs.

    Args:
        outputs: whether their predictions are compared; losses on inner values do without.

    Raises:
        ModelError: their inputs or their predictions differ.
    """
    theirs, ours = prediction_spec(teacher), prediction_spec(student)
    if outputs and not _fits(theirs, ours):
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
