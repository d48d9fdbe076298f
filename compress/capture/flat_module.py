"""The user's model as a function of positional tensors that returns a flat tuple."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from ...core.errors import ModelError
from .outputs import flatten


class FlatModule(nn.Module):
    """The user's model with positional inputs and a flat tuple of outputs."""

    def __init__(self, inner: nn.Module, keywords: Sequence[str] | None) -> None:
        super().__init__()
        self.inner = inner
        self._keywords = keywords
        self.names: list[str] = []

    def forward(self, *values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """All tensors that the model returns, in order; their names are stored in ``names``."""
        result = self.inner(*values) if self._keywords is None else self.inner(**dict(zip(self._keywords, values)))
        flat = flatten(result)
        self.names = [name for name, _ in flat]
        return tuple(tensor for _, tensor in flat)


def ready(model: nn.Module) -> nn.Module:
    """The module inside torch.compile, DataParallel and DistributedDataParallel; on the CPU.

    Raises:
        ModelError: a lazy layer has not seen an input yet, or the module is TorchScript.
    """
    if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
        return ready(model.module)
    inner = getattr(model, "_orig_mod", None)
    if isinstance(inner, nn.Module):
        return ready(inner)
    state = [*model.named_parameters(), *model.named_buffers()]
    lazy = [name for name, tensor in state if is_lazy(tensor)]
    if lazy:
        raise ModelError(
            f"the model has lazy parameters without a shape: {', '.join(lazy[:3])}", "run the model once before capture"
        )
    if isinstance(model, torch.jit.ScriptModule):
        raise ModelError("a TorchScript module cannot be captured", "give the nn.Module from which it was made")
    return model if all(tensor.device.type == "cpu" for _, tensor in state) else copy.deepcopy(model).cpu()


def keywords(model: nn.Module, names: list[str]) -> list[str] | None:
    """Names by which the inputs are passed; None to pass them by position.

    Raises:
        ModelError: the names do not fit the model's inputs.
    """
    parameters = list(inspect.signature(model.forward).parameters.values())
    kinds = inspect.Parameter
    named = [p.name for p in parameters if p.kind in (kinds.POSITIONAL_OR_KEYWORD, kinds.KEYWORD_ONLY)]
    places = [p for p in parameters if p.kind in (kinds.POSITIONAL_OR_KEYWORD, kinds.POSITIONAL_ONLY)]
    required = {p.name for p in parameters if p.default is kinds.empty and p.name in named}
    variadic = any(p.kind is kinds.VAR_POSITIONAL for p in parameters)
    if set(names) <= set(named) and required <= set(names):
        return names
    misplaced = [name for name, place in zip(names, places) if name in named and name != place.name]
    needed = sum(1 for p in places if p.default is kinds.empty)
    if misplaced or len(names) < needed or (len(names) > len(places) and not variadic):
        raise ModelError(
            f"the example has inputs {', '.join(names)}, but the model's forward takes {', '.join(named) or 'nothing'}",
            "use the names of the forward's parameters, or give the inputs in their order",
        )
    return None
