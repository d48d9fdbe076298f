"""The signature of a captured graph: names, dtypes and shapes, with names for symbolic sizes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from ...core.backends.eager import dtype_name
from ...core.errors import ModelError
from ...core.signature import Signature
from ...core.tensors import TensorSpec, multiple

Tensors = dict[str, torch.Tensor]
Dynamic = Mapping[str, Mapping[int, str]]


def make_signature(
    feeds: Tensors,
    dynamic: Dynamic,
    names: Sequence[str],
    inputs: Sequence[torch.Tensor],
    outputs: Sequence[torch.Tensor],
) -> Signature:
    """The signature of a graph.

    Args:
        feeds: the example, by input name.
        dynamic: the batch axis and the other dynamic axes by input.
        names: output names.
        inputs: the graph's inputs with symbolic sizes, in order.
        outputs: the graph's outputs; a size computed from a symbol keeps its formula, such as ``2*batch``.

    Raises:
        ModelError: numpy does not have the dtype of an input or output.
    """
    named = tuple(_input_spec(name, tensor, dynamic.get(name, {})) for name, tensor in feeds.items())
    labels = _symbols(named, inputs)
    taken = tuple(_in_multiples(spec, tensor, labels) for spec, tensor in zip(named, inputs, strict=True))
    given = tuple(
        TensorSpec(name, dtype_name(value.dtype), tuple(_axis(size, labels) for size in value.shape))
        for name, value in zip(names, outputs, strict=True)
    )
    for spec in (*taken, *given):
        if not _numpy_holds(spec.dtype):
            text = f"{spec.describe()} has a dtype that numpy does not have"
            remedy = "convert the model and the example with `.float()`; `export.precision: bf16` writes a BF16 file"
            raise ModelError(text, remedy)
    return Signature(taken, given)


def not_empty(feeds: Tensors, dynamic: Dynamic) -> Tensors:
    """The example with two zeros on every dynamic axis that is empty, such as a cache at the first step.

    A graph that is traced at a size of 0 is made for that size alone.
    """
    grown = dict(feeds)
    for name, axes in dynamic.items():
        for axis in [axis for axis in axes if name in feeds and 0 < axis < feeds[name].dim()]:
            shape = list(grown[name].shape)
            if shape[axis] == 0:
                shape[axis] = 2
                grown[name] = torch.zeros(shape, dtype=grown[name].dtype)
    return grown


def other_type(model: torch.nn.Module, feeds: Tensors) -> str:
    """The remedy if the example has another floating-point type than the parameters; empty if it has the same."""
    own = {weight.dtype for weight in model.parameters() if weight.is_floating_point()}
    for name, value in feeds.items():
        if len(own) == 1 and value.is_floating_point() and value.dtype not in own:
            (wanted,) = own
            return (
                f"input '{name}' is {dtype_name(value.dtype)} and the parameters are {dtype_name(wanted)}: convert the "
                f"example with `.to(torch.{dtype_name(wanted)})`, or the model"
            )
    return ""


def _numpy_holds(name: str) -> bool:
    try:  # packages may register further types with numpy, whose kind is «void»
        return np.dtype(name).kind in "biufc"
    except TypeError:
        return False


def _input_spec(name: str, tensor: torch.Tensor, axes: Mapping[int, str]) -> TensorSpec:
    shape: list[int | str] = list(tensor.shape)
    for axis, label in axes.items():
        shape[axis] = label
    return TensorSpec(name, dtype_name(tensor.dtype), tuple(shape))


def _symbols(specs: Sequence[TensorSpec], values: Sequence[torch.Tensor]) -> dict[str, str]:
    """The axis name of each symbol of the graph."""
    pairs = [(str(size), axis) for spec, value in zip(specs, values) for size, axis in zip(value.shape, spec.shape)]
    return {multiple(symbol)[1]: axis for symbol, axis in pairs if isinstance(axis, str)}


def _in_multiples(spec: TensorSpec, value: torch.Tensor, labels: Mapping[str, str]) -> TensorSpec:
    """The name of an axis, such as ``2*height`` if the model takes only even heights."""
    shape = (_axis(size, labels) if isinstance(axis, str) else axis for size, axis in zip(value.shape, spec.shape))
    return replace(spec, shape=tuple(shape))


def _axis(size: Any, labels: Mapping[str, str]) -> int | str:
    if isinstance(size, int):
        return size
    text = str(size)
    for symbol, label in labels.items():
        text = re.sub(rf"\b{symbol}\b", label, text)
    return text
