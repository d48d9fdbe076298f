"""A captured program as a plain ``nn.Module`` that any training loop can use."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from ...core.errors import InputError, ModelError
from ..graph import train_eval_mode
from ..graph.devices import move_module
from ..program import Program, clone


class Trainable(nn.Module):
    """The graph of a program as a module. Its parameters have the model's names, and training changes them in place.

    ``train()`` and ``eval()`` switch all dropout, BatchNorm and recurrent layers in the graph. The forward takes the
    inputs by position in the order of the signature, or by name. It returns the output tensor, or a named tuple if the
    model has several outputs.

    Args:
        program: the program whose parameters are used; they are shared, not copied.
    """

    def __init__(self, program: Program) -> None:
        super().__init__()
        graph = program.module
        # both share the registries of the graph, so that every parameter has the same name without a prefix
        self._parameters, self._buffers, self._modules = graph._parameters, graph._buffers, graph._modules
        self.program = program
        self.training = graph.training
        names = [spec.name for spec in program.signature.outputs]
        self._outputs = namedtuple("Outputs", names, rename=True) if len(names) > 1 else None

    def forward(self, *values: torch.Tensor, **named: torch.Tensor) -> Any:
        """Run the graph on one batch.

        Raises:
            InputError: an input is missing or unknown.
        """
        found = self.program.module(*self._ordered(values, named))
        return found[0] if self._outputs is None else self._outputs(*found)

    def train(self, mode: bool = True) -> Trainable:
        """Switch the graph to training, or with ``mode=False`` to evaluation."""
        train_eval_mode.apply(self.program.module, mode)
        self.training = mode
        return self

    def _ordered(self, values: tuple[torch.Tensor, ...], named: dict[str, torch.Tensor]) -> list[torch.Tensor]:
        signature = self.program.signature
        names = [spec.name for spec in signature.inputs]
        given = {**dict(zip(names, values)), **named}
        if len(values) > len(names) or set(given) != set(names) or set(names[: len(values)]) & set(named):
            listed = [f"{len(values)} by position"] * bool(values) + [f"{', '.join(named)} by name"] * bool(named)
            raise InputError(
                f"the program takes {', '.join(names)}, but it was called with {' and '.join(listed) or 'nothing'}",
                f"give {signature.describe_inputs()}, and compute the loss outside the program",
            )
        return [given[name] for name in names]

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Trainable:
        before = _device(self)
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if _device(self) != before:  # devices are also written into the graph
            move_module(self.program.module, _device(self))
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Trainable:
        return Trainable(clone(self.program))

    def __reduce__(self) -> Any:
        raise ModelError(
            "the module of a program cannot be pickled",
            "save its state_dict(), or the program with `program.save(path)`",
        )


def _device(module: nn.Module) -> torch.device:
    return next((weight.device for weight in module.parameters()), torch.device("cpu"))
