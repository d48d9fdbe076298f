"""Learnable scales: during training each scale is the exponential of a parameter; afterwards it is a buffer again."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import fx, nn

from ...graph.module_edit import fetch, put
from ...program import Program
from ..calibration.hard_activations import restore_shared_codes
from ..operator_classes import clamp_bounds, fixed_grid, is_qdq

_aten = torch.ops.aten
_SUFFIX = "_logarithm"


@dataclass(frozen=True)
class Scale:
    """A scale buffer of a quantized program.

    Attributes:
        path: path of the buffer.
        zero_point: path of its zero points.
        weight: whether it belongs to a weight.
        fixed: whether it must not change, as the grid of a gate.
        most: largest scale with which the grid stays inside the clamp before it.
    """

    path: str
    zero_point: str
    weight: bool
    fixed: bool
    most: float


def scales_in(program: Program) -> list[Scale]:
    """Every scale of a quantized program, in graph order."""
    found: dict[str, Scale] = {}
    for node in program.module.graph.nodes:
        if not is_qdq(node):
            continue
        source, scale, zero, _, low, high = node.args
        path = str(scale.target)
        if path not in found:
            shift = fetch(program.module, str(zero.target))
            most = math.inf if source.op == "get_attr" else _most(source, int(shift.reshape(-1)[0]), low, high)
            found[path] = Scale(path, str(zero.target), source.op == "get_attr", fixed_grid(source), most)
    return list(found.values())


def _most(source: fx.Node, zero: int, low: int, high: int) -> float:
    bounds = clamp_bounds(source) or (-math.inf, math.inf)
    limits = [
        abs(bound) / steps
        for bound, steps in ((bounds[0], zero - low), (bounds[1], high - zero))
        if steps > 0 and math.isfinite(bound) and bound != 0
    ]
    # slightly smaller, so that float32 rounding never puts the outermost code outside the clamp
    return min(limits, default=math.inf) * (1 - 1e-6)


def refresh_ranges(program: Program) -> None:
    """Update the calibrated ranges in the program's meta after its scales were learned."""
    activations = program.meta.get("quantization", {}).get("activations", {})
    for node in program.module.graph.nodes:
        path = str(node.args[1].target) if is_qdq(node) else ""
        if path in activations:
            scale, zero = (float(fetch(program.module, str(item.target)).reshape(-1)[0]) for item in node.args[1:3])
            activations[path].update(low=(node.args[4] - zero) * scale, high=(node.args[5] - zero) * scale)


@contextmanager
def learnable(program: Program, weights: bool) -> Iterator[list[nn.Parameter]]:
    """Make the activation scales learnable inside the context; afterwards they are buffers with the learned values.

    A parameter is the logarithm of its scales, so an optimizer step changes them relative to their size and they stay
    positive. Activations that start on the same grid (inputs of a concatenation) keep a common grid.

    Args:
        weights: make the scales of weights learnable too.

    Yields:
        The parameters.
    """
    chosen = [scale for scale in scales_in(program) if not scale.fixed and (weights or not scale.weight)]
    groups: dict[str, list[Scale]] = {}
    for scale in chosen:
        grid = [fetch(program.module, path).reshape(-1).tolist() for path in (scale.path, scale.zero_point)]
        groups.setdefault(scale.path if scale.weight else str(grid), []).append(scale)
    opened = [_Opened(program.module, group) for group in groups.values()]
    program.module.recompile()
    try:
        yield [group.parameter for group in opened]
    finally:
        for group in opened:
            group.close()
        restore_shared_codes(program.module)
        program.module.recompile()


class _Opened:
    """Scales that share a parameter, and the graph edits that replace the scales by it."""

    def __init__(self, module: fx.GraphModule, scales: list[Scale]) -> None:
        self.module, self.scales = module, scales
        self.most = min(scale.most for scale in scales)
        self.path = scales[0].path + _SUFFIX
        self.parameter = nn.Parameter(fetch(module, scales[0].path).detach().log())
        self.edits: list[tuple[fx.Node, list[fx.Node]]] = []
        put(module, self.path, self.parameter)
        for scale in scales:
            for node in list(module.graph.find_nodes(op="get_attr", target=scale.path)):
                self.edits.append((node, self._insert(node)))

    def _insert(self, node: fx.Node) -> list[fx.Node]:
        graph = self.module.graph
        with graph.inserting_after(node):
            chain = [graph.get_attr(self.path)]
        with graph.inserting_after(chain[-1]):
            chain.append(graph.call_function(_aten.exp.default, (chain[-1],)))
        if math.isfinite(self.most):
            with graph.inserting_after(chain[-1]):
                chain.append(graph.call_function(_aten.clamp.default, (chain[-1], None, self.most)))
        node.replace_all_uses_with(chain[-1])
        return chain

    def close(self) -> None:
        """Write the learned values into the buffers and make the graph read the buffers again."""
        value = fetch(self.module, self.path).detach().exp().clamp(max=self.most)
        for scale in self.scales:
            fetch(self.module, scale.path).copy_(value)
        for node, chain in self.edits:
            chain[-1].replace_all_uses_with(node)
            for dead in reversed(chain):
                self.module.graph.erase_node(dead)
        owner, _, name = self.path.rpartition(".")
        delattr(self.module.get_submodule(owner), name)
