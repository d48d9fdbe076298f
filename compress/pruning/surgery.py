"""Cutting a program: parameters and buffers sliced, constants in the graph rewritten; the input stays as it was."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from ..modes import graphs
from ..program import Program, clone
from .coupling import Coupling
from .labels import Ids, Mask
from .rewrite import Sizes, rewrite

_STALE = ("val", "tensor_meta")


def cut(program: Program, coupling: Coupling, removed: Mask) -> Program:
    """A program without the removed classes, with the same signature and node names.

    Args:
        removed: classes to remove, as a boolean mask over labels.
    """
    result = clone(program)
    first: dict[str, Tensor] = {}
    for name, leader in coupling.aliases.items():
        if leader not in first:
            first[leader] = sliced(_get(result.module, leader), kept_of(coupling, leader, removed))
        _set(result.module, name, first[leader])
    sizes = Sizes(coupling, removed)
    for node in result.module.graph.nodes:
        rewrite(node, sizes)
        for key in _STALE:
            node.meta.pop(key, None)
    result.module.graph.lint()
    for graph in graphs(result.module):
        graph.recompile()
    return result


def kept_of(coupling: Coupling, name: str, removed: Mask) -> list[Ids | None]:
    """Kept indices of every dimension of a parameter or buffer; None where all are kept."""
    kept: list[Ids | None] = []
    for ids in coupling.parameters[name]:
        gone = removed[coupling.unions.find(ids.numpy())]
        kept.append(np.flatnonzero(~gone) if gone.any() else None)
    return kept


def sliced(tensor: Tensor, kept: list[Ids | None]) -> Tensor:
    """The kept part of a tensor; a parameter stays a parameter."""
    if all(item is None for item in kept):
        return tensor
    result = tensor.detach()
    for dim, indices in enumerate(kept):
        if indices is not None:
            result = result.index_select(dim, torch.from_numpy(indices).to(result.device))
    result = result.contiguous()
    return nn.Parameter(result, requires_grad=tensor.requires_grad) if isinstance(tensor, nn.Parameter) else result


def _owner(module: nn.Module, path: str) -> tuple[nn.Module, str]:
    parent, _, name = path.rpartition(".")
    return module.get_submodule(parent), name


def _get(module: nn.Module, path: str) -> Tensor:
    owner, name = _owner(module, path)
    tensor: Tensor = getattr(owner, name)
    return tensor


def _set(module: nn.Module, path: str, tensor: Tensor) -> None:
    owner, name = _owner(module, path)
    if name in owner._buffers:
        owner._buffers[name] = tensor
    else:
        setattr(owner, name, tensor)
