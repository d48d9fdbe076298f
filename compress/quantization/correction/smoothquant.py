"""SmoothQuant: divides outlier channels of an activation by factors, and multiplies the following weights by them.

Xiao et al., 2023: ``x W = (x / s) (s W)``. In Transformers a few output channels of a layer norm or a GELU are up to a
hundred times larger than the others, so a common grid leaves very few codes for the others. The strength of the
migration is chosen per tensor by the error of the quantized layers on calibration rows; no migration is one of the
choices. The division moves into the weights of the layer norm if nothing else reads its output; otherwise it is a
multiplication. It raises the cosine similarity of a MiniLM encoder to its FP32 form from 0.9929 to 0.9983.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

from ....core.aten_names import ATTENTION, MATRIX_LAYERS, RESHAPES, name_of
from ....core.console import SILENT, Console
from ....core.data.splits import Split
from ....core.options.stage_options import QuantizeOptions, Target
from ...graph.module_edit import Shapes, call_after, fetch, free_path, has, put, readers_of, shapes_of
from ...program import Program
from ..calibration.calibrate import watch
from ..operator_classes import Weighted, clamp_bounds, moved, operand, weighted
from ..placement.place import eligible
from ..points import name_in_model, source_of
from ..prepare.batch_norm_folding import finish
from ..scheme import SCHEMES, WEIGHT_MAX, Range, Scheme, activation_grid

ROWS = 512
STRENGTHS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
LEAST_GAIN = 0.6
"""A tensor is smoothed only if the squared error falls below this share of the error without smoothing."""
_FEWEST_CHANNELS = 16
# the classifier of a convolutional network reads the codes of a pooling; a multiplication between them would prevent it
_TOKENS_RANK = 3
_SMALLEST = 1e-5


@dataclass
class _Channels:
    """Statistics of a tensor: the extremes of every channel, and some rows, drawn evenly from the batches."""

    low: torch.Tensor | None = None
    high: torch.Tensor | None = None
    rows: torch.Tensor | None = None
    seen: int = 0

    def update(self, value: torch.Tensor) -> bool:
        """See :meth:`retort.compress.quantization.calibration.observers.Watcher.update`."""
        flat = value.detach().reshape(-1, value.shape[-1]).float()
        if flat.shape[0] == 0:
            return True
        low, high = flat.amin(0), flat.amax(0)
        if not bool((torch.isfinite(low) & torch.isfinite(high)).all()):
            return False
        self.low = low if self.low is None else torch.minimum(self.low, low)
        self.high = high if self.high is None else torch.maximum(self.high, high)
        self.seen += 1
        self._keep(flat)
        return True

    def _keep(self, flat: torch.Tensor) -> None:
        """Keep about the same number of rows of each batch."""
        share = max(1, ROWS // self.seen)
        fresh = flat[torch.linspace(0, flat.shape[0] - 1, min(share, flat.shape[0])).long()]
        if self.rows is None:
            self.rows = fresh
            return
        old = self.rows[torch.linspace(0, len(self.rows) - 1, min(ROWS - len(fresh), len(self.rows))).long()]
        self.rows = torch.cat([old, fresh])


def smooth(
    program: Program,
    split: Split,
    options: QuantizeOptions,
    target: Target,
    console: Console = SILENT,
) -> list[dict[str, Any]]:
    """Smooth the inputs of linear layers, in place, if this makes the INT8 outputs of the layers more accurate.

    Args:
        program: FP32, in evaluation mode.
        split: calibration samples.
        options: numbers of samples, exclusions, ``smooth``.
        target: the target whose grids the activations will use.
        console: shows progress.

    Returns:
        One entry per smoothed tensor: its ``node``, the ``layers`` that read it, the ``strength``, and the squared
        error as a share of the error before (``error_ratio``).
    """
    shapes = shapes_of(program)
    ends = (options.first_layer, options.last_layer)
    layers, _ = eligible(program, target, options.exclude, shapes, ends)
    groups = _groups(list(layers.values()), shapes)
    if not options.smooth or not groups:
        return []
    seen = {value: _Channels() for value in groups}
    watch(program, seen, split, options, console, "smooth")
    facts = []
    for value, members in groups.items():
        weights = [_matrix(program.module, layer) for layer in members]
        found = _best(seen[value], weights, SCHEMES[target])
        if found is not None:
            strength, factors, ratio = found
            _divide(program.module, value, members, factors, shapes)
            names = [name_in_model(layer.node) for layer in members]
            facts.append({"node": value.name, "layers": names, "strength": strength, "error_ratio": round(ratio, 4)})
    finish(program)
    return facts


def _groups(layers: Sequence[Weighted], shapes: Shapes) -> dict[fx.Node, list[Weighted]]:
    """Tensors that linear layers read and that no integer node computes, with those layers."""
    groups: dict[fx.Node, list[Weighted]] = {}
    for layer in layers:
        if name_of(layer.node) in MATRIX_LAYERS:
            groups.setdefault(layer.data, []).append(layer)
    return {
        value: members
        for value, members in groups.items()
        if len(shapes[value][0]) >= _TOKENS_RANK
        and shapes[value][0][-1] >= _FEWEST_CHANNELS
        and _stands_alone(value, layers)
        and all(len(readers_of(layer.node.graph, str(layer.weight.target))) == 1 for layer in members)
    }


def _stands_alone(value: fx.Node, layers: Sequence[Weighted]) -> bool:
    """Whether no integer layer computes ``value``, so that it is quantized for its readers in any case."""
    source = source_of(value)
    while clamp_bounds(source) is not None and isinstance(source.args[0], fx.Node):
        source = source_of(source.args[0])
    heavy = {layer.node for layer in layers}
    return source.op == "call_function" and source not in heavy and moved(source) is None


def _matrix(module: fx.GraphModule, layer: Weighted) -> torch.Tensor:
    """A layer's weight as ``[outputs, inputs]``."""
    weight = fetch(module, str(layer.weight.target)).detach().float()
    return weight if layer.axis == 0 else weight.t()


