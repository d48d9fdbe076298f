"""Inserts a placement into the program: ``retort::qdq`` nodes whose scales and zero points are buffers."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import fx

from ....core.cpu_targets import is_for_cpu
from ....core.grid import Grid
from ....core.options.stage_options import QuantizeOptions, Target
from ...graph.module_edit import call_after, fetch, free_path, put
from ...program import Program, macs_by_node
from ..calibration.hard_activations import shared_codes
from ..dynamic_quantization import quantize_inputs
from ..operator_classes import Weighted, fixed_grid, kind_of
from ..points import Placement, name_in_model, source_of
from ..recurrent_layers import quantize_recurrent
from ..scheme import SCHEMES, WEIGHT_MAX, Range, activation_grid, gate_grid, weight_scales
from .ort_guard import guard_floats

_qdq = torch.ops.retort.qdq.default
NAMESPACE = "quantization"


def apply(
    program: Program,
    placement: Placement,
    ranges: Mapping[fx.Node, Range],
    target: Target,
    options: QuantizeOptions,
) -> None:
    """Insert the fake-quantize nodes, in place; weights stay FP32 parameters and are quantized when they are read.

    ``program.meta["quantization"]`` records the result: ``target``, ``method``, ``activations`` (per scale buffer:
    the calibrated ``low`` and ``high`` and the ``node``), ``weights`` (per scale buffer: the parameter), ``kinds``
    (integer nodes per kind), ``integer_macs_percent`` and ``float_nodes`` with reasons.
    """
    macs = macs_by_node(program)
    grids = {value: _grid(value, placement, ranges, target) for value in placement.points}
    grids |= shared_codes(placement, ranges, target)
    scales = {layer.node: _input_scale(layer, grids) for layer in placement.layers}
    activations = {}
    quantized: dict[fx.Node, tuple[fx.Node, str]] = {}
    for value, grid in grids.items():
        quantized[value] = _insert_point(program.module, placement, value, grid)
        span = ranges[value]
        activations[quantized[value][1]] = {"node": value.name, "low": span.low, "high": span.high}
    scales |= dict.fromkeys((layer.node for layer in placement.dynamic), math.inf)
    weights = _insert_weights(program.module, [*placement.layers, *placement.dynamic], scales)
    quantize_inputs(program, placement.dynamic)
    weights |= quantize_recurrent(program, placement.recurrent, options)
    for step, source in placement.copies.items():
        _requantize(program.module, step, quantized[source][0])
    if is_for_cpu(target):
        guard_floats(program.module, placement)
    program.module.graph.eliminate_dead_code()
    program.module.graph.lint()
    program.module.recompile()
    program.meta["quantization"] = {
        "target": target,
        "method": options.method,
        "activations": activations,
        "weights": weights,
        **summary(placement, macs),
    }


def summary(placement: Placement, macs: Mapping[str, int]) -> dict[str, Any]:
    """Which nodes are integer and which are not, as JSON-ready values."""
    recurrent = [layer.node for layer in placement.recurrent if layer.integer]
    done_by = [*(layer.node for layer in (*placement.layers, *placement.dynamic)), *recurrent]
    kinds = Counter(map(kind_of, (*done_by, *placement.joins)))
    done = sum(macs.get(node.name, 0) for node in done_by)
    total = sum(macs.values())
    return {
        "kinds": dict(sorted(kinds.items())),
        "integer_macs_percent": round(100 * done / total, 2) if total else 0.0,
        "float_nodes": [
            {"node": node.name, "layer": name_in_model(node), "op": kind_of(node), "reason": reason}
            for node, reason in placement.floating.items()
        ],
    }


def _grid(value: fx.Node, placement: Placement, ranges: Mapping[fx.Node, Range], target: Target) -> Grid:
    """The grid of a point; tensors of one group get the same grid if they have the same range."""
    if fixed_grid(value):
        return gate_grid(SCHEMES[target])
    bounds = placement.points[value].bounds
    for group in placement.groups:
        if value in group and len({ranges[item] for item in group}) == 1:
            limits = [placement.points[item].bounds for item in group]
            bounds = max(low for low, _ in limits), min(high for _, high in limits)
    return activation_grid(ranges[value], SCHEMES[target], bounds)


def _buffers(module: fx.GraphModule, stem: str, scale: torch.Tensor, zero_point: torch.Tensor) -> str:
    path = free_path(module, f"{NAMESPACE}.{stem.replace('.', '_')}")
    put(module, f"{path}.scale", scale)
    put(module, f"{path}.zero_point", zero_point)
    return path


def _constants(graph: fx.Graph, path: str, place: fx.Node) -> tuple[fx.Node, fx.Node]:
    with graph.inserting_after(place):
        zero_point = graph.get_attr(f"{path}.zero_point")
        return graph.get_attr(f"{path}.scale"), zero_point


def _insert_point(module: fx.GraphModule, placement: Placement, value: fx.Node, grid: Grid) -> tuple[fx.Node, str]:
    readers = placement.points[value].readers
    scale, zero = torch.tensor(grid.scale), torch.tensor(grid.zero_point, dtype=torch.int64)
    path = _buffers(module, value.name, scale, zero)
    old = set(value.users)
    after = _behind_inputs(module.graph, value)
    scale_node, zero_node = _constants(module.graph, path, after)
    node = call_after(module.graph, zero_node, _qdq, (value, scale_node, zero_node, -1, grid.qmin, grid.qmax))
    if "nn_module_stack" in value.meta:
        node.meta["nn_module_stack"] = value.meta["nn_module_stack"]
    value.replace_all_uses_with(node, lambda user: user in old and (readers is None or user in readers))
    return node, f"{path}.scale"


def _behind_inputs(graph: fx.Graph, value: fx.Node) -> fx.Node:
    """``value``, or the last placeholder if it is a placeholder, because placeholders must stay together at the top."""
    return graph.find_nodes(op="placeholder")[-1] if value.op == "placeholder" else value


def _input_scale(layer: Weighted, grids: Mapping[fx.Node, Grid]) -> float:
    """Scale of a layer's input, or of the tensor from which data movements make that input."""
    value = layer.data if layer.data in grids else source_of(layer.data)
    return grids[value].scale


