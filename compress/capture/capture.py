"""Capture of an ``nn.Module`` as a trainable graph of ATen calls, which is compared with the model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from torch import fx, nn

from ...core.backends.eager import quiet
from ...core.errors import CaptureError, ModelError, RetortError
from ...core.signature import Signature
from ...core.tensors import BATCH
from ..graph import train_eval_mode
from ..graph.rows import BatchAxes, batch_axis, row_count, rows
from .batch_evidence import batch_layouts, named_axes, with_empty
from .cleanup import finish, inside
from .data_guards import settle
from .derived_signature import Dynamic, Tensors, make_signature, not_empty
from .example_faults import remedy_of
from .failures import mismatch
from .flat_module import FlatModule, passing_of, ready, require_no_script
from .independent_rows import coupling_note, rows_are_independent
from .outputs import choose_names
from .packed_sequences import CROPPED
from .preserve_state import holding, nudged, plain_attention, preserved, same_buffers
from .repeatability import require_repeatable, state_notes
from .torch_export import trace

Check = tuple[Tensors, list[torch.Tensor]]
EXAMPLE_ROWS = 4
CHECKED_BATCHES = (3, 1)
FAST_PATH = (
    "on the example, PyTorch's fast path for attention in evaluation (with gradients off) gives other values than the "
    "model's layers, as it does for additive masks and wholly masked rows; the program computes what the layers "
    "define, as the model does with torch.backends.mha.set_fastpath_enabled(False)"
)


@dataclass(frozen=True)
class Captured:
    """A checked graph: the module in evaluation form with its nodes marked, its signature and its example.

    Attributes:
        independent: whether each sample has the outputs that it has alone.
        notes: remarks for the user about the way in which it was captured.
    """

    module: fx.GraphModule
    signature: Signature
    example: Tensors
    independent: bool = True
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


def capture_module(
    model: nn.Module,
    example: Mapping[str, Any],
    dynamic: Dynamic | None = None,
    output_names: Sequence[str] | None = None,
    batch: BatchAxes | None = None,
) -> Captured:
    """Capture a model; see :func:`retort.compress.capture.capture_program.capture`."""
    tensors = {name: _as_tensor(value) for name, value in example.items()}
    named, batch = named_axes(dynamic or {}, batch)
    first: Exception | None = None
    grown = with_empty(tensors, named)
    for layout, free in product(batch_layouts(tensors, batch), [grown, named] if grown != named else [named]):
        try:
            return _capture(ready(model), tensors, free, output_names, layout)
        except (CaptureError, ModelError) as error:
            first = first or error
    assert first is not None
    raise first


def _capture(
    model: nn.Module,
    tensors: Tensors,
    dynamic: Dynamic,
    output_names: Sequence[str] | None,
    batch: BatchAxes | None,
) -> Captured:
    """Capture with the batch of each input on one axis."""
    given = prepare_example(tensors, batch)
    feeds = not_empty(rows(given, min(max(2, row_count(given, batch)), EXAMPLE_ROWS), batch), dynamic)
    free = _free_axes(feeds, dynamic, batch)
    flat = FlatModule(model, passing_of(model, feeds))
    with preserved(model) as train, torch.enable_grad(), quiet():
        model.eval()
        checks = _references(flat, given, feeds, batch)
        state = require_repeatable(lambda: _outputs(flat, feeds), model)
        settled = settle(flat.guards, lambda values: _reference(flat, values)[1], checks.plain)
        names = choose_names(output_names, flat.names, feeds)
        coupled = _coupled(flat, feeds, batch)
        form, notes = _as_evaluated(flat, (given, feeds), free, batch, train, checks)
    states = state_notes(state, form.module, feeds)
    coupled = None if states else coupled  # the outputs of later samples differ by the state
    notes = (*notes, *settled, *states, *((CROPPED,) if flat.crops else ()), *((coupled,) if coupled else ()))
    signature = make_signature(feeds, free, names, form.inputs, form.outputs)
    return Captured(form.module, signature, feeds, coupled is None, notes)


def _coupled(flat: FlatModule, feeds: Tensors, batch: BatchAxes | None) -> str | None:
    """A remark if the outputs of a sample depend on the other samples; None if they do not."""

    def _run(part: Tensors) -> list[torch.Tensor]:
        return _reference(flat, part)[1]

    return None if rows_are_independent(_run, feeds, batch) else coupling_note(_run, feeds, batch)


def prepare_example(tensors: Tensors, batch: BatchAxes | None = None) -> Tensors:
    """The example, if all of its inputs have the same number of rows.

    Raises:
        ModelError: there is no input, or inputs have different numbers of rows.
    """
    axes = {name: batch_axis(name, tensor, batch) for name, tensor in tensors.items()}
    counts = {tensors[name].shape[axis] for name, axis in axes.items() if axis is not None}
    shared = batch is not None and not counts and bool(tensors)
    if not shared and (len(counts) != 1 or 0 in counts):
        shown = ", ".join(f"{name}: {list(tensor.shape)}" for name, tensor in tensors.items()) or "nothing"
        raise ModelError(
            f"the example inputs must have the same number of rows on their axes of the batch, but they have {shown}",
            "give one array per input with a leading batch axis, name another axis of the batch "
            "(`batch_axis: {INPUT: AXIS}`), and repeat for each sample what all of them share",
        )
    return tensors


def _as_evaluated(
    flat: FlatModule,
    examples: tuple[Tensors, Tensors],
    free: Dynamic,
    batch: BatchAxes | None,
    train: Callable[[], set[str]],
    checks: Checks,
) -> tuple[Form, tuple[str, ...]]:
    """The form that agrees with the model in evaluation; where PyTorch's fast path is at fault, with its layers."""
    given, feeds = examples
    with plain_attention():
        try:
            return _best_form(flat, feeds, free, train, checks)
        except CaptureError as error:
            require_no_script(flat.inner, error)
            if not any(isinstance(child, nn.MultiheadAttention) for child in flat.modules()):
                raise
            flat.eval()
            form, notes = _best_form(flat, feeds, free, train, _references(flat, given, feeds, batch))
    return form, (*notes, FAST_PATH)


