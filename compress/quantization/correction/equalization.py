"""Cross-layer equalisation: channel ranges are balanced between two consecutive layers; FP32 outputs do not change."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from ....core.aten_names import CONVOLUTIONS, name_of
from ....core.console import SILENT, Console
from ....core.data.splits import Split, batches
from ...graph.devices import as_tensor
from ...graph.module_edit import Shapes, fetch, readers_of, shapes_of
from ...program import Program, device_of, evaluating
from ..copy_on_write import replace
from ..operator_classes import Weighted, clamp_bounds, operand, weighted

# Each of these gives s * f(x) for s * x, channel by channel, when s > 0.
_HOMOGENEOUS = ("relu", "leaky_relu", "max_pool1d", "max_pool2d", "avg_pool1d", "avg_pool2d", "dropout", "contiguous")
_POOLS = ("adaptive_avg_pool1d", "adaptive_avg_pool2d", "mean", "flatten", "constant_pad_nd")
_SMALLEST, _LARGEST = 1e-3, 1e3
_RELU = torch.ops.aten.relu.default


@dataclass(frozen=True)
class Pair:
    """Two layers between which every operator commutes with a positive factor per channel.

    Attributes:
        first: the layer that computes the channels.
        second: the only layer that reads them.
        clamps: clamps between them, such as ReLU6, which must have no effect on any sample.
    """

    first: Weighted
    second: Weighted
    clamps: tuple[fx.Node, ...]


def equalise(
    program: Program, split: Split, samples: int, batch_size: int = 32, console: Console = SILENT
) -> tuple[int, int]:
    """Equalise the channels between consecutive layers, in place (Nagel et al., 2019, section 4.1).

    Weights have a scale per output channel, so the range of the first layer's weight does not matter. In eq. 11 it is
    replaced by the range of the activation between the two layers, which has one scale for all channels: channel ``i``
    is divided by ``sqrt(max|x_i| / max|w_i|)``. If the second layer is depthwise, its weight has a scale per channel
    too, so all channels of its input get the same range. A clamp such as ReLU6 becomes a ReLU if no sample reached its
    upper limit.

    Args:
        program: folded, in evaluation mode, not yet quantized.
        split: calibration samples, of which at most ``samples`` are used.

    Returns:
        The number of equalised pairs, and the number of replaced clamps.
    """
    shapes = shapes_of(program)
    pairs = [pair for node in program.module.graph.nodes if (pair := _pair(node, shapes)) is not None]
    if not pairs:
        return 0, 0
    watched = {pair.second.data for pair in pairs}
    clamps = {clamp for pair in pairs for clamp in pair.clamps}
    largest, highest = _observe(program, watched, clamps, split, samples, batch_size, console)
    idle = {clamp for clamp in clamps if highest[clamp] <= clamp_bounds(clamp)[1]}  # type: ignore[index]
    pairs = [pair for pair in pairs if set(pair.clamps) <= idle]
    for clamp in {clamp for pair in pairs for clamp in pair.clamps}:
        clamp.target, clamp.args, clamp.kwargs = _RELU, (clamp.args[0],), {}
    for pair in pairs:
        _scale(program.module, pair, largest[pair.second.data])
    program.module.recompile()
    return len(pairs), len({clamp for pair in pairs for clamp in pair.clamps})


def _pair(node: fx.Node, shapes: Shapes) -> Pair | None:
    """The pair that ends in ``node``."""
    second = weighted(node)
    if second is None or _shared(second) or name_of(node) not in (*CONVOLUTIONS, "linear"):
        return None
    clamps: list[fx.Node] = []
    value = second.data
    while weighted(value) is None:
        if len(value.users) != 1 or not _passes(value, shapes):
            return None
        if name_of(value) not in (*_HOMOGENEOUS, *_POOLS):
            clamps.append(value)
        value = value.args[0]  # type: ignore[assignment]
    first = weighted(value)
    if first is None or _shared(first) or name_of(value) not in (*CONVOLUTIONS, "linear") or len(value.users) != 1:
        return None
    if operand(value, "bias") is not None and (first.bias is None or len(first.bias.users) != 1):
        return None
    return Pair(first, second, tuple(clamps)) if _same_axis(first, second, shapes) else None


def _shared(layer: Weighted) -> bool:
    return len(readers_of(layer.node.graph, str(layer.weight.target))) != 1


def _passes(node: fx.Node, shapes: Shapes) -> bool:
    if not node.args or not isinstance(node.args[0], fx.Node) or node.args[0] not in shapes:
        return False
    name, source = name_of(node), shapes[node.args[0]][0]
    if name == "mean":
        axes = operand(node, "dim")
        return bool(axes) and len(source) > 2 and all(int(axis) % len(source) >= 2 for axis in axes)
    if name == "flatten":
        return node in shapes and len(source) > 2 and source[:2] == shapes[node][0]
    if name == "constant_pad_nd":
        return operand(node, "value") == 0 and len(operand(node, "pad")) <= 2 * (len(source) - 2)
    bounds = clamp_bounds(node)
    return name in (*_HOMOGENEOUS, *_POOLS) or (bounds is not None and bounds[0] == 0)


def _same_axis(first: Weighted, second: Weighted, shapes: Shapes) -> bool:
    """Whether the output channels of the first layer are the input channels of the second."""
    given, taken = shapes[first.node][0], shapes[second.data][0]
    matrix = name_of(second.node) == "linear"
    axis = len(taken) - 1 if matrix else 1
    source = len(given) - 1 if name_of(first.node) == "linear" else 1
    if name_of(first.node) == "linear" or not matrix:
        return axis == source and len(given) == len(taken) and given[source] == taken[axis]
    return len(taken) == 2 and given[1] == taken[1]


def _observe(
    program: Program,
    watched: set[fx.Node],
    clamps: set[fx.Node],
    split: Split,
    samples: int,
    batch_size: int,
    console: Console,
) -> tuple[dict[fx.Node, torch.Tensor], dict[fx.Node, float]]:
    """Largest absolute value of each channel of the watched tensors, and the largest input of each clamp."""
    seen = _Channels(program.module, watched, clamps)
    device, total = device_of(program), min(samples, len(split))
    with evaluating(program), torch.inference_mode(), console.progress("equalise", total) as bar:
        for inputs, _ in batches(split, batch_size, samples):
            feeds = program.signature.validate(inputs)
            seen.run(*[as_tensor(value, device) for value in feeds.values()])
            bar.advance(program.signature.batch_size(feeds))
    return seen.largest, seen.highest


class _Channels(fx.Interpreter):
    def __init__(self, module: fx.GraphModule, watched: set[fx.Node], clamps: set[fx.Node]) -> None:
        super().__init__(module)
        self.watched = {node: weighted(user) for node in watched for user in node.users if weighted(user) is not None}
        self.sources = {clamp.args[0]: clamp for clamp in clamps}
        self.largest: dict[fx.Node, torch.Tensor] = {}
        self.highest: dict[fx.Node, float] = {}

    def run_node(self, n: fx.Node) -> Any:
        """Run a node and record its largest values."""
        value = super().run_node(n)
        if n in self.sources:
            clamp = self.sources[n]
            self.highest[clamp] = max(self.highest.get(clamp, 0.0), float(value.max()))
        reader = self.watched.get(n)
        if reader is not None:
            axis = value.dim() - 1 if name_of(reader.node) == "linear" else 1
            found = value.abs().amax([dim for dim in range(value.dim()) if dim != axis])
            self.largest[n] = torch.maximum(self.largest[n], found) if n in self.largest else found
        return value


def _scale(module: fx.GraphModule, pair: Pair, largest: torch.Tensor) -> None:
    """Divide the first layer's output channels by the factors, and multiply the second layer's weight by them."""
    weight = fetch(module, str(pair.second.weight.target))
    factors = _factors(pair.second, weight.detach(), largest.to(weight.dtype))
    first = fetch(module, str(pair.first.weight.target))
    replace(module, str(pair.first.weight.target), first / factors.reshape(-1, *[1] * (first.dim() - 1)))
    if pair.first.bias is not None:
        replace(module, str(pair.first.bias.target), fetch(module, str(pair.first.bias.target)) / factors)
    replace(module, str(pair.second.weight.target), weight * _columns(pair.second, weight, factors))


def _factors(second: Weighted, weight: torch.Tensor, largest: torch.Tensor) -> torch.Tensor:
    groups = _groups(second)
    inputs = weight.shape[1]
    if inputs == 1 and groups > 1:
        factors = largest.clone()
    else:
        blocks = weight.reshape(groups, weight.shape[0] // groups, inputs, -1).abs()
        factors = (largest / blocks.amax((1, 3)).reshape(-1).clamp_min(1e-12)).sqrt()
    alive = largest > 1e-12
    if not bool(alive.any()):
        return torch.ones_like(largest)
    factors = factors / factors[alive].log().mean().exp()
    return torch.where(alive, factors.clamp(_SMALLEST, _LARGEST), torch.ones_like(factors))


def _columns(second: Weighted, weight: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
    """The factors shaped like the weight of the layer that reads the channels."""
    groups = _groups(second)
    rows = factors.reshape(groups, 1, -1).expand(groups, weight.shape[0] // groups, -1)
    return rows.reshape(weight.shape[0], weight.shape[1], *[1] * (weight.dim() - 2))


def _groups(layer: Weighted) -> int:
    return int(operand(layer.node, "groups")) if name_of(layer.node) in CONVOLUTIONS else 1
