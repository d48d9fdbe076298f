"""Rewrites spatial means, unfolded BatchNorms and gated activations into equivalent operators with integer kernels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import fx, nn

from ....core.aten_names import CONVOLUTIONS, name_of
from ....core.cpu_targets import is_for_cpu
from ....core.options.stage_options import Target
from ...graph.module_edit import Shapes, call_after, fetch, free_path, put, shapes_of
from ...program import Program
from ..calibration.hard_activations import fold_gates
from ..operator_classes import clamp_bounds, joined, moved, operand, weighted
from ..points import excluded
from .batch_norm_folding import finish

_aten = torch.ops.aten
_GATES = {"hardswish": _aten.hardsigmoid.default, "silu": _aten.sigmoid.default}


def rewrite(program: Program, target: Target, exclude: Sequence[str] = ()) -> None:
    """Rewrite operators, in place, into forms for which the target has integer kernels; only rounding changes.

    * Global average pooling and means over all spatial axes become a mean that keeps the axes (all targets).

    For ``cpu`` and ``arm`` also:

    * A BatchNorm that could not be folded and reads integers becomes a depthwise 1x1 convolution.
    * A hard-sigmoid that is the only reader of a convolution becomes a clamp, which folds into its Q.
    * ``hardswish(x)`` and ``silu(x)`` of integers become ``x * hardsigmoid(x)`` and ``x * sigmoid(x)``.
    """
    _pool_means(program)
    if is_for_cpu(target):
        fold_gates(program, exclude)
        _integer_forms(program, exclude)
    finish(program)


def _pool_means(program: Program) -> None:
    """Write global average pooling as a mean that keeps the axes.

    The exporter would decompose adaptive pooling into strided views if the tensor has the channels-last layout.
    """
    shapes = shapes_of(program)
    graph = program.module.graph
    for node in list(graph.nodes):
        rank = _global_pool_rank(node) or _mean_rank(node, shapes)
        if rank is None:
            continue
        axes = list(range(2, rank + 2))
        mean = call_after(graph, node, _aten.mean.dim, (node.args[0], axes, True))
        keeps = name_of(node) != "mean" or operand(node, "keepdim")
        _substitute(node, mean if keeps else call_after(graph, mean, _aten.flatten.using_ints, (mean, 1)))
    finish(program)


def _global_pool_rank(node: fx.Node) -> int | None:
    """Number of spatial axes of an adaptive average pooling to a single value."""
    if not name_of(node).startswith("adaptive_avg_pool"):
        return None
    sizes = operand(node, "output_size")
    return int(name_of(node)[-2]) if set(sizes) == {1} else None


def _mean_rank(node: fx.Node, shapes: Shapes) -> int | None:
    """Number of spatial axes of a mean over exactly all spatial axes; None for other means."""
    source = node.args[0] if node.args else None
    if name_of(node) != "mean" or not isinstance(source, fx.Node) or source not in shapes or len(node.args) < 2:
        return None
    shape, dtype = shapes[source]
    axes = operand(node, "dim")
    rank = len(shape) - 2
    if axes is None or operand(node, "dtype") is not None or dtype != torch.float32 or rank not in (1, 2, 3):
        return None
    whole = sorted(int(axis) % len(shape) for axis in axes) == list(range(2, len(shape)))
    # [N, L, C] of a Transformer looks like [N, C, L], so a single axis is spatial only after a convolution.
    return rank if whole and (rank > 1 or _behind_convolution(source)) else None


def _behind_convolution(node: fx.Node) -> bool:
    while node.op == "call_function" and name_of(node) not in CONVOLUTIONS:
        if name_of(node) not in ("relu", "relu6", "hardtanh", "silu", "gelu", "batch_norm", "add", "dropout"):
            return False
        node = node.all_input_nodes[0]
    return name_of(node) in CONVOLUTIONS


def _integer_forms(program: Program, exclude: Sequence[str]) -> None:
    """Track the tensors that will be integers in graph order, and rewrite the operators that read them."""
    shapes = dict(shapes_of(program))
    integers: set[fx.Node] = set()
    for node in list(program.module.graph.nodes):
        if excluded(node, exclude):
            continue
        source = node.args[0] if node.args and isinstance(node.args[0], fx.Node) else None
        if name_of(node) == "batch_norm" and source is not None and _is_affine(node, shapes):
            if source in integers or source.op == "placeholder":
                integers.add(_as_convolution(program.module, node, len(shapes[node][0]) - 2))
        elif name_of(node) in _GATES and source in integers:
            gate = call_after(program.module.graph, node, _GATES[name_of(node)], (source,))
            product = call_after(program.module.graph, gate, _aten.mul.Tensor, (source, gate))
            _substitute(node, product)
            integers.add(product)
        elif _stays_integer(node, integers):
            integers.add(node)


def _stays_integer(node: fx.Node, integers: set[fx.Node]) -> bool:
    if name_of(node) in CONVOLUTIONS:
        return weighted(node) is not None
    passes = moved(node) in integers or any(value in integers for value in joined(node))
    return passes or (clamp_bounds(node) is not None and node.args[0] in integers)


def _is_affine(node: fx.Node, shapes: Shapes) -> bool:
    """Whether a BatchNorm has constant statistics and an input whose axes a convolution supports."""
    statistics = [operand(node, name) for name in ("weight", "bias", "running_mean", "running_var")]
    constant = all(item is None or item.op == "get_attr" for item in statistics) and None not in statistics[2:]
    shape, dtype = shapes[node]
    return constant and not operand(node, "training") and len(shape) in (3, 4, 5) and dtype == torch.float32


def _as_convolution(module: fx.GraphModule, node: fx.Node, rank: int) -> fx.Node:
    gamma, beta, mean, var = (
        None if item is None else fetch(module, str(item.target)).detach().double()
        for item in (operand(node, name) for name in ("weight", "bias", "running_mean", "running_var"))
    )
    assert mean is not None
    assert var is not None
    factor = torch.rsqrt(var + float(operand(node, "eps")))
    factor = factor if gamma is None else factor * gamma
    shift = (0 if beta is None else beta) - mean * factor
    stem = str(operand(node, "running_mean").target).rpartition(".")[0] or node.name
    path = free_path(module, f"{stem}_as_convolution")
    put(module, f"{path}.weight", nn.Parameter(factor.float().reshape(-1, *[1] * (rank + 1))))
    put(module, f"{path}.bias", nn.Parameter(shift.float()))
    with module.graph.inserting_before(node):
        weight, bias = module.graph.get_attr(f"{path}.weight"), module.graph.get_attr(f"{path}.bias")
    target: Any = getattr(_aten, f"conv{rank}d").default
    ones, zeros = [1] * rank, [0] * rank
    args = (operand(node, "input"), weight, bias, ones, zeros, ones, factor.numel())
    result = call_after(module.graph, node, target, args)
    _substitute(node, result)
    return result


def _substitute(old: fx.Node, new: fx.Node) -> None:
    """Replace ``old`` by ``new``, which must not read ``old``, and remove ``old``."""
    old.replace_all_uses_with(new)
    old.graph.erase_node(old)
