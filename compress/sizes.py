"""Sizes while a model is traced: ``len`` of a tensor stays free, and where a size turned into a number is kept."""

from __future__ import annotations

import builtins
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from .diagnosis import own_place


@contextmanager
def free_lengths() -> Iterator[None]:
    """``len(x)`` gives what ``x.size(0)`` gives: Python makes a number of it, which would fix the axis."""
    plain = builtins.len

    def _len(value: Any, /) -> Any:
        if isinstance(value, torch.Tensor) and value.dim():
            return value.shape[0]
        return plain(value)

    builtins.len = _len
    try:
        yield
    finally:
        builtins.len = plain


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
