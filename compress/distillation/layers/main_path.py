"""The main path of a program: the values through which everything learned flows, such as the ends of its blocks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import fx

from ....core.aten_names import ATTENTION, RECURRENT, operator_name
from ....core.errors import ModelError
from ....core.tensors import BATCH
from ...graph.node_values import NodeValue, find_node, node_values
from ...program import Program
from ...training.losses import prediction_spec

Kind = Literal["map", "tokens", "vector"]
_LAST = ("linear", "layer_norm", "rms_norm", "embedding", "matmul", "mm", "addmm", ATTENTION, *RECURRENT)
"""Operators whose channels are on the last axis."""
_FIRST = ("conv", "batch_norm", "instance_norm", "group_norm", "pool", "upsample", "interpolate", "pixel_shuffle")
"""Beginnings or parts of the names of operators whose channels are on axis 1."""
_RANDOM = ("dropout", "feature_dropout", "alpha_dropout")
_KINDS: dict[int, Kind] = {2: "vector", 3: "tokens", 4: "map"}


@dataclass(frozen=True)
class Layer:
    """A value that can be compared with one of another model.

    Attributes:
        name: of its node.
        path: of the user's module; empty if unknown.
        kind: feature maps of images, sequences, or one vector per sample.
        shape: with the batch on axis 0.
        channel_axis: the axis of the channels.
    """

    name: str
    path: str
    kind: Kind
    shape: tuple[int | str, ...]
    channel_axis: int

    @property
    def width(self) -> int:
        """Number of channels."""
        return int(self.shape[self.channel_axis])

    @property
    def resolution(self) -> tuple[int | str, ...]:
        """Sizes of the axes that are neither the batch nor the channels."""
        return tuple(size for axis, size in enumerate(self.shape) if axis not in (0, self.channel_axis))

    def describe(self) -> str:
        """``layer1.1 [batch, 16, 8, 8]``."""
        return f"{self.path or self.name} [{', '.join(str(size) for size in self.shape)}]"


def layer_at(program: Program, name: str, whose: str) -> Layer:
    """The layer with a module path or a node's name.

    Args:
        whose: ``the student`` or ``the teacher``, for messages.

    Raises:
        ModelError: there is none, or its value has no batch or no channels.
    """
    node = find_node(program, name, whose)
    value = next((value for value in node_values(program) if value.name == node.name), None)
    found = None if value is None else as_layer(node, value)
    if found is None:
        shown = value.describe() if value is not None else name
        raise ModelError(
            f"layer {shown} of {whose} cannot be compared: it is not a vector, a sequence or a feature map of each "
            "sample",
            "name another layer; `retort show MODEL --nodes` lists them with their shapes",
        )
    return found


def as_layer(node: fx.Node, value: NodeValue) -> Layer | None:
    """The value of a node as a layer; None if it has no batch on axis 0, no channels or a rank other than 2 to 4."""
    kind = _KINDS.get(len(value.shape))
    if kind is None or not value.floating or value.shape[0] != BATCH:
        return None
    axis = channel_axis(node, len(value.shape))
    return Layer(value.name, value.path, kind, value.shape, axis) if isinstance(value.shape[axis], int) else None


def channel_axis(node: fx.Node, rank: int) -> int:
    """The axis of the channels of a node's value: that of the layer from which the value comes."""
    if rank == 2:
        return 1
    turned = False
    while True:
        name = operator_name(node)
        if name in _LAST or any(part in name for part in _FIRST):
            first = any(part in name for part in _FIRST)
            return 1 if first != turned else rank - 1
        if name in ("transpose", "permute"):
            turned = not turned
        sources = [source for source in node.all_input_nodes if source.op == "call_function"]
        if not sources:
            return rank - 1 if rank == 3 else 1
        node = sources[0]


def main_path(program: Program) -> list[fx.Node]:
    """Nodes through which every path from the inputs through parameters to the prediction goes, in order.

    Values that depend on no parameter, such as attention masks, may pass by. Inside a residual block or an attention
    there is no such node; its end is one.
    """
    order = [node for node in program.module.graph.nodes if node.op in ("call_function", "placeholder")]
    place = {node: number for number, node in enumerate(order)}
    learned = _learned(program)
    result, furthest = [], -1
    for node in order:
        users = [place[user] for user in node.users if user in learned]
        if node.op == "placeholder":
            users = [place[user] for user in node.users if user in learned and _has_parameters(user)]
        elif node not in learned:
            continue
        elif furthest <= place[node]:
            result.append(node)
        furthest = max([furthest, *users])
    return result


def _has_parameters(node: fx.Node) -> bool:
    return any(source.op == "get_attr" for source in node.all_input_nodes)


def _learned(program: Program) -> set[fx.Node]:
    """Nodes that depend on an input and on a parameter, and on which the prediction depends."""
    graph = program.module.graph
    from_input: set[fx.Node] = set()
    from_weights: set[fx.Node] = set()
    for node in graph.nodes:
        sources = node.all_input_nodes
        if node.op == "placeholder" or any(source in from_input for source in sources):
            from_input.add(node)
        if node.op == "get_attr" or any(source in from_weights for source in sources):
            from_weights.add(node)
    names = [spec.name for spec in program.signature.outputs]
    values = graph.output_node().args[0]
    assert isinstance(values, tuple | list)
    left = [values[names.index(prediction_spec(program.signature).name)]]
    needed: set[fx.Node] = set()
    while left:
        node = left.pop()
        if isinstance(node, fx.Node) and node not in needed:
            needed.add(node)
            left.extend(node.all_input_nodes)
    return {node for node in needed & from_input & from_weights if node.op == "call_function"}


def without_dropout(node: fx.Node) -> fx.Node:
    """The node, or what a dropout reads: in training its own value is random."""
    while operator_name(node) in _RANDOM and node.all_input_nodes:
        node = node.all_input_nodes[0]
    return node
