"""What a layer's rounding needs to know of its inputs and outputs: their second moments, or some rows of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import fx

from ...graph.module_edit import fetch
from .layer_matrices import QuantizedLayer, rows_of, to_matrix
from .layerwise import Chunks

DENSE_INPUTS = 2304
"""Largest number of inputs for which a matrix [inputs, inputs] is made: 3 x 3 x 256. Its work grows with their cube."""
_DAMPING = 0.01
_FEWEST_ROWS, _ROWS_PER_INPUT = 4096, 6
_MANY_ROWS, _ROWS, _MANY_INPUTS = 1024, 512, 8192
_USEFUL_ROWS = 8
_FP32, _FP64 = 4, 8


@dataclass(frozen=True)
class Gram:
    """The mean squared error of a layer's output as a function of its weight; its size is independent of the samples.

    ``error(W) = tr(W H Wᵀ) − 2 tr(W X) + const`` with ``H = E[x xᵀ]`` and ``X = E[x (y − b)ᵀ]``, where ``x`` is the
    layer's input in the quantized program and ``y`` its output in the FP32 program.

    Attributes:
        hessian: ``[G, K, K]``.
        cross: ``[G, O, K]``, ``X`` transposed.
    """

    hessian: torch.Tensor
    cross: torch.Tensor

    def error(self, weight: torch.Tensor, some: slice = slice(None)) -> torch.Tensor:
        """The error per output channel ``[G, O]`` without its constant part, for weights of some output channels."""
        return ((weight @ self.hessian - 2 * self.cross[:, some]) * weight).sum(-1)

    def part(self, some: slice) -> Gram:
        """The statistics of some output channels."""
        return Gram(self.hessian, self.cross[:, some])

    def damped(self) -> torch.Tensor:
        """The Hessian in FP64 with a share of its mean diagonal added, so that it has an inverse."""
        diagonal = self.hessian.double().diagonal(dim1=1, dim2=2)
        damping = _DAMPING * diagonal.mean(1, keepdim=True).clamp_min(1e-12)
        return self.hessian.double() + torch.diag_embed(damping + (diagonal <= 0).double())

    def fitted(self, weight: torch.Tensor, some: slice, factor: torch.Tensor) -> torch.Tensor:
        """The least-squares weight in FP64 for the inputs in the quantized program, regularised towards ``weight``.

        Args:
            weight: of some output channels.
            some: those channels.
            factor: Cholesky factor of :meth:`damped`.
        """
        start = weight.double()
        missing = self.cross[:, some].double() - start @ self.hessian.double()
        step: torch.Tensor = torch.cholesky_solve(missing.transpose(1, 2), factor).transpose(1, 2)
        return start + step


@dataclass(frozen=True)
class Rows:
    """Rows of a layer's matrix product.

    Attributes:
        inputs: ``[G, R, K]``, of the quantized program.
        outputs: ``[G, R, O]`` without bias, of the FP32 program.
    """

    inputs: torch.Tensor
    outputs: torch.Tensor

    def error(self, weight: torch.Tensor, some: slice = slice(None)) -> torch.Tensor:
        """The mean squared error of each output channel, ``[G, O]``, for weights of some output channels."""
        return (self.inputs @ weight.transpose(1, 2) - self.outputs[:, :, some]).square().mean(1)


def statistics_of(
    layer: QuantizedLayer, module: fx.GraphModule, data: Chunks, wanted: Chunks, room_bytes: int
) -> Gram | Rows | str:
    """The statistics of a layer from its input and the output that it should have, as far as memory allows.

    Args:
        data: the layer's input in the quantized program, by chunk.
        wanted: its output in the FP32 program.
        room_bytes: memory that the statistics and the rounding may take.

    Returns:
        Second moments of a layer with few inputs, rows of a layer with many, or the reason why there are neither.
    """
    groups, outputs, inputs = to_matrix(layer, fetch(module, layer.weight).detach()).shape
    matrices = groups * inputs**2 * (_FP32 + 6 * _FP64) + groups * outputs * inputs * _FP32
    row = 3 * _FP32 * groups * inputs  # patches, their transposed copy, and a product
    if inputs <= DENSE_INPUTS and matrices <= room_bytes:
        each = -(-max(_FEWEST_ROWS, _ROWS_PER_INPUT * inputs) // len(data))
        most = max(_USEFUL_ROWS, (room_bytes - matrices) // row)
        return _gram(_parts(layer, module, data, wanted, min(each, most)))
    count = min(_MANY_ROWS if inputs <= _MANY_INPUTS else _ROWS, room_bytes // (2 * row))
    if count < _USEFUL_ROWS:
        return f"its {inputs:,} inputs per output do not fit into the memory"
    pairs = list(_parts(layer, module, data, wanted, -(-count // len(data))))
    return Rows(torch.cat([left for left, _ in pairs], 1), torch.cat([right for _, right in pairs], 1))


def _parts(
    layer: QuantizedLayer, module: fx.GraphModule, data: Chunks, wanted: Chunks, each: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """At most ``each`` rows of inputs and of outputs without bias, chunk by chunk."""
    weight = fetch(module, layer.weight)
    kernel = weight.shape[2:] if weight.dim() > 2 else torch.Size()
    bias = None if layer.bias is None else fetch(module, layer.bias).detach().reshape(layer.groups, 1, -1)
    random = torch.Generator().manual_seed(0)
    for left, right in zip(data, wanted):
        rows, outputs = rows_of(layer, left, right, kernel, each, random)
        yield rows, outputs if bias is None else outputs - bias


def _gram(parts: Iterator[tuple[torch.Tensor, torch.Tensor]]) -> Gram:
    hessian = cross = torch.zeros(())
    count = 0
    for rows, outputs in parts:
        hessian = hessian + rows.transpose(1, 2) @ rows
        cross = cross + outputs.transpose(1, 2) @ rows
        count += rows.shape[1]
    return Gram(hessian / count, cross / count)
