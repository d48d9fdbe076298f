"""Sizes while a model is traced: what would needlessly fix them, and where one turned into a number."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from .diagnosis import own_place

_FEW = 25  # up to which PyTorch itself takes differences


@contextmanager
def free_lengths(model: nn.Module) -> Iterator[None]:
    """Sizes stay free where the code of a model or PyTorch would look at them.

    ``len(x)`` gives what ``x.size(0)`` gives; Python makes a number of it. ``torch.cdist`` follows its definition, or
    for long second lists a product; its own choice would bound the batch.
    """
    names = {type(child).__module__ for child in model.modules()}
    spaces = [vars(sys.modules[name]) for name in names if name in sys.modules and name.partition(".")[0] != "torch"]
    spaces = [space for space in spaces if "len" not in space]
    distance = torch.cdist
    for space in spaces:
        space["len"] = _len
    torch.cdist = torch.functional.cdist = _cdist
    try:
        yield
    finally:
        for space in spaces:
            del space["len"]
        torch.cdist = torch.functional.cdist = distance


def _len(value: Any, /) -> Any:
    return value.shape[0] if isinstance(value, torch.Tensor) and value.dim() else len(value)


def _cdist(x1: torch.Tensor, x2: torch.Tensor, p: float = 2.0, compute_mode: str = "") -> torch.Tensor:
    rows = x2.shape[-2]
    if p == 2 and "donot" not in compute_mode and not (isinstance(rows, int) and rows <= _FEW):
        squares = x1.square().sum(-1, keepdim=True) + x2.square().sum(-1).unsqueeze(-2)
        found: torch.Tensor = (squares - 2 * x1 @ x2.transpose(-2, -1)).clamp(min=0).sqrt()
        return found
    result: torch.Tensor = torch.linalg.vector_norm(x1.unsqueeze(-2) - x2.unsqueeze(-3), p, -1)
    return result


@contextmanager
def constants() -> Iterator[dict[int, str]]:
    """Where a free size became a number.

    Yields:
        The model's own line behind each number, as `` at model.py line 12 (`...`)``; empty where PyTorch does not tell.
    """
    found: dict[int, str] = {}
    plain = getattr(ShapeEnv, "_set_replacement", None)
    if plain is None:
        yield found
        return

    def _replace(env: Any, symbol: Any, value: Any, *rest: Any) -> Any:
        if getattr(value, "is_Integer", False) and int(value) not in found:
            found[int(value)] = own_place(traceback.extract_stack())
        return plain(env, symbol, value, *rest)

    ShapeEnv._set_replacement = _replace  # type: ignore[method-assign, assignment]
    try:
        yield found
    finally:
        ShapeEnv._set_replacement = plain  # type: ignore[method-assign]
