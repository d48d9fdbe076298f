"""Low-bit weights: fewer than 8 bits, stored as INT8 codes, so that a compressed file is smaller."""

from __future__ import annotations

import torch

from ...graph.module_edit import fetch
from ...program import Program
from ..correction.layer_matrices import is_matrix, quantized_layers, to_matrix
from ..correction.rounding import nearest
from ..scheme import WEIGHT_MAX

_CANDIDATES = 14
_SMALLEST_SHARE = 0.35


def narrow_weights(program: Program, bits: int) -> None:
    """Give every quantized weight ``2^bits - 1`` codes, in place.

    Each channel's range is the one with the least squared error among several between 35 % and 100 % of its largest
    weight.

    Args:
        bits: 2 to 8; with 8 nothing changes.
    """
    if bits == 8:
        return
    limit = 2 ** (bits - 1) - 1
    for layer in quantized_layers(program.module):
        scale = fetch(program.module, layer.scale)
        quantizer = next(
            node for node in program.module.graph.find_nodes(op="get_attr", target=layer.scale) for node in node.users
        )
        quantizer.args = (*quantizer.args[:4], -limit, limit)
        scale.mul_(WEIGHT_MAX / limit)
        if is_matrix(layer):
            weight = to_matrix(layer, fetch(program.module, layer.weight).detach())
            scale.copy_(_best_scales(weight, scale.reshape(layer.groups, -1), limit).reshape(scale.shape))
    program.module.recompile()


def _best_scales(weight: torch.Tensor, scale: torch.Tensor, limit: int) -> torch.Tensor:
    best, least = scale.clone(), torch.full_like(scale, torch.inf)
    for share in torch.linspace(_SMALLEST_SHARE, 1.0, _CANDIDATES):
        tried = scale * share
        error = (nearest(weight, tried[:, :, None], limit) - weight).square().sum(-1)
        better = error < least
        best, least = torch.where(better, tried, best), torch.where(better, error, least)
    return best
