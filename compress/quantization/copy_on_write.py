"""Copies of a program that share their weights until one of them gets a new weight, so that a trial costs no copy."""

from __future__ import annotations

import torch
from torch import nn

from ..graph.module_edit import fetch, put
from ..program import Program, shared


def fork(program: Program) -> Program:
    """A copy with its own graph and its own buffers, and the same parameters.

    A parameter of a fork must be replaced with :func:`replace`, and never changed in place.
    """
    result = shared(program)
    for name, buffer in list(result.module.named_buffers()):
        put(result.module, name, buffer.clone())
    return result


def replace(module: nn.Module, path: str, value: torch.Tensor) -> None:
    """Give a module a new parameter or buffer in the place of another one, which other programs may still use."""
    old = fetch(module, path)
    if isinstance(old, nn.Parameter):
        put(module, path, nn.Parameter(value.detach(), requires_grad=old.requires_grad))
    else:
        put(module, path, value.detach())
