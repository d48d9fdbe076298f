"""Capture of an ``nn.Module`` as a trainable graph of ATen calls, which is compared with the model."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn
from torch.nn.parameter import is_lazy

from ...core.backends.eager import quiet
from ...core.errors import CaptureError, ModelError, RetortError
from ...core.tensors import BATCH, Signature
from ..graph import train_eval_mode
from ..graph.rows import rows
from .cleanup import finish, inside
from .failures import mismatch
from .outputs import choose_names, flatten
from .preserve_state import holding, nudged, plain_attention, preserved, same_buffers
from .signature import Dynamic, Tensors, make_signature
from .torch_export import trace

Check = tuple[Tensors, list[torch.Tensor]]
EXAMPLE_ROWS = 4
CHECKED_BATCHES = (3, 1)


@dataclass(frozen=True)
class Captured:
    """A checked graph: the module in evaluation form with its nodes marked, its signature and its example.

    Attributes:
        notes: remarks for the user about the way in which it was captured.
    """

    module: fx.GraphModule
    signature: Signature
    example: Tensors
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Form:
    """A graph after capture, and the symbolic values of its inputs and outputs."""

    module: fx.GraphModule
    inputs: list[torch.Tensor]
    outputs: list[torch.Tensor]


@dataclass(frozen=True)
class Checks:
    """What a captured graph must compute: feeds and outputs with the model's parameters, and with ``values``."""

    plain: list[Check]
    nudged: Check
    values: Tensors


class _Flat(nn.Module):
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


def capture_module(
    model: nn.Module,
    example: Mapping[str, Any],
    dynamic: Dynamic | None = None,
    output_names: Sequence[str] | None = None,
) -> Captured:
    """Capture a model; see :func:`retort.compress.capture.capture_program.capture`."""
    model = _ready(model)
    given = prepare_example(example)
    feeds = rows(given, min(max(2, _size(given)), EXAMPLE_ROWS))
    _check_dynamic(feeds, dynamic or {})
    flat = _Flat(model, _keywords(model, list(feeds)))
    with preserved(model) as train, torch.enable_grad(), quiet(), plain_attention():
        model.eval()
        checks = _references(flat, given, feeds)
        names = choose_names(output_names, flat.names, feeds)
        form, notes = _best_form(flat, feeds, dynamic or {}, train, checks)
    signature = make_signature(feeds, dynamic or {}, names, form.inputs, form.outputs)
    return Captured(form.module, signature, feeds, notes)


def prepare_example(example: Mapping[str, Any]) -> Tensors:
    """Convert the example to CPU tensors.

    Raises:
        ModelError: there is no input, or inputs have different numbers of rows.
    """
    tensors = {name: _as_tensor(value) for name, value in example.items()}
    counts = {len(tensor) for tensor in tensors.values() if tensor.dim()}
    if len(counts) != 1 or 0 in counts:
        shown = ", ".join(f"{name}: {list(tensor.shape)}" for name, tensor in tensors.items()) or "nothing"
        raise ModelError(
            f"the example inputs must have the same number of rows on axis 0, but they have {shown}",
            "give one array per input with a leading batch axis",
        )
    return tensors


def _best_form(
    flat: _Flat, feeds: Tensors, dynamic: Dynamic, train: Callable[[], set[str]], checks: Checks
) -> tuple[Form, tuple[str, ...]]:
    """The training form if its evaluation agrees with the model, else the marked evaluation form; and notes."""
    frozen = train()
    training: fx.GraphModule | None = None
    notes: tuple[str, ...] = ()
    try:
        form = _export(flat, feeds, dynamic)
    except CaptureError as error:
        notes = (f"the model is captured in evaluation form, because in training {error.message}",)
    else:
        training = form.module
        train_eval_mode.mark_training_form(training)
        train_eval_mode.apply(training, False)
        if not train_eval_mode.random_nodes(training) and _fault(training, checks) is None:
            return form, ()
        train_eval_mode.apply(training, True)
    flat.eval()
    form = _export(flat, feeds, dynamic)
    train_eval_mode.mark_evaluation_form(form.module, training, frozen)
    train_eval_mode.apply(form.module, False)
    fault = _fault(form.module, checks)
    if fault is not None:
        raise CaptureError(
            f"the captured program does not agree with the model: {fault}",
            "check `forward` for random numbers, global state and Python numbers computed from data",
        )
    return form, notes


def _fault(graph: fx.GraphModule, checks: Checks) -> str | None:
    fault = mismatch(graph, checks.plain)
    if fault is None:
        with holding(graph, checks.values):
            fault = mismatch(graph, [checks.nudged])
    return fault


