"""A loss that the user wrote: ``module:function(student, teacher, inputs, targets)``."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ...core.data.references import place, resolve
from ...core.errors import RetortError, UserError
from ...core.options.distill_losses import FunctionOptions
from ..graph.node_values import OBSERVED
from ..program import Program
from ..training.losses import Tensors
from .compared import Compared, Term
from .layers.mapping import pairs_of

_PARAMETERS = ("student", "teacher", "inputs", "targets")


class UserFunction(Term):
    """A function of the user.

    It gets the outputs of the student and of the teacher by name, in float32, and the values of the pairs under the
    names that the options give; the inputs by name; and the targets, or None.

    Raises:
        UserError: the function does not exist, or does not take four arguments.
        ModelError: a layer of a pair does not exist.
    """

    def __init__(self, options: FunctionOptions, student: Program, teacher: Program, base: Path) -> None:
        super().__init__(options)
        self._function = loss_function(options.loss, base)
        pairs = pairs_of(student, teacher, options.pairs)
        names = [pair[0] for pair in options.pairs], [pair[1] for pair in options.pairs]
        self._ours = {name: ours.name for name, (ours, _) in zip(names[0], pairs)}
        self._theirs = {name: theirs.name for name, (_, theirs) in zip(names[1], pairs)}
        self.student_nodes, self.teacher_nodes = tuple(self._ours.values()), tuple(self._theirs.values())

    def __call__(self, batch: Compared) -> torch.Tensor:
        student, teacher = _named(batch.outputs, self._ours), _named(batch.teacher, self._theirs)
        try:
            found = self._function(student, teacher, batch.inputs, batch.targets)
        except RetortError:
            raise
        except Exception as error:  # the user's function may raise anything
            raise UserError(
                f"the loss '{self.options.loss}' raised {type(error).__name__}: {error}",
                f"fix the error in {place(error)}",
            ) from error
        return _checked(found, self.options.loss)


def loss_function(reference: str, base: Path) -> Callable[..., Any]:
    """The function of the user.

    Raises:
        UserError: it does not exist, or does not take four arguments.
    """
    function = resolve(reference, base)
    try:
        inspect.signature(function).bind(*_PARAMETERS)
    except TypeError:
        raise UserError(
            f"the loss '{reference}' does not take four arguments",
            f"define it as `def {reference.partition(':')[2]}({', '.join(_PARAMETERS)})`",
        ) from None
    except ValueError:  # some functions of C have no signature
        return function
    return function


def _named(values: Tensors, names: dict[str, str]) -> Tensors:
    outputs = {name: value for name, value in values.items() if not name.startswith(OBSERVED)}
    inner = {name: values[f"{OBSERVED}{node}"] for name, node in names.items()}
    return {name: value.float() if value.is_floating_point() else value for name, value in (outputs | inner).items()}


def _checked(found: Any, reference: str) -> torch.Tensor:
    if not isinstance(found, torch.Tensor) or found.numel() != 1:
        got = f"a tensor of the shape {list(found.shape)}" if isinstance(found, torch.Tensor) else f"{found!r}"
        raise UserError(f"the loss '{reference}' returned {got}", "return one number: the mean over the batch")
    if not bool(torch.isfinite(found.detach())):
        raise UserError(
            f"the loss '{reference}' returned {float(found.detach())}",
            "return a finite number; check divisions, roots and logarithms of 0",
        )
    return found.reshape(()).float()