def _insert_weights(
    module: fx.GraphModule, every: Sequence[Weighted], input_scales: Mapping[fx.Node, float]
) -> dict[str, dict[str, Any]]:
    """One fake-quantize per weight and axis, shared by all layers that read it."""
    shared: dict[tuple[str, int], list[Weighted]] = {}
    for layer in every:
        shared.setdefault((str(layer.weight.target), layer.axis), []).append(layer)
    order = {node: index for index, node in enumerate(module.graph.nodes)}
    facts = {}
    for (name, axis), layers in shared.items():
        scales = torch.stack([_weight_scales(module, layer, input_scales[layer.node]) for layer in layers]).amax(0)
        path = _buffers(module, name, scales, torch.zeros(scales.shape, dtype=torch.int64))
        _wrap_weight(module, layers, min((layer.consumer for layer in layers), key=order.__getitem__), path)
        facts[f"{path}.scale"] = {"parameter": name, "axis": axis}
    return facts


def _weight_scales(module: fx.GraphModule, layer: Weighted, input_scale: float) -> torch.Tensor:
    name = str(layer.weight.target)
    bias = None if layer.bias is None else fetch(module, str(layer.bias.target))
    return weight_scales(fetch(module, name), layer.axis, bias, input_scale, name)


def _wrap_weight(module: fx.GraphModule, layers: list[Weighted], first: fx.Node, path: str) -> None:
    graph = module.graph
    with graph.inserting_before(first):
        weight = graph.get_attr(str(layers[0].weight.target))
        scale, zero = graph.get_attr(f"{path}.scale"), graph.get_attr(f"{path}.zero_point")
        args = (weight, scale, zero, layers[0].axis, -WEIGHT_MAX, WEIGHT_MAX)
        node = graph.create_node("call_function", _qdq, args)
    for layer in layers:
        layer.consumer.replace_input_with(layer.weight, node)


def _requantize(module: fx.GraphModule, step: fx.Node, source: fx.Node) -> None:
    """Quantize the output of ``step`` on its source's grid again: no value changes, but the runtime moves integers."""
    old = set(step.users)
    node = call_after(module.graph, step, _qdq, (step, *source.args[1:]))
    step.replace_all_uses_with(node, lambda user: user in old)


__all__ = ["NAMESPACE", "apply", "summary"]
