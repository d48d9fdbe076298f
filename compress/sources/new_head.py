"""A new last layer for other classes: the head of a captured program is replaced for fine-tuning."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import fx, nn

from ...core.aten_names import CONVOLUTIONS, name_of
from ...core.counts import counted
from ...core.errors import ModelError
from ...core.tensors import TensorSpec
from ..graph.module_edit import fetch, put, readers_of
from ..program import Program, evaluating
from ..training.losses import prediction_spec

_PASSING = (
    "dropout",
    "softmax",
    "log_softmax",
    "sigmoid",
    "clone",
    "contiguous",
    "squeeze",
    "flatten",
    "_to_copy",
    "to",
)
_WEIGHT, _BIAS = 1, 2


def replace_head(program: Program, classes: int, seed: int = 0) -> str:
    """Give the layer that predicts the classes new weights for another number of classes, in place.

    The weights are drawn as PyTorch draws those of a new layer (uniform, ±1/√inputs); all other weights stay.

    Args:
        classes: number of classes of the new layer.
        seed: random seed of the new weights.

    Returns:
        What was replaced, in words.

    Raises:
        ModelError: the prediction does not come from a linear layer or a convolution, or its weights are also used
            elsewhere, as in a model whose head is tied to its embedding.
    """
    spec = prediction_spec(program.signature)
    head = _head(program, spec)
    weight, bias = head.args[_WEIGHT], head.args[_BIAS] if len(head.args) > _BIAS else None
    assert isinstance(weight, fx.Node)
    path, before = str(weight.target), fetch(program.module, str(weight.target))
    if len(readers_of(program.module.graph, path)) > 1:
        raise ModelError(
            f"the weights of the head ({path}) are also used elsewhere", "give the model a head of its own in your code"
        )
    generator = torch.Generator().manual_seed(seed)
    bound = 1 / math.sqrt(before[0].numel())
    paths = [path, *([str(bias.target)] if isinstance(bias, fx.Node) else [])]
    for name in paths:
        shape = (classes, *fetch(program.module, name).shape[1:])
        put(program.module, name, nn.Parameter(torch.empty(shape).uniform_(-bound, bound, generator=generator)))
    outputs = [
        _with_classes(item, classes, len(before)) if item is spec else item for item in program.signature.outputs
    ]
    program.signature = replace(program.signature, outputs=tuple(outputs), classes=())
    _require_classes(program, spec, classes)
    layer = path.rpartition(".")[0] or path
    return (
        f"the head {layer} was replaced: {counted(before, 'class')} before, {counted(classes, 'class')} now, untrained"
    )


def _head(program: Program, spec: TensorSpec) -> fx.Node:
    """The layer from which the prediction comes."""
    place = [item.name for item in program.signature.outputs].index(spec.name)
    node = program.module.graph.output_node().args[0][place]  # type: ignore[index]
    while isinstance(node, fx.Node) and name_of(node) in _PASSING:
        node = node.args[0]
    kinds = ("linear", *CONVOLUTIONS)
    if isinstance(node, fx.Node) and name_of(node) in kinds and getattr(node.args[_WEIGHT], "op", "") == "get_attr":
        return node
    found = f"comes from {name_of(node) or node.name}" if isinstance(node, fx.Node) else "is a constant"
    raise ModelError(
        f"output '{spec.name}' {found}, and not from a linear layer or a convolution", "replace the head in your code"
    )


def _with_classes(spec: TensorSpec, classes: int, before: int) -> TensorSpec:
    places = [axis for axis, size in enumerate(spec.shape) if size == before and axis]
    last = places[-1] if len(spec.shape) == 3 else places[0] if places else None
    shape = tuple(classes if axis == last else size for axis, size in enumerate(spec.shape))
    return replace(spec, shape=shape)


def _require_classes(program: Program, spec: TensorSpec, classes: int) -> None:
    """Run the program on its example.

    Raises:
        ModelError: it does not run any more, or its prediction has another number of classes.
    """
    place = [item.name for item in program.signature.outputs].index(spec.name)
    try:
        with evaluating(program), torch.no_grad():
            shape = tuple(program.module(*program.example.values())[place].shape)
    except RuntimeError as error:
        raise ModelError(
            f"the model does not run with a new head: {str(error).splitlines()[0]}", "replace the head in your code"
        ) from error
    if classes not in shape[1:]:
        raise ModelError(
            f"the new head gives {list(shape)}, without {counted(classes, 'class')}", "replace the head in your code"
        )