def _export(flat: _Flat, feeds: Tensors, dynamic: Dynamic) -> Form:
    """The cleaned graph and the symbolic values of its inputs and outputs."""
    axes = [{0: BATCH, **dynamic.get(name, {})} if tensor.dim() else {} for name, tensor in feeds.items()]
    exported = trace(flat, list(feeds.values()), axes, variadic=True)
    return Form(*finish(exported, list(feeds), "inner."))


def _references(flat: _Flat, given: Tensors, feeds: Tensors) -> Checks:
    """The outputs of the model itself in evaluation mode.

    Raises:
        ModelError: the model does not run on the example.
        CaptureError: its outputs are random, or it runs only at the example's batch size.
    """
    first = _reference(flat, given)
    again = _reference(flat, given)
    if any(not torch.equal(left, right) for left, right in zip(first[1], again[1]) if not left.isnan().any()):
        raise CaptureError(
            "the model's outputs are random in evaluation: two runs on the same example differ",
            "pass `training=self.training` to F.dropout, and draw random numbers only in training",
        )
    plain = [first]
    for size in (_size(feeds), *CHECKED_BATCHES):
        try:
            plain.append(_reference(flat, rows(feeds, size)))
        except ModelError as error:
            raise CaptureError(
                f"the model fixes the batch to {_size(given)}: {error.message}",
                "take sizes from the input (`x.size(0)`, `x.flatten(1)`) instead of writing them as numbers",
            ) from error
    with nudged(flat.inner) as values:
        _drop_caches(flat)
        moved = _reference(flat, feeds)
    _drop_caches(flat)
    return Checks(plain, moved, {inside(name): value for name, value in values.items()})


def _drop_caches(model: nn.Module) -> None:
    """Make the model drop values that it caches between runs in evaluation; ``train`` deletes them."""
    model.train()
    model.eval()


def _reference(flat: _Flat, feeds: Tensors) -> Check:
    with torch.no_grad(), same_buffers(flat):
        try:
            return feeds, [value.detach().clone() for value in flat(*(tensor.clone() for tensor in feeds.values()))]
        except RetortError:
            raise
        except Exception as error:  # the user's forward may raise anything
            raise ModelError(
                f"the model does not run on an example batch of {_size(feeds)}: {type(error).__name__}: {error}",
                "give example inputs that fit its forward",
            ) from error


def _keywords(model: nn.Module, names: list[str]) -> list[str] | None:
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


def _ready(model: nn.Module) -> nn.Module:
    """The module inside torch.compile, DataParallel and DistributedDataParallel; on the CPU.

    Raises:
        ModelError: a lazy layer has not seen an input yet, or the module is TorchScript.
    """
    if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
        return _ready(model.module)
    inner = getattr(model, "_orig_mod", None)
    if isinstance(inner, nn.Module):
        return _ready(inner)
    state = [*model.named_parameters(), *model.named_buffers()]
    lazy = [name for name, tensor in state if is_lazy(tensor)]
    if lazy:
        raise ModelError(
            f"the model has lazy parameters without a shape: {', '.join(lazy[:3])}", "run the model once before capture"
        )
    if isinstance(model, torch.jit.ScriptModule):
        raise ModelError("a TorchScript module cannot be captured", "give the nn.Module from which it was made")
    return model if all(tensor.device.type == "cpu" for _, tensor in state) else copy.deepcopy(model).cpu()


def _check_dynamic(feeds: Tensors, dynamic: Dynamic) -> None:
    for name, axes in dynamic.items():
        for axis, label in axes.items():
            if name not in feeds or not 0 < axis < feeds[name].dim() or not label.isidentifier() or label == BATCH:
                shown = ", ".join(f"{key}: {list(tensor.shape)}" for key, tensor in feeds.items())
                raise ModelError(
                    f"dynamic axis {axis} ('{label}') of '{name}' does not fit the inputs, which are {shown}",
                    "give {input: {axis: name}} with axes from 1 and names that are identifiers other than 'batch'",
                )
            if feeds[name].shape[axis] < 2:
                raise ModelError(
                    f"the example has size {feeds[name].shape[axis]} on dynamic axis {axis} of '{name}'",
                    "give an example of size 2 or more on that axis: a size of 1 becomes a constant",
                )


def _size(feeds: Tensors) -> int:
    return next(len(tensor) for tensor in feeds.values() if tensor.dim())


def _as_tensor(value: Any) -> torch.Tensor:
    return (value.detach() if isinstance(value, torch.Tensor) else torch.as_tensor(value)).cpu()
