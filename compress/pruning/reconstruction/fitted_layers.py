"""The layers whose weights can be fitted again after a cut, and what happens to their outputs until they are added."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from ....core.aten_names import CONVOLUTIONS, MATRIX_LAYERS, OPERANDS, TRANSPOSED, TURNS, operator_name
from ...graph.module_edit import fetch, readers_of
from ...graph.train_eval_mode import argument
from ..coupling.shapes import bind

_SPATIAL = (*CONVOLUTIONS, *TRANSPOSED)
_PASSING = ("dropout", "feature_dropout", "clone", "contiguous", "alias")


@dataclass(frozen=True)
class FittedLayer:
    """A convolution, transposed or not, or a linear layer.

    Attributes:
        node: the layer.
        data: name of the node that computes its input.
        weight: path of its weight.
        bias: path of its bias, if it has one.
        turned: whether the weight is stored as ``[K, O]``.
        norm: the batch normalisation after it, which takes the intercept if there is no bias.
        other: name of the value that is added to the layer's output, if it is computed before the layer.
        scales: nodes between the layer and that sum which multiply channels: normalisations and layer scales.
    """

    node: fx.Node
    data: str
    weight: str
    bias: str | None
    turned: bool
    norm: fx.Node | None
    other: str | None
    scales: tuple[fx.Node, ...]

    @property
    def shifts(self) -> bool:
        """Whether an intercept can be added to the output: as a bias, or in the mean of the normalisation."""
        return self.bias is not None or self.norm is not None

    @property
    def axis(self) -> int:
        """The axis of the output's channels."""
        return 1 if operator_name(self.node) in _SPATIAL else -1

    @property
    def groups(self) -> int:
        """Number of groups, whose outputs read different inputs."""
        return int(argument(self.node, "groups")) if operator_name(self.node) in _SPATIAL else 1

    @property
    def transposed(self) -> bool:
        """Whether it is a transposed convolution: one of its input with zeros in between, by the reversed kernel."""
        return operator_name(self.node) in TRANSPOSED


def fitted_layers(module: fx.GraphModule) -> list[FittedLayer]:
    """All convolutions and linear layers with a constant weight that no other layer uses, in graph order."""
    places = {node: place for place, node in enumerate(module.graph.nodes)}
    owners: dict[int, set[str]] = {}
    for name, tensor in (
        *module.named_parameters(remove_duplicate=False),
        *module.named_buffers(remove_duplicate=False),
    ):
        owners.setdefault(id(tensor), set()).add(name)
    found = [layer for node in module.graph.nodes if (layer := _layer(module, node, places)) is not None]
    return [layer for layer in found if len(owners[id(fetch(module, layer.weight))]) == 1]


def _layer(module: fx.GraphModule, node: fx.Node, places: dict[fx.Node, int]) -> FittedLayer | None:
    kind = operator_name(node)
    if node.op != "call_function" or kind not in (*_SPATIAL, *MATRIX_LAYERS):
        return None
    names, given = OPERANDS[kind], bind(node)
    data, weight, bias = given[names.data], given[names.weight], given.get(names.bias) if names.bias else None
    turned = kind not in (*_SPATIAL, "linear")
    if isinstance(weight, fx.Node) and operator_name(weight) in TURNS and isinstance(weight.args[0], fx.Node):
        weight, turned = weight.args[0], not turned
    path = _own(module, weight)
    if path is None or not isinstance(data, fx.Node) or data.op == "get_attr":
        return None
    tensor = fetch(module, path)
    rank = tensor.dim() - 2
    if rank < 0 or not tensor.is_floating_point() or (rank > 0 and kind not in _SPATIAL):
        return None
    offset = _own(module, bias)
    if bias is not None and (offset is None or fetch(module, offset).dim() != 1):
        return None
    if given.get("alpha", 1) != 1 or given.get("beta", 1) != 1:
        return None
    scales, other = _settled(module, node, rank if kind in _SPATIAL else 0, places)
    return FittedLayer(node, data.name, path, offset, turned, _norm(module, scales), other, tuple(scales))


def _own(module: fx.GraphModule, item: object) -> str | None:
    """The path of a parameter that has one reader."""
    if not isinstance(item, fx.Node) or item.op != "get_attr":
        return None
    path = str(item.target)
    return path if len(readers_of(module.graph, path)) == 1 else None


