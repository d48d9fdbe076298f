"""Faults that a run on two samples shows: models that do not run on the data, and outputs that do not fit."""

from __future__ import annotations

import math
from collections.abc import Iterator
from importlib.util import find_spec

import numpy as np

from ...core.context import Context
from ...core.counts import counted
from ...core.data.model_inputs import fit_to, score_indices
from ...core.data.splits import Split, Splits, targets_in_memory
from ...core.errors import RetortError
from ...core.formats.program_file import read_signature
from ...core.metrics.task_metrics import is_labelled
from ...core.options.metric_names import is_function
from ...core.options.recipe_faults import Fault
from ...core.options.stage_options import CaptureOptions, DistillOptions, ModelSpec, TrainOptions
from ...core.options.student_form import is_student_form
from ...core.signature import Signature
from ...core.tensors import Array, TensorSpec
from .augment_trial import augment_faults
from .subject import Subject, fault_of

SAMPLES = 64
"""Number of targets that are read of data that are not in memory."""


def trial_faults(subject: Subject, known: list[Fault]) -> Iterator[Fault]:
    """Load the data, and run the model and the student on two samples.

    Args:
        known: faults that were found before; what has one is not tried.
    """
    blocked = {fault.key.partition(".")[0] for fault in known}
    if "data" in blocked:
        return
    try:
        data = subject.data()
    except (Exception, SystemExit) as error:  # the user's function may raise anything
        yield fault_of("data.source", error)
        return
    unread = list(_as_faults(_needs_targets(subject, data)))
    yield from unread
    if find_spec("torch") is None or any(fault.key == "data.source" for fault in unread):
        return
    teacher: Signature | None = None
    if "capture" in subject.made and "model" not in blocked:
        options = subject.options("capture")
        assert isinstance(options, CaptureOptions)
        found = _tried(subject, subject.recipe.model, "model", data, options)
        if isinstance(found, Fault):
            yield found
        else:
            teacher = found
            yield from _as_faults(target_faults(subject, teacher, data))
            yield from _as_faults(augment_faults(subject, teacher, data))
    elif "capture" in subject.finished:
        teacher = read_signature(subject.finished["capture"].main)
    student = subject.key("distill", "student")
    if student and not any(fault.key.startswith(student) for fault in known):
        yield from _student_faults(subject, data, teacher)


def _as_faults(faults: Iterator[Fault]) -> Iterator[Fault]:
    """Faults of samples, or the fault of the data if they cannot be read."""
    try:
        yield from faults
    except (Exception, SystemExit) as error:  # the user's data may raise anything
        yield fault_of("data.source", error)


def _student_faults(subject: Subject, data: Splits, teacher: Signature | None) -> Iterator[Fault]:
    distill = subject.options("distill")
    if not isinstance(distill, DistillOptions) or is_student_form(distill.student.source):
        return
    from ...compress.distillation.distill import check_pair

    key = subject.key("distill", "student")
    found = _tried(subject, distill.student, key, data, CaptureOptions())
    if isinstance(found, Fault):
        yield found
    elif teacher is not None:
        try:
            check_pair(teacher, found, distill.needs_equal_outputs)
        except RetortError as error:
            yield fault_of(key, error)


def _tried(subject: Subject, spec: ModelSpec, key: str, data: Splits, options: CaptureOptions) -> Signature | Fault:
    """The inputs and outputs of a model on the data, or its fault."""
    recipe = subject.recipe
    try:
        if spec.source.endswith(".pt2"):
            signature = read_signature(subject.base / spec.source)
            fit_to(data, signature)
            return signature
        if spec.source.endswith(".onnx"):
            from ...export.files import graph_signature, read_graph

            path = subject.base / spec.source
            return graph_signature(read_graph(path), path)
        from ...compress.sources.trial_run import signature_in_trial

        return signature_in_trial(spec, Context(data, subject.base, recipe.task, recipe.target, recipe.seed), options)
    except (Exception, SystemExit) as error:  # the user's model may raise anything
        weights = spec.weights is not None and "weights" in str(error)
        return fault_of(f"{key}.weights" if weights else f"{key}.source", error)