def _best(seen: _Channels, weights: Sequence[torch.Tensor], scheme: Scheme) -> tuple[float, torch.Tensor, float] | None:
    """The strength with the least error, its factors and its share of the error before; None if nothing is gained."""
    if seen.rows is None or seen.low is None or seen.high is None:
        return None
    largest = torch.maximum(seen.low.abs(), seen.high.abs()).clamp_min(_SMALLEST)
    columns = torch.stack([weight.abs().amax(0) for weight in weights]).amax(0).clamp_min(_SMALLEST)
    ones = torch.ones_like(largest)
    wanted = [seen.rows @ weight.t() for weight in weights]
    before = _error(seen, weights, wanted, ones, scheme)
    best: tuple[float, torch.Tensor, float] | None = None
    for strength in STRENGTHS:
        factors = largest**strength / columns ** (1 - strength)
        factors = factors / factors.log().mean().exp()
        ratio = _error(seen, weights, wanted, factors, scheme) / max(before, 1e-30)
        if ratio < (LEAST_GAIN if best is None else best[2]):
            best = strength, factors, ratio
    return best


def _error(
    seen: _Channels,
    weights: Sequence[torch.Tensor],
    wanted: Sequence[torch.Tensor],
    factors: torch.Tensor,
    scheme: Scheme,
) -> float:
    """Squared error of the quantized layers, each relative to its own output."""
    assert seen.rows is not None
    assert seen.low is not None
    assert seen.high is not None
    span = Range(float((seen.low / factors).min()), float((seen.high / factors).max()))
    grid = activation_grid(span, scheme)
    codes = (seen.rows / factors / grid.scale).round_().clamp_(grid.qmin - grid.zero_point, grid.qmax - grid.zero_point)
    total = 0.0
    for weight, output in zip(weights, wanted, strict=True):
        scaled = weight * factors
        steps = scaled.abs().amax(1, keepdim=True).clamp_min(1e-12) / WEIGHT_MAX
        found = (codes * grid.scale) @ ((scaled / steps).round_() * steps).t()
        total += float((found - output).square().sum() / output.square().sum().clamp_min(1e-12))
    return total


