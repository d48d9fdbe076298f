"""From an ``nn.Module`` to a graph of ATen calls that trains, checked against the model it came from."""

from __future__ import annotations

import copy
import inspect
import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

from ..core.backends.eager import dtype_name, quiet
from ..core.errors import CaptureError, ModelError, RetortError
from ..core.tensors import BATCH, Signature, TensorSpec
from . import modes
from .diagnosis import explain, mismatch
from .graphs import finish
from .outputs import choose_names, flatten

Tensors = dict[str, torch.Tensor]
Dynamic = Mapping[str, Mapping[int, str]]
Form = tuple[fx.GraphModule, list[torch.Tensor], list[torch.Tensor]]
Check = tuple[Tensors, list[torch.Tensor]]
EXAMPLE_ROWS = 4
CHECKED_BATCHES = (3, 1)
TOLERANCE = 1e-4


@dataclass(frozen=True)
class Captured:
    """A checked graph: the module in evaluation form with its nodes marked, its signature and its example."""

    module: fx.GraphModule
    signature: Signature
    example: Tensors


class _Flat(nn.Module):
    """The user's model with positional inputs and a flat tuple of outputs."""

    def __init__(self, inner: nn.Module, keywords: Sequence[str] | None) -> None:
        super().__init__()
        self.inner = inner
        self._keywords = keywords
        self.names: list[str] = []

    def forward(self, *values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """All tensors the model returns, in order; their names go to ``names``."""
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
    """Capture a model; see :func:`retort.compress.program.capture`."""
    model = _on_cpu(_unwrap(model))
    feeds = prepare_example(example)
    flat = _Flat(model, _keywords(model, list(feeds)))
    with _preserved(model) as training, torch.enable_grad(), quiet(), _slow_attention():
        model.eval()
        checks = [_reference(flat, rows(feeds, size)) for size in (len(_first(feeds)), *CHECKED_BATCHES)]
        names = choose_names(output_names, flat.names, feeds)
        graph, given, values = _best_form(flat, feeds, dynamic or {}, training, checks)
    inputs = tuple(_input_spec(name, tensor, (dynamic or {}).get(name, {})) for name, tensor in feeds.items())
    outputs = _output_specs(names, values, _symbols(inputs, given))
    return Captured(graph, Signature(inputs, outputs), feeds)


def prepare_example(example: Mapping[str, Any]) -> Tensors:
    """The example as CPU tensors of 2 to 4 rows; rows are repeated when fewer were given.

    Raises:
        ModelError: no input, or inputs with different numbers of rows.
    """
    tensors = {name: _as_tensor(value) for name, value in example.items()}
    counts = {name: len(tensor) for name, tensor in tensors.items() if tensor.dim()}
    if not counts or min(counts.values()) == 0 or len(set(counts.values())) != 1:
        shown = ", ".join(f"{name}: {list(tensor.shape)}" for name, tensor in tensors.items()) or "nothing"
        raise ModelError(
            f"the example inputs need the same number of rows on axis 0, got {shown}",
            "give one array per input with a leading batch axis",
        )
    return rows(tensors, min(max(2, next(iter(counts.values()))), EXAMPLE_ROWS))


def rows(feeds: Mapping[str, torch.Tensor], count: int) -> Tensors:
    """The first ``count`` rows of every input, starting over when there are fewer."""
    return {
        name: tensor[torch.arange(count) % len(tensor)].clone() if tensor.dim() else tensor.clone()
        for name, tensor in feeds.items()
    }


def dynamic_shapes(feeds: Mapping[str, torch.Tensor], dynamic: Dynamic) -> tuple[dict[int, Any], ...]:
    """What ``torch.export`` wants to know of each input: axis 0 is the batch, further axes as named."""
    dims: dict[str, Any] = {}
    shapes = []
    for name, tensor in feeds.items():
        axes = {0: BATCH, **dynamic.get(name, {})} if tensor.dim() else {}
        shapes.append({axis: dims.setdefault(label, torch.export.Dim(label)) for axis, label in axes.items()})
    return tuple(shapes)


def _best_form(
    flat: _Flat, feeds: Tensors, dynamic: Dynamic, train: Callable[[], set[str]], checks: list[Check]
) -> Form:
    """The training form when its evaluation agrees with the model, else the evaluation form with marks."""
    frozen = train()
    training: fx.GraphModule | None = None
    try:
        training, inputs, outputs = _export(flat, feeds, dynamic)
        modes.mark_training_form(training)
        modes.apply(training, False)
        if mismatch(training, checks) is None:
            return training, inputs, outputs
        modes.apply(training, True)
    except CaptureError:
        training = None
    flat.eval()
    graph, inputs, outputs = _export(flat, feeds, dynamic)
    modes.mark_evaluation_form(graph, training, frozen)
    modes.apply(graph, False)
    fault = mismatch(graph, checks)
    if fault is not None:
        raise CaptureError(
            f"the captured program does not agree with the model: {fault}",
            "look in `forward` for random numbers, global state and Python numbers computed from data",
        )
    return graph, inputs, outputs


def _export(flat: _Flat, feeds: Tensors, dynamic: Dynamic) -> Form:
    """The cleaned graph and the symbolic values of its outputs."""
    try:
        exported = torch.export.export(
            flat, tuple(feeds.values()), dynamic_shapes=(dynamic_shapes(feeds, dynamic),), strict=False
        )
    except RetortError:
        raise
    except Exception as error:  # torch.export raises a dozen unrelated classes, and whatever the model raises
        raise explain(error, feeds) from error
    return finish(exported, list(feeds), "inner.")


def _reference(flat: _Flat, feeds: Tensors) -> Check:
    """Feeds and the model's own outputs for them.

    Raises:
        ModelError: the model does not run, or two runs differ.
    """
    size = len(_first(feeds))
    with torch.no_grad(), _same_buffers(flat):
        try:
            outputs = [value.detach().clone() for value in flat(*rows(feeds, size).values())]
        except RetortError:
            raise
        except Exception as error:  # whatever the user's forward raises
            raise ModelError(
                f"the model does not run on the example with a batch of {size}: {type(error).__name__}: {error}",
                "give example inputs that fit its forward, and let it take any batch size",
            ) from error
    return feeds, outputs


def _keywords(model: nn.Module, names: list[str]) -> list[str] | None:
    """Names to pass the inputs by, or None for by position.

    Raises:
        ModelError: the model takes other inputs.
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
            "name the inputs as in forward, or give them in its order",
        )
    return None


@contextmanager
def _preserved(model: nn.Module) -> Iterator[Callable[[], set[str]]]:
    """Leave the model as found; yields a call that puts it into training form and names what stays frozen."""
    found = {child: child.training for child in model.modules()}

    def train() -> set[str]:
        model.train()
        if found[model]:
            for child, flag in found.items():
                child.training = flag
        return {name for name, child in model.named_modules() if not child.training}

    momenta = [child for child in model.modules() if getattr(child, "momentum", 0.0) is None]
    state = torch.get_rng_state()
    with _same_buffers(model):
        try:
            # A cumulative average divides by a counter read from data, which no graph can hold.
            for child in momenta:
                child.momentum = 0.1  # type: ignore[assignment]
            yield train
        finally:
            for child in momenta:
                child.momentum = None  # type: ignore[assignment]
            for child, flag in found.items():
                child.training = flag
            torch.set_rng_state(state)


@contextmanager
def _same_buffers(model: nn.Module) -> Iterator[None]:
    """Undo what running the model writes into its buffers."""
    before = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in before:
                buffer.copy_(value)


@contextmanager
def _slow_attention() -> Iterator[None]:
    """Without the fused encoder layer, which only exists in evaluation and hides the layer's parts."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def _unwrap(model: nn.Module) -> nn.Module:
    """The module inside torch.compile, DataParallel and DistributedDataParallel."""
    if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
        return _unwrap(model.module)
    inner = getattr(model, "_orig_mod", None)
    return _unwrap(inner) if isinstance(inner, nn.Module) else model


def _on_cpu(model: nn.Module) -> nn.Module:
    state = itertools.chain(model.parameters(), model.buffers())
    return model if all(tensor.device.type == "cpu" for tensor in state) else copy.deepcopy(model).cpu()


def _as_tensor(value: Any) -> torch.Tensor:
    return (value.detach() if isinstance(value, torch.Tensor) else torch.as_tensor(value)).cpu()


def _first(feeds: Tensors) -> torch.Tensor:
    return next(tensor for tensor in feeds.values() if tensor.dim())


def _input_spec(name: str, tensor: torch.Tensor, axes: Mapping[int, str]) -> TensorSpec:
    shape: list[int | str] = list(tensor.shape)
    for axis, label in ({0: BATCH, **axes} if shape else {}).items():
        shape[axis] = label
    return TensorSpec(name, dtype_name(tensor.dtype), tuple(shape))


def _symbols(specs: Sequence[TensorSpec], values: Sequence[torch.Tensor]) -> dict[str, str]:
    """The axis name behind each symbol of the graph."""
    pairs = [(str(size), axis) for spec, value in zip(specs, values) for size, axis in zip(value.shape, spec.shape)]
    return {symbol: axis for symbol, axis in pairs if isinstance(axis, str)}


def _output_specs(names: list[str], values: list[torch.Tensor], labels: Mapping[str, str]) -> tuple[TensorSpec, ...]:
    """Specs with symbols by their axis name; a size computed from one keeps its formula, such as ``2*batch``."""
    return tuple(
        TensorSpec(name, dtype_name(value.dtype), tuple(_axis(size, labels) for size in value.shape))
        for name, value in zip(names, values, strict=True)
    )


def _axis(size: Any, labels: Mapping[str, str]) -> int | str:
    if isinstance(size, int):
        return size
    text = str(size)
    for symbol, label in labels.items():
        text = re.sub(rf"\b{symbol}\b", label, text)
    return text
