"""Facts about a program: its size, its capture and its training."""

from __future__ import annotations

from .record import Record


class ProgramFacts(Record):
    """Facts of every program; the stage that writes the file counts them.

    Attributes:
        parameters: number of trainable values, shared ones counted once.
        parameter_bytes: bytes of these values in their own type; missing for an INT8 program.
        macs: multiply-accumulates for one sample.
        size_bytes: bytes of the ``.pt2`` file.
    """

    parameters: int = 0
    parameter_bytes: int | None = None
    macs: int = 0
    size_bytes: int = 0


class CaptureFacts(ProgramFacts):
    """Facts of the capture stage.

    Attributes:
        notes: what was changed or fixed so that the model could be captured, if anything.
    """

    notes: tuple[str, ...] | None = None


class Epoch(Record):
    """One epoch of a training.

    Attributes:
        epoch: its number, from 1.
        loss: mean loss over the training samples.
        metric: the metric on the validation split; None without one.
    """

    epoch: int
    loss: float
    metric: float | None


class TrainTiming(Record):
    """Durations of a training.

    Attributes:
        train_seconds: duration of the last run, without interrupted runs before it.
        workers: number of processes that read samples; missing if the training read them itself.
    """

    train_seconds: float
    workers: int | None = None


class Training(Record):
    """The result of a training; all fields except ``timing`` are the same in every run.

    Attributes:
        epochs: number of epochs.
        best_epoch: the epoch whose weights were kept.
        best_metric: the metric of the kept weights; None without a validation split.
        metric: name of the metric: ``accuracy``, ``mse``, or ``loss`` if the validation samples have no targets.
        history: one entry per epoch.
        augmentation: each transform of the training samples, with the inputs that it changed and the range of values
            that was assumed for them; missing without any.
        timing: durations; missing in the steps of a pruning.
    """

    epochs: int
    best_epoch: int
    best_metric: float | None
    metric: str
    history: tuple[Epoch, ...]
    augmentation: tuple[str, ...] | None = None
    timing: TrainTiming | None = None


class TrainFacts(ProgramFacts, Training):
    """Facts of the train stage.

    Attributes:
        doubt: what speaks against the trained program, such as a constant class; empty if nothing does.
    """

    doubt: str | None = None


class DistillFacts(TrainFacts):
    """Facts of the distill stage.

    Attributes:
        teacher_parameters: number of trainable values of the teacher.
        student: how the student was made from its teacher, line by line; None for a model of the user.
    """

    teacher_parameters: int
    student: tuple[str, ...] | None = None
