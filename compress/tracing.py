"""One call of ``torch.export`` with named dynamic axes, whose refusals are readable."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from ..core.backends.eager import quiet
from ..core.errors import CaptureError, RetortError
from ..core.tensors import BATCH
from .diagnosis import explain

Bounds = tuple[int | None, int | None]
Axes = Sequence[Mapping[int, str]]
_FIX = re.compile(r"^\s*(\w+) = (.+)$", re.MULTILINE)
_ROUNDS = 4


def trace(
    module: nn.Module, inputs: Sequence[torch.Tensor], axes: Axes, *, variadic: bool = False
) -> torch.export.ExportedProgram:
    """Export a module with dynamic axes.

    Bounds that the model sets on an axis of its own (a table of 512 positions) are taken over; the batch must be free.

    Args:
        inputs: example inputs, by position.
        axes: the dynamic axes of each input, ``{axis: name}``; equal names are equal sizes.
        variadic: whether ``forward`` takes ``*values``.

    Raises:
        CaptureError: in the model's terms: what it does, where, and the remedy.
    """
    bounds: dict[str, Bounds] = {}
    for _ in range(_ROUNDS):
        shapes = _shapes(axes, bounds)
        try:
            with quiet(), torch.enable_grad():
                return torch.export.export(
                    module, tuple(inputs), dynamic_shapes=(shapes,) if variadic else shapes, strict=False
                )
        except RetortError:
            raise
        except Exception as error:  # torch.export raises a dozen unrelated classes, and whatever the model raises
            found = _bounds(str(error))
            if not found or BATCH in found or found.items() <= bounds.items():
                raise _constraint(str(error)) or explain(error) from error
            bounds |= found
    raise CaptureError("the model's dynamic axes depend on each other", "make fewer axes dynamic")


def _shapes(axes: Axes, bounds: Mapping[str, Bounds]) -> tuple[dict[int, Any], ...]:
    dims: dict[str, Any] = {}
    for name in {name for entry in axes for name in entry.values()}:
        low, high = bounds.get(name, (None, None))
        dims[name] = torch.export.Dim(name, min=low, max=high)
    return tuple({axis: dims[name] for axis, name in entry.items()} for entry in axes)


def _fixes(text: str) -> dict[str, str]:
    """What ``torch.export`` suggests per axis: ``Dim('n', max=512)``, a number, or a formula."""
    _, _, suggested = text.partition("Suggested fixes:")
    return dict(_FIX.findall(suggested.split("\n\n")[0]))


def _bounds(text: str) -> dict[str, Bounds]:
    """The suggested bounds, when bounds are all that is suggested."""
    fixes = _fixes(text)
    found = {}
    for name, fix in fixes.items():
        if not fix.startswith("Dim(") or name.startswith("_"):
            return {}
        low, high = re.search(r"min=(\d+)", fix), re.search(r"max=(\d+)", fix)
        found[name] = (int(low[1]) if low else None, int(high[1]) if high else None)
    return found


def _constraint(text: str) -> CaptureError | None:
    for name, fix in _fixes(text).items():
        what = "batch" if name == BATCH else f"axis '{name}'"
        if fix.isdigit():
            return CaptureError(
                f"the model fixes the {what} to {fix}: a size became a constant of the program",
                "take sizes from the input (`x.size(0)`, `x.flatten(1)`), and do not loop or decide by them",
                axis=name,
            )
        if not name.startswith("_"):
            bound = re.sub(r"^Dim\('\w+', (.*)\)$", r"\1", fix)
            return CaptureError(
                f"the model does not take every size of the {what}: it holds for {_spoken(name, bound)} only",
                "do not decide by that size in `forward`, or leave the axis fixed",
                axis=name,
            )
    return None


def _spoken(name: str, bound: str) -> str:
    """``sizes up to 100`` for ``max=100``, ``multiples of 2`` for ``2*_batch``."""
    match = re.fullmatch(rf"(\d+)\*_{name}", bound)
    if match:
        return f"multiples of {match[1]}"
    words = {"min": "sizes from", "max": "sizes up to"}
    parts = [f"{words[key]} {value}" for key, value in re.findall(r"(min|max)=(\d+)", bound)]
    return " and ".join(parts) or f"{name} = {bound}"
