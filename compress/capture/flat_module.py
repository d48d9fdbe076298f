"""The user's model as a function of positional tensors that returns a flat tuple."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import nn
from torch.nn.parameter import is_lazy
from torch.optim.swa_utils import AveragedModel

from ...core.backends.eager import quiet
from ...core.errors import CaptureError, ModelError
from ...core.faults import raise_if_defect
from .data_guards import Guards
from .outputs import flatten
from .packed_sequences import Packing
from .preserve_state import preserved


@dataclass(frozen=True)
class Passing:
    """How inputs reach ``forward``: by position, by name, or together in one dict, list or tuple.

    Attributes:
        paths: with the form ``nested``, the parameter of each input and its place inside: ``past``, ``0``, ``1``.
    """

    form: Literal["positions", "names", "dict", "list", "tuple", "nested"]
    names: tuple[str, ...]
    paths: tuple[tuple[str, ...], ...] = ()

    def call(self, model: nn.Module, values: Sequence[torch.Tensor]) -> Any:
        """The result of the model."""
        if self.form == "positions":
            return model(*values)
        if self.form == "nested":
            return model(**_gathered(list(zip(self.paths, values))))
        named = dict(zip(self.names, values))
        if self.form == "names":
            return model(**named)
        return model(named if self.form == "dict" else list(values) if self.form == "list" else tuple(values))


def _gathered(items: Sequence[tuple[tuple[str, ...], torch.Tensor]]) -> dict[str, Any]:
    """Arguments by name; those with numbered places are tuples, those with named places are dicts."""
    groups: dict[str, list[tuple[tuple[str, ...], torch.Tensor]]] = {}
    for (first, *rest), value in items:
        groups.setdefault(first, []).append((tuple(rest), value))
    found: dict[str, Any] = {}
    for name, inner in groups.items():
        if inner[0][0]:
            parts = _gathered(inner)
            found[name] = tuple(parts.values()) if all(key.isdigit() for key in parts) else parts
        else:
            found[name] = inner[0][1]
    return found


class FlatModule(nn.Module):
    """The user's model with positional inputs and a flat tuple of outputs."""

    def __init__(self, inner: nn.Module, passing: Passing) -> None:
        super().__init__()
        self.inner = inner
        self._passing = passing
        self.names: list[str] = []
        self.crops = False
        self.guards = Guards()

    def forward(self, *values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """All tensors that the model returns, in order; their names are stored in ``names``.

        ``crops`` then states whether a length of the result is that of the longest packed sequence.
        """
        packing = Packing(tracing=torch.compiler.is_exporting())
        with packing.active(), self.guards.active():
            try:
                flat = flatten(self._passing.call(self.inner, values))
            finally:
                self.crops |= packing.crops
        self.names = [name for name, _ in flat]
        return tuple(tensor for _, tensor in flat)


def ready(model: nn.Module) -> nn.Module:
    """The module inside torch.compile, DataParallel, DistributedDataParallel and AveragedModel; on the CPU.

    Raises:
        ModelError: a lazy layer has not seen an input yet, or the module is TorchScript.
    """
    if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel | AveragedModel):
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


def require_no_script(model: nn.Module, error: CaptureError) -> None:
    """Explain a failed capture by a submodule that is TorchScript, if there is one.

    Raises:
        CaptureError: a submodule is TorchScript.
    """
    scripted = [name for name, child in model.named_modules() if isinstance(child, torch.jit.ScriptModule)]
    if scripted:
        raise CaptureError(
            f"the submodule '{scripted[0]}' is TorchScript, which cannot be captured",
            "put the nn.Module there from which it was made (without `torch.jit.script`)",
            cause=error.message,
        ) from error


def passing_of(model: nn.Module, feeds: Mapping[str, torch.Tensor]) -> Passing:
    """How the model takes inputs with these names; where its signature leaves it open, a run decides.

    Raises:
        ModelError: the names do not fit the model's inputs.
    """
    names = tuple(feeds)
    parameters = list(inspect.signature(model.forward).parameters.values())
    kinds = inspect.Parameter
    named = [p.name for p in parameters if p.kind in (kinds.POSITIONAL_OR_KEYWORD, kinds.KEYWORD_ONLY)]
    places = [p for p in parameters if p.kind in (kinds.POSITIONAL_OR_KEYWORD, kinds.POSITIONAL_ONLY)]
    required = {p.name for p in parameters if p.default is kinds.empty and p.name in named}
    variadic, any_name = (any(p.kind is kind for p in parameters) for kind in (kinds.VAR_POSITIONAL, kinds.VAR_KEYWORD))
    unnamed = names == tuple(f"input_{place}" for place in range(len(names)))
    if variadic and any_name and unnamed:
        return Passing("positions", names)  # a wrapper that passes on everything
    if required <= set(names) and (any_name or set(names) <= set(named)):
        return Passing("names", names)
    paths = tuple(_path(name, named) for name in names)
    if (
        not unnamed
        and any(len(path) > 1 for path in paths)
        and required <= {path[0] for path in paths if path}
        and all(paths)
    ):
        return Passing("nested", names, paths)
    needed = sum(1 for p in places if p.default is kinds.empty)
    one = needed == 1 and (len(names) == 1 or len(names) > len(places))
    if one and not variadic and not set(names) & set(named):
        found = _found_by_a_run(model, feeds)
        if found is not None:
            return found
    misplaced = [name for name, place in zip(names, places) if name in named and name != place.name]
    if misplaced or len(names) < needed or (len(names) > len(places) and not variadic):
        raise ModelError(
            f"the example has inputs {', '.join(names)}, but the model's forward takes {', '.join(named) or 'nothing'}",
            "use the names of the forward's parameters, or give the inputs in their order"
            + _text_lengths(names, needed),
        )
    return Passing("positions", names)


def _text_lengths(names: Sequence[str], needed: int) -> str:
    """The data argument that gives texts the lengths which a model takes as one more input."""
    if "input_ids" not in names or "lengths" in names or needed != len(names) + 1:
        return ""
    return "; texts also have their lengths with the data argument `lengths: true` (--data-arg lengths=true)"


def _path(name: str, parameters: Sequence[str]) -> tuple[str, ...]:
    """``past``, ``0``, ``1`` for ``past_0_1`` if the forward has a parameter ``past``; empty for an unknown name."""
    if name in parameters:
        return (name,)
    owner = max((item for item in parameters if name.startswith(f"{item}_")), key=len, default="")
    return (owner, *name.removeprefix(f"{owner}_").split("_")) if owner else ()


def _found_by_a_run(model: nn.Module, feeds: Mapping[str, torch.Tensor]) -> Passing | None:
    """The first way in which a model that takes one value runs on all inputs; None if it runs in none."""
    forms: list[Literal["positions", "dict", "list", "tuple"]] = ["dict", "list", "tuple"]
    for form in ["positions", *forms] if len(feeds) == 1 else forms:
        passing = Passing(cast(Any, form), tuple(feeds))
        with preserved(model), torch.no_grad(), quiet():
            model.eval()
            try:
                flatten(passing.call(model, [tensor.clone() for tensor in feeds.values()]))
            except Exception as error:  # the user's forward may raise anything
                raise_if_defect(error)
                continue
        return passing
    return None
