"""Layers of a quantized program as matrix products: their weights, and rows of inputs and outputs of a batch."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import fx
from torch.nn import functional

from ....core.aten_names import CONVOLUTIONS, MATRIX_LAYERS, TRANSPOSED, TURNS, name_of
from ...graph.module_edit import fetch
from ..operator_classes import is_qdq, operand, operands


@dataclass(frozen=True)
class QuantizedLayer:
    """A layer whose weight is quantized.

    Attributes:
        node: the layer.
        data: the input activation.
        weight: path of the FP32 weight.
        scale: path of its scales.
        axis: output-channel axis of the weight as stored.
        limit: largest integer code.
        bias: path of the bias, if it is a parameter.
    """

    node: fx.Node
    data: fx.Node
    weight: str
    scale: str
    axis: int
    limit: int
    bias: str | None

    @property
    def groups(self) -> int:
        """Groups of a convolution; 1 for a linear layer."""
        convolves = name_of(self.node) in (*CONVOLUTIONS, *TRANSPOSED)
        return int(operand(self.node, "groups")) if convolves else 1


def quantized_layer(node: fx.Node) -> QuantizedLayer | None:
    """The quantized layer that a node is, or None."""
    name = name_of(node)
    if name not in (*CONVOLUTIONS, *TRANSPOSED, *MATRIX_LAYERS):
        return None
    data, weight, bias = operands(node)
    while name_of(weight) in TURNS:
        weight = weight.args[0]
    if not is_qdq(weight) or not isinstance(data, fx.Node) or weight.args[0].op != "get_attr":
        return None
    path = str(bias.target) if isinstance(bias, fx.Node) and bias.op == "get_attr" else None
    source, scale, _, axis, _, limit = weight.args
    return QuantizedLayer(node, data, str(source.target), str(scale.target), int(axis), int(limit), path)


def quantized_layers(module: fx.GraphModule) -> list[QuantizedLayer]:
    """All quantized layers, in graph order."""
    return [layer for node in module.graph.nodes if (layer := quantized_layer(node)) is not None]


def is_matrix(layer: QuantizedLayer) -> bool:
    """Whether :func:`to_matrix` supports the layer; it does not support transposed convolutions."""
    return name_of(layer.node) not in TRANSPOSED


def to_matrix(layer: QuantizedLayer, weight: torch.Tensor) -> torch.Tensor:
    """The weight as ``[groups, outputs per group, inputs per output]``."""
    rows = weight.movedim(layer.axis, 0)
    return rows.reshape(layer.groups, rows.shape[0] // layer.groups, -1)


def from_matrix(layer: QuantizedLayer, matrix: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Inverse of :func:`to_matrix`, in the layout and dtype of ``like``."""
    moved = like.movedim(layer.axis, 0).shape
    return matrix.reshape(moved).movedim(0, layer.axis).to(like.dtype).contiguous()


def scales_of(module: fx.GraphModule, layer: QuantizedLayer) -> torch.Tensor:
    """Scales of the output channels, ``[groups, outputs per group]``."""
    return fetch(module, layer.scale).detach().reshape(layer.groups, -1)


def channel_axis(layer: QuantizedLayer, rank: int) -> int:
    """Axis of the channels in the layer's output."""
    convolves = name_of(layer.node) in (*CONVOLUTIONS, *TRANSPOSED)
    return 1 if convolves else rank - 1


def rows_of(
    layer: QuantizedLayer,
    data: torch.Tensor,
    wanted: torch.Tensor,
    kernel: torch.Size,
    limit: int,
    random: torch.Generator,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of the layer's matrix product, at most ``limit`` of them, drawn at random.

    Args:
        data: the layer's input: ``[N, C, …]`` for a convolution, ``[…, K]`` for a linear layer.
        wanted: the output that the layer should have.
        kernel: spatial shape of the weight; empty for a linear layer.

    Returns:
        Inputs ``[groups, R, K]`` and outputs ``[groups, R, outputs per group]``.
    """
    if name_of(layer.node) not in CONVOLUTIONS:
        left, right = data.reshape(-1, data.shape[-1]), wanted.reshape(-1, wanted.shape[-1])
        chosen = _draw(len(left), limit, random)
        return left[chosen].unsqueeze(0), right[chosen].unsqueeze(0)
    places = math.prod(wanted.shape[2:])
    chosen = _draw(len(wanted) * places, limit, random)
    samples, positions = chosen // places, chosen % places
    inputs = _patches(layer, data, kernel, wanted.shape[2:], samples, positions)
    outputs = wanted.reshape(*wanted.shape[:2], -1)[samples, :, positions]
    groups = layer.groups
    return (
        inputs.reshape(len(chosen), groups, -1).transpose(0, 1),
        outputs.reshape(len(chosen), groups, -1).transpose(0, 1),
    )


def _draw(total: int, limit: int, random: torch.Generator) -> torch.Tensor:
    return torch.arange(total) if total <= limit else torch.randperm(total, generator=random)[:limit].sort().values


def _patches(
    layer: QuantizedLayer,
    data: torch.Tensor,
    kernel: torch.Size,
    places: torch.Size,
    samples: torch.Tensor,
    positions: torch.Tensor,
) -> torch.Tensor:
    """The input values that the kernel reads at the given output positions: ``[R, C, kernel elements]``."""
    rank = len(kernel)
    stride, dilation = (_each(operand(layer.node, name), rank) for name in ("stride", "dilation"))
    padded = functional.pad(data, _padding(layer, kernel, dilation))
    sizes = padded.shape[2:]
    base, offsets = torch.zeros_like(positions), torch.zeros(1, dtype=torch.int64)
    left = positions
    for axis in reversed(range(rank)):
        step = math.prod(sizes[axis + 1 :])
        base = base + (left % places[axis]) * stride[axis] * step
        left = left // places[axis]
    for axis in range(rank):
        step = math.prod(sizes[axis + 1 :])
        steps = torch.arange(kernel[axis]) * dilation[axis] * step
        offsets = (offsets[:, None] + steps[None, :]).reshape(-1)
    index = base[:, None] + offsets[None, :]
    return padded.reshape(*padded.shape[:2], -1)[samples[:, None], :, index].transpose(1, 2)


def _each(value: int | list[int], rank: int) -> list[int]:
    values = [value] if isinstance(value, int) else list(value)
    return values * rank if len(values) == 1 else values


def _padding(layer: QuantizedLayer, kernel: torch.Size, dilation: list[int]) -> list[int]:
    """Padding in the order of :func:`torch.nn.functional.pad`: last axis first."""
    given = operand(layer.node, "padding")
    if given == "valid":
        given = 0
    if given == "same":
        totals = [step * (size - 1) for step, size in zip(dilation, kernel)]
        pairs = [(total // 2, total - total // 2) for total in totals]
    else:
        pairs = [(size, size) for size in _each(given, len(kernel))]
    return [size for pair in reversed(pairs) for size in pair]
