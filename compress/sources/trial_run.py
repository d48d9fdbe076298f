"""One run of a user's model on two samples, before any stage: its inputs and its outputs, without a capture."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from ...core.backends.eager import dtype_name, quiet
from ...core.context import Context
from ...core.errors import ModelError, RetortError
from ...core.options.stage_options import CaptureOptions, ModelSpec
from ...core.signature import Signature
from ...core.tensors import BATCH, TensorSpec, to_array
from ..capture.batch_evidence import batch_layouts, named_axes
from ..capture.derived_signature import Tensors, not_empty
from ..capture.example_faults import remedy_of
from ..capture.flat_module import FlatModule, passing_of, ready
from ..capture.outputs import choose_names
from ..graph.rows import BatchAxes, moved_samples, row_count, rows
from .huggingface import example_of, is_pretrained, load_pretrained
from .user_model import load_model, taken_inputs

ROWS = 2


def signature_in_trial(spec: ModelSpec, context: Context, options: CaptureOptions) -> Signature:
    """The inputs and outputs of a module or of a ``save_pretrained`` directory, from a run on two samples.

    All axes have the sizes of the samples, except for the batch.

    Raises:
        ModelError: the factory raised, the weights do not fit, or the model does not run on the samples.
        RetortError: the files cannot be read.
    """
    folder = context.base / spec.source
    if is_pretrained(folder):
        model = ready(load_pretrained(folder, spec.args.get("task")))
        feeds = taken_inputs(model, context.data.example()) if context.data is not None else example_of(model)
    else:
        model = ready(load_model(spec, context.base, context.seed))
        feeds = moved_samples(taken_inputs(model, context.data.example()), options.batch_axis)
    tensors = {name: torch.as_tensor(to_array(value)) for name, value in feeds.items()}
    free, batch = named_axes(options.dynamic, options.batch_axis or None)
    model = model.eval()
    first: RetortError | None = None
    for layout in batch_layouts(tensors, batch):
        given = not_empty(rows(tensors, max(ROWS, row_count(tensors, layout)), layout), free)
        try:
            return _signature(FlatModule(model, passing_of(model, given)), given, layout)
        except ModelError as error:
            first = first or error
    assert first is not None
    raise first


def _signature(flat: FlatModule, feeds: Tensors, batch: BatchAxes | None) -> Signature:
    with torch.no_grad(), quiet():
        try:
            outputs = flat(*(value.clone() for value in feeds.values()))
        except RetortError:
            raise
        except Exception as error:  # the user's forward may raise anything
            shown = ", ".join(f"{name}: {list(value.shape)}" for name, value in feeds.items())
            raise ModelError(
                f"the model does not run on two samples ({shown}): {type(error).__name__}: {error}",
                remedy_of(flat, feeds, error) or "give samples that fit its forward",
            ) from error
    count = row_count(feeds, batch)
    named = dict(zip(choose_names(None, flat.names, feeds), outputs))
    return Signature(_specs(feeds, count), _specs(named, count))


def _specs(values: Mapping[str, torch.Tensor], count: int) -> tuple[TensorSpec, ...]:
    return tuple(_spec(name, value, count) for name, value in values.items())


def _spec(name: str, value: torch.Tensor, count: int) -> TensorSpec:
    shape: list[int | str] = list(value.shape)
    if shape and shape[0] == count:
        shape[0] = BATCH
    return TensorSpec(name, dtype_name(value.dtype), tuple(shape))