def _divide(
    module: fx.GraphModule, value: fx.Node, members: Sequence[Weighted], factors: torch.Tensor, shapes: Shapes
) -> None:
    """Divide a tensor by the factors, and multiply the weights of the layers that read it by them."""
    for layer in members:
        path = str(layer.weight.target)
        weight = fetch(module, path)
        scaled = weight.detach() * (factors if layer.axis == 0 else factors[:, None]).to(weight.dtype)
        put(module, path, nn.Parameter(scaled, requires_grad=weight.requires_grad))
    readers = {layer.node for layer in members}
    norm = _own_norm(module, value, readers)
    if norm is not None:
        for path in norm:
            affine = fetch(module, path)
            put(module, path, nn.Parameter(affine.detach() / factors.to(affine.dtype), affine.requires_grad))
        return
    source = _own_values(value, readers, shapes)
    if source is not None:
        for item in (source.weight, source.bias):
            if item is not None:
                old = fetch(module, str(item.target))
                spread = (
                    factors.to(old.dtype) if item is source.bias or source.axis == 1 else factors.to(old.dtype)[:, None]
                )
                put(module, str(item.target), nn.Parameter(old.detach() / spread, old.requires_grad))
        return
    path = free_path(module, f"quantization.{value.name}_smoothing")
    put(module, path, 1 / factors)
    with module.graph.inserting_after(value):
        inverse = module.graph.get_attr(path)
    product = call_after(module.graph, inverse, torch.ops.aten.mul.Tensor, (value, inverse))
    value.replace_all_uses_with(product, lambda user: user in readers)


def _own_values(value: fx.Node, readers: set[fx.Node], shapes: Shapes) -> Weighted | None:
    """The value projection of an attention whose output is ``value``, if nothing else reads the tensors in between.

    Attention computes weighted sums of rows and does not mix columns, so a factor per column can be moved into the
    projection.
    """
    merge = _real(value, shapes)
    swap = _before(merge, shapes) if name_of(merge) in RESHAPES else None
    attention = _before(swap, shapes) if swap is not None and name_of(swap) == "transpose" else swap
    if swap is None or attention is None or name_of(attention) != ATTENTION:
        return None
    back = _real(operand(attention, "value"), shapes)
    split = _before(back, shapes)
    if split is None:
        return None
    layer = weighted(split.args[0]) if name_of(split) in RESHAPES and isinstance(split.args[0], fx.Node) else None
    swapped = all(name_of(node) == "transpose" and list(node.args[1:]) == [1, 2] for node in (swap, back))
    whole = shapes[value][0][-1] == shapes[layer.node][0][-1] if layer is not None else False
    steps: tuple[Any, ...] = (
        merge.args[0],
        swap,
        swap.args[0],
        attention,
        operand(attention, "value"),
        back,
        back.args[0],
        split,
    )
    alone = all(len(node.users) == 1 for node in steps) and set(value.users) == readers
    if (
        layer is None
        or not (swapped and whole and alone)
        or len(layer.node.users) != 1
        or layer.consumer is not layer.node
    ):
        return None
    parts = [item for item in (layer.weight, layer.bias) if item is not None]
    return layer if all(len(item.users) == 1 for item in parts) else None


def _real(node: Any, shapes: Shapes) -> fx.Node:
    """The node before all data movements that keep the shape; the node itself if it is not such a movement."""
    while moved(node) is not None and shapes.get(node) == shapes.get(moved(node)):  # type: ignore[arg-type]
        node = moved(node)
    assert isinstance(node, fx.Node)
    return node


def _before(node: fx.Node, shapes: Shapes) -> fx.Node | None:
    """The input of a node, before data movements that keep the shape; None if it is not a single tensor."""
    source = node.args[0] if node.args else None
    return _real(source, shapes) if isinstance(source, fx.Node) else None


def _own_norm(module: fx.GraphModule, value: fx.Node, readers: set[fx.Node]) -> list[str] | None:
    """Paths of the weights of the layer norm that computes ``value``, if only these readers read it; None otherwise."""
    if name_of(value) != "layer_norm" or set(value.users) != readers or len(operand(value, "normalized_shape")) != 1:
        return None
    affine = [item for item in (operand(value, "weight"), operand(value, "bias")) if item is not None]
    if not affine or operand(value, "weight") is None or any(item.op != "get_attr" for item in affine):
        return None
    paths = [str(item.target) for item in affine]
    shared = any(
        len(node.users)
        for path in paths
        for node in module.graph.find_nodes(op="get_attr", target=path)
        if set(node.users) != {value}
    )
    return None if shared or not all(has(module, path) for path in paths) else paths
