"""Rounding of weights that minimises the error of a layer's output: Hessian rounding (GPTQ) and AdaRound."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import fx

from ...graph.module_edit import fetch
from ..copy_on_write import replace
from .gram import Gram, Rows
from .layer_matrices import QuantizedLayer, from_matrix, scales_of, to_matrix
from .wide_rounding import round_wide

_BLOCK = 128
_STEPS, _FEWEST_STEPS, _WORK = 300, 60, 4e11
_STRETCH_LOW, _STRETCH = -0.1, 1.2
_WARM, _START_BETA, _END_BETA, _RATE, _WEIGHT = 0.2, 20.0, 2.0, 0.05, 1.0
_VALUES = 1 << 22
"""Number of weights that are worked on at a time, in whole output channels."""


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
    hessian = gram.damped()
    order = hessian.diagonal(dim1=1, dim2=2).argsort(1, descending=True)
    back = order.argsort(1)
    factor = torch.linalg.cholesky(hessian)
    hessian = hessian.gather(1, order[:, :, None].expand_as(hessian)).gather(2, order[:, None, :].expand_as(hessian))
    inverse = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(hessian)), upper=True)
    result = torch.empty_like(weight)
    for some in _blocks(weight):
        start = gram.fitted(weight[:, some], some, factor)
        columns = start.gather(2, order[:, None, :].expand_as(start))
        rounded = _by_columns(columns, scale[:, some].double(), limit, inverse)
        result[:, some] = rounded.gather(2, back[:, None, :].expand_as(start)).float()
    return result


def _blocks(weight: torch.Tensor) -> Iterator[slice]:
    """Output channels, as many at a time as have :data:`_VALUES` weights."""
    groups, outputs, inputs = weight.shape
    step = max(1, _VALUES // max(1, groups * inputs))
    for start in range(0, outputs, step):
        yield slice(start, min(start + step, outputs))


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
    steps = int(min(_STEPS, max(_FEWEST_STEPS, _WORK / max(1, weight.numel() * weight.shape[-1]))))
    factor = torch.linalg.cholesky(gram.damped())
    result = torch.empty_like(weight)
    for some in _blocks(weight):
        start = gram.fitted(weight[:, some], some, factor).float()
        result[:, some] = _learned(start, scale[:, some, None], limit, gram.part(some), steps)
    return result


def _learned(weight: torch.Tensor, step: torch.Tensor, limit: int, gram: Gram, steps: int) -> torch.Tensor:
    floor = (weight / step).floor()
    up = (weight / step - floor - _STRETCH_LOW) / _STRETCH
    variable = torch.logit(up.clamp(1e-4, 1 - 1e-4))
    moment, spread = torch.zeros_like(variable), torch.zeros_like(variable)
    price = 2 * step / _noise(weight, step, limit, gram)
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


def improve(
    layer: QuantizedLayer, module: fx.GraphModule, weight: torch.Tensor, statistics: Gram | Rows, method: str
) -> float:
    """Round a layer's weight again and keep, for each channel, the codes with the smaller error: the old or the new.

    Args:
        weight: the original FP32 weight of the layer.
        statistics: of the layer, see :func:`.gram.statistics_of`.
        method: ``hessian`` or ``adaround``.

    Returns:
        The share of channels that got new codes.
    """
    present, scale = fetch(module, layer.weight), scales_of(module, layer)
    start = to_matrix(layer, weight.detach())
    if isinstance(statistics, Rows):
        new = round_wide(start, scale, layer.limit, statistics)
    else:
        new = (hessian_rounding if method == "hessian" else learned_rounding)(start, scale, layer.limit, statistics)
    before = to_matrix(layer, present.detach())
    changed = 0
    for some in _blocks(new):
        old = nearest(before[:, some], scale[:, some, None], layer.limit)
        better = statistics.error(new[:, some], some) < statistics.error(old, some)
        new[:, some] = torch.where(better[:, :, None], new[:, some], old)
        changed += int(better.sum())
    replace(module, layer.weight, from_matrix(layer, new, present))
    return changed / max(1, scale.numel())
