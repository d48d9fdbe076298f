"""Grids of hard-swish and hard-sigmoid on which the integer codes of the gate equal those of its input.

``hardswish(x) = x * clamp(x + 3, 0, 6) / 6`` does not depend on values of ``x`` below -3. If the grid of ``x`` begins
at -3 and its step ``s`` divides 3, the gate has the same code as ``x`` on a grid of step ``s / 6``, clipped at 1. The
runtime then multiplies a tensor by its own clipped codes, and the gate is not rounded. Measured with ONNX Runtime 1.31,
one thread, per million elements: the clip takes 0.04 ms; the sum that converts codes of other grids takes 0.13 ms.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import fx

from ....core.aten_names import CONCATENATIONS, CONVOLUTIONS, name_of
from ....core.grid import Grid
from ....core.options.stage_options import Target
from ...graph.module_edit import call_after, fetch
from ...program import Program
from ..operator_classes import is_qdq, operand, weighted
from ..points import Placement, excluded
from ..prepare.batch_norm_folding import rescale
from ..scheme import SCHEMES, Range, gate_grid
from .observers import Observer

_SLOPE, _BEGIN = 6.0, 3.0
_FEWEST = -2.0
"""Largest minimum of a tensor for such a grid: above it, too few values would use the codes between -3 and 0."""


def gate_of(placement: Placement, value: fx.Node) -> fx.Node | None:
    """The hard-sigmoid of ``value`` whose output ``value`` is multiplied by, if nothing else reads either of them."""
    readers = set(value.users)
    gates = [node for node in readers if name_of(node) == "hardsigmoid"]
    if value not in placement.points or name_of(value) in CONCATENATIONS or len(readers) != 2 or len(gates) != 1:
        return None
    (product,) = readers - set(gates)
    both = name_of(product) == "mul" and set(product.args[:2]) == {value, gates[0]}
    return gates[0] if both and product in placement.joins and gates[0] in placement.points else None


def shared_codes(placement: Placement, ranges: Mapping[fx.Node, Range], target: Target) -> dict[fx.Node, Grid]:
    """Grids for the inputs and gates of hard-swish on which both have the same codes."""
    found: dict[fx.Node, Grid] = {}
    for value in placement.points if not SCHEMES[target].symmetric else ():
        gate, span = gate_of(placement, value), ranges[value]
        steps = int(255 * _BEGIN / (_BEGIN + max(span.high, 0.0)))
        if gate is None or span.low > _FEWEST or steps < 1:
            continue
        scale = np.float32(_BEGIN / steps)
        found[value] = Grid(float(scale), steps, 0, 255)
        found[gate] = Grid(float(scale / np.float32(_SLOPE)), 0, 0, 255)
    return found


def restore_shared_codes(module: fx.GraphModule) -> None:
    """Make the codes of input and gate of hard-swish equal again, in place, after training changed the input's scale.

    The scale changes by less than half a step in the codes from -3 to 0.
    """
    for node in module.graph.nodes:
        source = node.args[0] if name_of(node) == "hardsigmoid" else None
        readers = list(node.users)
        if not isinstance(source, fx.Node) or len(readers) != 1 or not is_qdq(source) or not is_qdq(readers[0]):
            continue
        (scale, zero), (finer, begin) = (_grid_of(module, item) for item in (source, readers[0]))
        if scale.numel() != 1 or int(begin) != 0 or float(finer) == gate_grid(SCHEMES["cpu"]).scale or float(zero) < 1:
            continue
        steps = max(1, round(_BEGIN / float(scale)))
        zero.fill_(steps)
        scale.fill_(_BEGIN / steps)
        finer.fill_(_BEGIN / steps / _SLOPE)


def _grid_of(module: fx.GraphModule, node: fx.Node) -> list[torch.Tensor]:
    """Scale and zero point of a fake-quantize."""
    return [fetch(module, str(item.target)) for item in node.args[1:3]]  # type: ignore[union-attr]


class FromGate:
    """Observes the input of a hard-swish, with values below -3 raised to -3."""

    def __init__(self, inner: Observer) -> None:
        self._inner = inner

    def update(self, value: torch.Tensor) -> bool:
        """See :meth:`.observers.Observer.update`."""
        return self._inner.update(value.clamp(min=-_BEGIN))

    def range(self) -> Range:
        """See :meth:`.observers.Observer.range`."""
        return self._inner.range()


def fold_gates(program: Program, exclude: Sequence[str]) -> None:
    """Replace a hard-sigmoid that is the only reader of a convolution by a clamp to [0, 1], in place.

    The factor 1/6 moves into the convolution's weight, whose codes do not change. The clamp folds into the
    convolution's Q, so the gate takes no time.
    """
    module = program.module
    for node in list(module.graph.nodes):
        source = node.args[0] if name_of(node) == "hardsigmoid" else None
        layer = weighted(source) if isinstance(source, fx.Node) else None
        if layer is None or name_of(layer.node) not in CONVOLUTIONS or len(layer.node.users) != 1:
            continue
        if excluded(node, exclude) or excluded(layer.node, exclude):
            continue
        if operand(layer.node, "bias") is not None and layer.bias is None:
            continue
        channels = fetch(module, str(layer.weight.target)).shape[0]
        sixth = torch.full((channels,), 1 / _SLOPE, dtype=torch.float64)
        rescale(module, layer, sixth, _BEGIN * sixth)
        clamp = call_after(module.graph, layer.node, torch.ops.aten.clamp.default, (layer.node, 0.0, 1.0))
        node.replace_all_uses_with(clamp)
        module.graph.erase_node(node)
