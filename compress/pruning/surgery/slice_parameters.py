"""Cuts a program: slices parameters and buffers and rewrites constants in the graph; the input is not changed."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from ...graph.train_eval_mode import graphs
from ...program import Program, shared
from ..coupling.labels import Ids, Mask
from ..coupling.propagate import Coupling
from .rewrite_constants import Sizes, rewrite

_STALE = ("val", "tensor_meta")


def cut(program: Program, coupling: Coupling, removed: Mask) -> Program:
    """A program without the removed classes, with the same signature and node names.

    Args:
        removed: classes to remove, as a boolean mask over labels.
    """
    result = shared(program)
    result.example = {name: tensor.clone() for name, tensor in program.example.items()}
    made: dict[int, Tensor] = {}
    module = result.module
    state = [*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)]
    for name, tensor in state:
        if id(tensor) not in made:
            leader = coupling.aliases.get(name)
            kept = [] if leader is None else kept_of(coupling, leader, removed)
            made[id(tensor)] = _own(tensor, sliced(tensor, kept))
        _set(module, name, made[id(tensor)])
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
    """Kept indices of every dimension of a parameter or buffer; None if all are kept."""
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


def _own(before: Tensor, after: Tensor) -> Tensor:
    """A tensor that shares no memory with the one it was cut from."""
    if after.data_ptr() != before.data_ptr() or before.numel() == 0:
        return after
    result = after.detach().clone()
    return nn.Parameter(result, requires_grad=before.requires_grad) if isinstance(before, nn.Parameter) else result


def _owner(module: nn.Module, path: str) -> tuple[nn.Module, str]:
    parent, _, name = path.rpartition(".")
    return module.get_submodule(parent), name


def _set(module: nn.Module, path: str, tensor: Tensor) -> None:
    owner, name = _owner(module, path)
    if name in owner._buffers:
        owner._buffers[name] = tensor
    else:
        setattr(owner, name, tensor)
