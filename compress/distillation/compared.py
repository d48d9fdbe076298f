"""One batch as a loss of distillation sees it: the values of the student and those of the teacher."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import nn

from ...core.errors import DataError, UserError
from ...core.options.distill_losses import LossOptions
from ..graph.node_values import OBSERVED
from ..training.losses import Tensors, class_axis, first, has_classes
from .layers.padding import kept_tokens


@dataclass
class Compared:
    """One batch.

    Attributes:
        outputs: the student's outputs, and its observed values as ``node:NAME``.
        inputs: the student's inputs.
        targets: the labels, or None.
        ask: runs the teacher.
    """

    outputs: Tensors
    inputs: Tensors
    targets: torch.Tensor | None
    ask: Callable[[Tensors], Tensors]
    _theirs: Tensors = field(default_factory=dict)

    @property
    def teacher(self) -> Tensors:
        """The teacher's outputs and observed values; it runs once per batch."""
        if not self._theirs:
            self._theirs = self.ask(self.inputs)
        return self._theirs

    @property
    def prediction(self) -> torch.Tensor:
        """The student's prediction in float32."""
        return first(self.outputs).float()

    @property
    def taught(self) -> torch.Tensor:
        """The teacher's prediction in float32."""
        return first(self.teacher).float()

    def node(self, name: str) -> torch.Tensor:
        """An observed value of the student."""
        return self.outputs[f"{OBSERVED}{name}"]

    def teacher_node(self, name: str) -> torch.Tensor:
        """An observed value of the teacher."""
        return self.teacher[f"{OBSERVED}{name}"]

    def kept(self, shape: tuple[int, ...]) -> torch.Tensor | None:
        """Which tokens of values ``[N, T]`` are not padding; None if none is."""
        return kept_tokens(self.inputs, shape) if len(shape) == 2 else None

    def classes(self, loss: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Both predictions with one row per position ``[P, C]``, and which rows count.

        Raises:
            UserError: the prediction has no classes.
        """
        student, teacher = self.prediction, self.taught
        if not has_classes(student):
            raise UserError(
                f"the loss `{loss}` compares classes, and the output has the shape {list(student.shape)}",
                "use kd or mse for values",
            )
        axis = class_axis(student.dim())
        kept = self.kept(position_shape(student, axis))
        rows = [logits.movedim(axis, -1).reshape(-1, logits.shape[axis]) for logits in (student, teacher)]
        return rows[0], rows[1], None if kept is None else kept.reshape(-1)

    def labels(self, loss: str) -> torch.Tensor:
        """Class indices ``[P]``.

        Raises:
            DataError: there are no labels, or they are not class indices.
        """
        if self.targets is None:
            raise DataError(
                f"the loss `{loss}` needs labels, but the data set has none", "add labels, or use kd or dist instead"
            )
        if self.targets.is_floating_point():
            raise DataError(f"the loss `{loss}` needs one class per sample as its label", "use kd or mse instead")
        return self.targets.reshape(-1)


def position_shape(values: torch.Tensor, axis: int) -> tuple[int, ...]:
    """The sizes of all axes but that of the classes or channels."""
    return tuple(size for number, size in enumerate(values.shape) if number != axis % values.dim())


class Term:
    """One loss with its weight.

    Attributes:
        options: its name, weight and options.
        student_nodes: nodes of the student whose values it needs.
        teacher_nodes: nodes of the teacher whose values it needs.
        module: its parameters.
        chosen: what was chosen automatically, a line each for the user.
    """

    student_nodes: tuple[str, ...] = ()
    teacher_nodes: tuple[str, ...] = ()
    chosen: tuple[str, ...] = ()

    def __init__(self, options: LossOptions) -> None:
        self.options = options
        self.module: nn.Module = nn.Module()

    def __call__(self, batch: Compared) -> torch.Tensor:
        """The loss of a batch without its weight."""
        raise NotImplementedError
