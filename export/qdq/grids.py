"""Grids of activations (scale and zero point), and their conversion from one target to another.

An activation's range is ``[(qmin - zp) s, (qmax - zp) s]``.

* ``cpu`` and ``arm``: UINT8 (:mod:`.signed_codes` stores them in files for ``arm``). A grid of 256 codes is only
  shifted, ``zp' = zp - qmin``, and represents the same numbers (symmetric INT8 gets zero point 128). For values that
  are known to be non-negative (after a ReLU …) this would waste the lower half of the codes, and ONNX Runtime could not
  remove the ReLU; there, a symmetric grid becomes ``s' = s * 127 / 255, zp' = 0``, with half the step over the same
  range.
* ``tensorrt``: symmetric INT8, ``s' = max(|low|, |high|) / 127, zp' = 0``.

Weights are symmetric INT8 for all targets and are not changed. A file for another target is compared with the program
that was converted to the same target.
"""

from __future__ import annotations

import numpy as np

from ...core.grid import Grid
from ...core.options.stage_options import Target

WIDEST = 255


def convert(grid: Grid, target: Target, non_negative: bool = False) -> Grid:
    """The grid of an activation in the form of a target; the module's docstring has the rule.

    Args:
        grid: the grid in the program, with at most 8 bits.
        target: the target of the file.
        non_negative: whether the values are known to be non-negative.
    """
    return _symmetric(grid) if target == "tensorrt" else _unsigned(grid, non_negative)


def _symmetric(grid: Grid) -> Grid:
    as_it_is = grid.zero_point == 0 and grid.qmax == 127 and grid.qmin in (-128, -127)
    scale = grid.scale if as_it_is else float(np.float32(max(abs(grid.low), abs(grid.high)) / 127))
    return Grid(scale, 0, -128, 127)


def _unsigned(grid: Grid, non_negative: bool) -> Grid:
    if non_negative and grid.low < 0 < grid.high:
        return Grid(_scale_within(grid.high), 0, 0, WIDEST)
    if (grid.qmin, grid.qmax) == (-127, 127):
        return Grid(grid.scale, grid.zero_point + 128, 0, WIDEST)
    if grid.qmax - grid.qmin == WIDEST:
        return Grid(grid.scale, grid.zero_point - grid.qmin, 0, WIDEST)
    low, high = min(grid.low, 0.0), max(grid.high, 0.0)
    scale = float(np.float32((high - low) / WIDEST))
    return Grid(scale, round(-low / scale), 0, WIDEST)


def _scale_within(high: float) -> float:
    """``high / 255`` rounded down to float32, because a grid that exceeds a clamp's limit prevents its fusion."""
    scale = np.float32(high / WIDEST)
    while float(scale) * WIDEST > high:
        scale = np.nextafter(scale, np.float32(0))
    return float(scale)
