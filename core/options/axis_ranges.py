"""Parsing of axis ranges in the form that users write: `batch=1:8:32`, `tokens=128`."""

from __future__ import annotations

import re

from ..errors import UserError

Dims = tuple[int, ...]


def parse_axis(item: str) -> tuple[str, tuple[int, int, int]]:
    """Return the name and the range of ``name=min:opt:max`` or ``name=size``.

    Raises:
        UserError: the text does not have that form.
    """
    name, _, text = item.partition("=")
    shapes = parse_shapes(f"--axis {item}", text)
    if any(len(shape) != 1 for shape in shapes):
        raise UserError(f"--axis {item}: an axis has a single size, not a shape", f"write --axis {name}=8:128:512")
    low, usual, high = (shape[0] for shape in shapes)
    return name, (low, usual, high)


def parse_shapes(where: str, text: str) -> tuple[Dims, Dims, Dims]:
    """Return the smallest, usual and largest shape of ``1x3:8x3:32x3``; a single shape stands for all three.

    Args:
        where: name of the option or input that the text belongs to, for error messages.

    Raises:
        UserError: the text does not have that form.
    """
    parts = text.split(":")
    if len(parts) not in (1, 3) or not all(re.fullmatch(r"\d+([x,]\d+)*", part) for part in parts):
        raise UserError(
            f"{where}: '{text}' does not have the form min:opt:max", "write sizes as 1x3x64x64:8x3x64x64:32x3x64x64"
        )
    shapes = [tuple(int(size) for size in re.split("[x,]", part)) for part in parts]
    low, usual, high = shapes if len(shapes) == 3 else shapes * 3
    if not len(low) == len(usual) == len(high):
        raise UserError(
            f"{where}: the three shapes have different numbers of axes", "give all three shapes the same number of axes"
        )
    for one, two, what in (
        (low, usual, "minimum is larger than the optimum"),
        (usual, high, "optimum is larger than the maximum"),
    ):
        if any(first > second for first, second in zip(one, two, strict=True)):
            raise UserError(f"{where}: the {what}", "order the sizes of every axis as min:opt:max")
    if 0 in low:
        raise UserError(f"{where}: a size is 0", "use sizes of 1 or more")
    return low, usual, high