def _norm(module: fx.GraphModule, scales: list[fx.Node]) -> fx.Node | None:
    """The batch normalisation directly after a layer, if its mean can be changed."""
    if not scales or operator_name(scales[0]) != "batch_norm":
        return None
    return scales[0] if _own(module, bind(scales[0])["running_mean"]) is not None else None


def _settled(
    module: fx.GraphModule, node: fx.Node, rank: int, places: dict[fx.Node, int]
) -> tuple[list[fx.Node], str | None]:
    """The operators per channel after a layer, and the value that is added then, if it is known before the layer."""
    scales: list[fx.Node] = []
    value = node
    while len(value.users) == 1:
        user = next(iter(value.users))
        kind = operator_name(user)
        if kind in ("batch_norm", "mul") and _scales_channels(module, value, user, rank):
            scales.append(user)
        elif kind == "add" and bind(user).get("alpha", 1) == 1:
            sides = [item for item in user.args if isinstance(item, fx.Node) and item is not value]
            known = len(sides) == 1 and sides[0].op != "get_attr" and places[sides[0]] < places[node]
            return scales, sides[0].name if known else None
        elif kind not in _PASSING:
            break
        value = user
    return scales, None


def _scales_channels(module: fx.GraphModule, value: fx.Node, user: fx.Node, rank: int) -> bool:
    """Whether an operator multiplies every channel by a constant, and may add another; ``rank`` dimensions follow."""
    if operator_name(user) == "batch_norm":
        known = bind(user)["running_var"] is not None and not argument(user, "training")
        return user.args[0] is value and known
    factors = [item for item in user.args if isinstance(item, fx.Node) and item.op == "get_attr"]
    if len(factors) != 1:
        return False
    shape = fetch(module, str(factors[0].target)).shape
    place = len(shape) - 1 - rank
    return math.prod(shape) == 1 or (place >= 0 and shape[place] == math.prod(shape))


def scale_of(module: fx.GraphModule, layer: FittedLayer) -> Tensor:
    """The factor of every output channel between the layer and the sum, broadcastable to the channels."""
    scale = torch.ones((), dtype=torch.float64)
    for node in layer.scales:
        scale = (
            scale * norm_scale(module, node) if operator_name(node) == "batch_norm" else scale * _factor(module, node)
        )
    return scale


def _factor(module: fx.GraphModule, node: fx.Node) -> Tensor:
    path = next(str(item.target) for item in node.args if isinstance(item, fx.Node) and item.op == "get_attr")
    return fetch(module, path).detach().double().reshape(-1)


def norm_scale(module: fx.GraphModule, node: fx.Node) -> Tensor:
    """``weight / sqrt(variance + eps)`` of a batch normalisation in evaluation mode."""
    given = bind(node)
    variance = fetch(module, str(given["running_var"].target)).double()
    scale = (variance + float(given["eps"])).rsqrt()
    return (
        scale * fetch(module, str(given["weight"].target)).detach().double() if given["weight"] is not None else scale
    )


def as_groups(layer: FittedLayer, weight: Tensor) -> Tensor:
    """A weight as ``[G, O, K]``, in double precision; a kernel of a transposed convolution is reversed."""
    value = weight.detach().double()
    if layer.transposed:
        return _swapped(value, layer.groups).reshape(layer.groups, weight.shape[1], -1)
    if layer.turned:
        value = value.T
    return value.reshape(layer.groups, len(value) // layer.groups, -1)


def from_groups(layer: FittedLayer, matrix: Tensor, like: Tensor) -> Tensor:
    """Inverse of :func:`as_groups`."""
    if layer.transposed:
        outputs, inputs = like.shape[1], like.shape[0] // layer.groups
        rows = matrix.reshape(layer.groups * outputs, inputs, *like.shape[2:])
        return _swapped(rows, layer.groups).to(like.dtype)
    flat = matrix.reshape(-1, matrix.shape[2])
    return (flat.T if layer.turned else flat).reshape(like.shape).to(like.dtype)


def _swapped(weight: Tensor, groups: int) -> Tensor:
    """``[G · A, B, kernel…]`` as ``[G · B, A, reversed kernel…]``."""
    parts = weight.reshape(groups, -1, *weight.shape[1:]).transpose(1, 2)
    return parts.reshape(-1, *parts.shape[2:]).flip(list(range(2, weight.dim())))