def _needs_targets(subject: Subject, data: Splits) -> Iterator[Fault]:
    """Stages and a metric that need targets, if the samples have none."""
    remedy = "give (inputs, targets), or leave it out"
    if data.train.read([0])[1] is None and "train" in subject.made:
        yield Fault(subject.key("train"), "`train` needs targets, and the samples have none", remedy)
    metric = subject.recipe.metric
    if metric is not None and not is_function(metric) and is_labelled(metric) and data.test.read([0])[1] is None:
        text = f"'{metric}' needs targets, but these samples have none"
        yield Fault("metric", text, "add targets, or choose agreement (`metric: agreement` at the top of a recipe)")


def target_faults(subject: Subject, model: Signature, data: Splits) -> Iterator[Fault]:
    """Targets that the outputs of a model do not fit: classes that it does not have, or values of another shape."""
    from ...compress.training.losses import prediction_spec

    spec, targets = prediction_spec(model), targets_of(data.train)
    if targets is None:
        return
    task = subject.recipe.task
    if task == "regression":
        yield from _value_faults(spec, targets)
    elif task != "classification":
        yield from _task_faults(subject, model, targets)
    elif targets.dtype.kind not in "iub":
        text = f"the targets are {targets.dtype}, not class indices"
        yield Fault("task", text, "give integer classes from 0, or set `task: regression`")
    elif len(spec.shape) == 2 and targets.ndim == 1:
        try:
            score_indices(data.classes, model)
        except RetortError as error:
            yield fault_of("data.source", error)
            return
        yield from _class_faults(subject, spec, targets, len(data.classes))


def _task_faults(subject: Subject, model: Signature, targets: Array) -> Iterator[Fault]:
    """What the loss or the metric of a task would say of the first targets and of the model's outputs."""
    from ...compress.training.losses import prediction_spec
    from ...compress.training.targets import labels_of, symbols_of

    spec = prediction_spec(model)
    try:
        if subject.recipe.task == "multilabel" and len(spec.shape) == 2 and isinstance(spec.shape[1], int):
            labels_of(targets, spec.shape[1], "the targets")
        if subject.recipe.task == "sequence":
            symbols_of(targets, spec, "the targets")
    except RetortError as error:
        yield fault_of("data.source", error)


def _class_faults(subject: Subject, spec: TensorSpec, targets: Array, named: int) -> Iterator[Fault]:
    """Classes that the model does not have; ``named`` is the number of classes that the data name."""
    size = spec.shape[1]
    if not isinstance(size, int):
        return
    count = max(size, 2)  # one logit decides between two classes
    low, high = int(targets.min()), max(int(targets.max()), named - 1)
    if low < 0 or high >= count:
        yield Fault(
            "data.source",
            f"the targets are classes from {low} to {high}, and the model predicts "
            f"{counted(count, 'class')}, 0 to {count - 1} "
            f"({spec.describe()})",
            "number the classes from 0, or give the model as many outputs as there are classes",
        )
    for stage in ("train", "distill"):
        options = subject.options(stage)
        weights = options.class_weights if isinstance(options, TrainOptions) else "none"
        if isinstance(weights, tuple) and len(weights) != size:
            text = f"class_weights has {counted(weights, 'value')}, but the model has {counted(size, 'class')}"
            yield Fault(subject.key(stage, "class_weights"), text, "give one weight per class, or `balanced`")


def _value_faults(spec: TensorSpec, targets: Array) -> Iterator[Fault]:
    predicted = [size for size in spec.shape[1:] if size != 1]
    if all(isinstance(size, int) for size in predicted):
        given = math.prod(targets.shape[1:])
        if given != math.prod(int(size) for size in predicted):
            text = f"targets have shape {list(targets.shape)}, but the model predicts {spec.describe()}"
            yield Fault("data.source", text, "give one target per predicted value")


def targets_of(split: Split) -> Array | None:
    """All targets of a split in memory, or those of samples that are spread evenly over it.

    The first samples would not do: files in a folder per class are sorted by their class.
    """
    found = targets_in_memory(split)
    if found is not None:
        return found
    return split.read(np.unique(np.linspace(0, len(split) - 1, min(SAMPLES, len(split))).astype(np.int64)))[1]
