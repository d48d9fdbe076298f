"""Rounding of weights that minimises the error of a layer's output: Hessian rounding (GPTQ) and AdaRound."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import fx

from ...graph.module_edit import fetch
from .layer_matrices import QuantizedLayer, from_matrix, rows_of, scales_of, to_matrix
from .layerwise import Chunks

_DAMPING = 0.01
_BLOCK = 128
_FEWEST_ROWS, _ROWS_PER_INPUT = 4096, 6
_STEPS, _FEWEST_STEPS, _WORK = 300, 60, 4e11
_STRETCH_LOW, _STRETCH = -0.1, 1.2
_WARM, _START_BETA, _END_BETA, _RATE, _WEIGHT = 0.2, 20.0, 2.0, 0.05, 1.0


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

    def error(self, weight: torch.Tensor) -> torch.Tensor:
        """The error per output channel ``[G, O]`` without its constant part."""
        return ((weight @ self.hessian - 2 * self.cross) * weight).sum(-1)


def gram_of(layer: QuantizedLayer, module: fx.GraphModule, data: Chunks, wanted: Chunks) -> Gram:
    """Compute the statistics of a layer from its input and the output that it should have."""
    weight = fetch(module, layer.weight)
    kernel = weight.shape[2:] if weight.dim() > 2 else torch.Size()
    inputs = to_matrix(layer, weight.detach()).shape[-1]
    random = torch.Generator().manual_seed(0)
    share = -(-max(_FEWEST_ROWS, _ROWS_PER_INPUT * inputs) // len(data))
    hessian = cross = torch.zeros(())
    count = 0
    bias = None if layer.bias is None else fetch(module, layer.bias).detach().reshape(layer.groups, 1, -1)
    for left, right in zip(data, wanted):
        rows, outputs = rows_of(layer, left, right, kernel, share, random)
        outputs = outputs if bias is None else outputs - bias
        hessian = hessian + rows.transpose(1, 2) @ rows
        cross = cross + outputs.transpose(1, 2) @ rows
        count += rows.shape[1]
    return Gram(hessian / count, cross / count)


def nearest(weight: torch.Tensor, scale: torch.Tensor, limit: int) -> torch.Tensor:
    """The weight rounded to the nearest value on its grid; ``scale`` broadcasts."""
    return (weight / scale).round().clamp(-limit, limit) * scale


def hessian_rounding(weight: torch.Tensor, scale: torch.Tensor, limit: int, gram: Gram) -> torch.Tensor:
    """Round column by column and compensate the error in the remaining columns (Frantar et al., 2022, algorithm 1).

    First the weight is replaced by the least-squares solution for the layer's inputs in the quantized program.

    Args:
        weight: FP32, ``[G, O, K]``.
        scale: ``[G, O]``.
        limit: largest code.
        gram: statistics of the layer.

    Returns:
        Weights on the grid, ``[G, O, K]``.
    """
    hessian, start = _damped(gram), _fitted(weight, gram)
    order = hessian.diagonal(dim1=1, dim2=2).argsort(1, descending=True)
    back = order.argsort(1)
    hessian = hessian.gather(1, order[:, :, None].expand_as(hessian)).gather(2, order[:, None, :].expand_as(hessian))
    inverse = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(hessian)), upper=True)
    columns = start.gather(2, order[:, None, :].expand_as(start))
    return _by_columns(columns, scale.double(), limit, inverse).gather(2, back[:, None, :].expand_as(start)).float()


def _damped(gram: Gram) -> torch.Tensor:
    diagonal = gram.hessian.double().diagonal(dim1=1, dim2=2)
    damping = _DAMPING * diagonal.mean(1, keepdim=True).clamp_min(1e-12)
    return gram.hessian.double() + torch.diag_embed(damping + (diagonal <= 0).double())


def _fitted(weight: torch.Tensor, gram: Gram) -> torch.Tensor:
    """The least-squares weight for the inputs in the quantized program, regularised towards the given weight."""
    start = weight.double()
    missing = gram.cross.double() - start @ gram.hessian.double()
    step: torch.Tensor = torch.linalg.solve(_damped(gram), missing, left=False)
    return start + step


def _by_columns(columns: torch.Tensor, scale: torch.Tensor, limit: int, inverse: torch.Tensor) -> torch.Tensor:
    left, result = columns.clone(), torch.zeros_like(columns)
    count = columns.shape[-1]
    for begin in range(0, count, _BLOCK):
        end = min(begin + _BLOCK, count)
        errors = torch.zeros_like(columns[:, :, begin:end])
        for column in range(begin, end):
            value = left[:, :, column]
            result[:, :, column] = nearest(value, scale, limit)
            error = (value - result[:, :, column]) / inverse[:, column, column, None]
            left[:, :, column:end] -= error[:, :, None] * inverse[:, None, column, column:end]
            errors[:, :, column - begin] = error
        left[:, :, end:] -= errors @ inverse[:, begin:end, end:]
    return result


def learned_rounding(weight: torch.Tensor, scale: torch.Tensor, limit: int, gram: Gram) -> torch.Tensor:
    """Learn for each weight whether it is rounded up or down (AdaRound: Nagel et al., 2020, eq. 21 to 25).

    The reconstruction error is that of the layer before its activation function, over all rows at once. It is computed
    from the Gram matrix, so the cost of a step is independent of the number of samples and the result is deterministic.

    Args: as :func:`hessian_rounding`.
    """
    step, weight = scale[:, :, None], _fitted(weight, gram).float()
    floor = (weight / step).floor()
    up = (weight / step - floor - _STRETCH_LOW) / _STRETCH
    variable = torch.logit(up.clamp(1e-4, 1 - 1e-4))
    moment, spread = torch.zeros_like(variable), torch.zeros_like(variable)
    price = 2 * step / _noise(weight, step, limit, gram)
    steps = int(min(_STEPS, max(_FEWEST_STEPS, _WORK / max(1, weight.numel() * weight.shape[-1]))))
    for index in range(1, steps + 1):
        share = torch.sigmoid(variable)
        raw = share * _STRETCH + _STRETCH_LOW
        chosen = raw.clamp(0, 1)
        soft = (floor + chosen).clamp(-limit, limit) * step
        slope = (soft @ gram.hessian - gram.cross) * price * ((raw > 0) & (raw < 1))
        done = index / steps
        if done > _WARM:
            beta = _END_BETA + (_START_BETA - _END_BETA) * (1 - (done - _WARM) / (1 - _WARM))
            off = 2 * chosen - 1
            slope = slope - _WEIGHT * 2 * beta * off.sign() * off.abs() ** (beta - 1)
        slope = slope * _STRETCH * share * (1 - share)
        moment.lerp_(slope, 0.1)
        spread.lerp_(slope * slope, 0.001)
        change = (moment / (1 - 0.9**index)) / ((spread / (1 - 0.999**index)).sqrt() + 1e-12)
        variable -= _RATE * change
    return (floor + (variable > 0)).clamp(-limit, limit) * step


def _noise(weight: torch.Tensor, step: torch.Tensor, limit: int, gram: Gram) -> torch.Tensor:
    """Mean error of rounding to nearest; it is the unit in which errors are measured."""
    change = nearest(weight, step, limit) - weight
    return ((change @ gram.hessian) * change).mean().clamp_min(1e-20)


def improve(layer: QuantizedLayer, module: fx.GraphModule, weight: torch.Tensor, gram: Gram, method: str) -> float:
    """Round a layer's weight again and keep, for each channel, the codes with the smaller error: the old or the new.

    Args:
        weight: the original FP32 weight of the layer.
        method: ``hessian`` or ``adaround``.

    Returns:
        The share of channels that got new codes.
    """
    present = fetch(module, layer.weight)
    scale = scales_of(module, layer)
    rounding = hessian_rounding if method == "hessian" else learned_rounding
    old = nearest(to_matrix(layer, present.detach()), scale[:, :, None], layer.limit)
    new = rounding(to_matrix(layer, weight.detach()), scale, layer.limit, gram)
    better = gram.error(new) < gram.error(old)
    present.data.copy_(from_matrix(layer, torch.where(better[:, :, None], new, old), present))
    return float(better.float().mean())