def _best_form(
    flat: FlatModule, feeds: Tensors, free: Dynamic, train: Callable[[], set[str]], checks: Checks
) -> tuple[Form, tuple[str, ...]]:
    """The training form if its evaluation agrees with the model, else the marked evaluation form; and notes."""
    frozen = train()
    training: fx.GraphModule | None = None
    notes: tuple[str, ...] = ()
    try:
        form = _export(flat, feeds, free)
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
    form = _export(flat, feeds, free)
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


def _export(flat: FlatModule, feeds: Tensors, free: Dynamic) -> Form:
    """The cleaned graph and the symbolic values of its inputs and outputs."""
    exported = trace(flat, list(feeds.values()), [free[name] for name in feeds], variadic=True)
    return Form(*finish(exported, list(feeds), "inner."))


def _references(flat: FlatModule, given: Tensors, feeds: Tensors, batch: BatchAxes | None) -> Checks:
    """The outputs of the model itself in evaluation mode.

    Raises:
        ModelError: the model does not run on the example.
        CaptureError: it runs only at the example's batch size.
    """
    plain = [_reference(flat, given)]
    for size in (row_count(feeds, batch), *CHECKED_BATCHES):
        try:
            plain.append(_reference(flat, rows(feeds, size, batch)))
        except ModelError as error:
            if flat.crops:
                raise CaptureError(
                    f"the model needs the length of the longest sequence, and a program keeps the padded length: "
                    f"{error.message}",
                    "take sizes from tensors (`y.size(1)`) instead of `lengths.max()`",
                ) from error
            raise CaptureError(
                f"the model fixes the batch to {row_count(given, batch)}: {error.message}",
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


def _reference(flat: FlatModule, feeds: Tensors) -> Check:
    with same_buffers(flat):
        return feeds, _outputs(flat, feeds)


def _outputs(flat: FlatModule, feeds: Tensors) -> list[torch.Tensor]:
    with torch.no_grad():
        try:
            return [value.detach().clone() for value in flat(*(tensor.clone() for tensor in feeds.values()))]
        except RetortError:
            raise
        except Exception as error:  # the user's forward may raise anything
            raise ModelError(
                f"the model does not run on an example batch of {row_count(feeds)}: {type(error).__name__}: {error}",
                remedy_of(flat, feeds, error) or "give example inputs that fit its forward",
            ) from error


def _free_axes(feeds: Tensors, dynamic: Dynamic, batch: BatchAxes | None) -> dict[str, dict[int, str]]:
    """The batch axis and the other dynamic axes of each input.

    Raises:
        ModelError: ``dynamic`` does not fit the inputs.
    """
    first = {name: batch_axis(name, tensor, batch) for name, tensor in feeds.items()}
    for name, axes in dynamic.items():
        for axis, label in axes.items():
            inside = name in feeds and 0 <= axis < feeds[name].dim() and axis != first[name]
            if not inside or not label.isidentifier() or label == BATCH:
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
    return {name: {**({} if axis is None else {axis: BATCH}), **dynamic.get(name, {})} for name, axis in first.items()}


def _as_tensor(value: Any) -> torch.Tensor:
    return (value.detach() if isinstance(value, torch.Tensor) else torch.as_tensor(value)).cpu()
