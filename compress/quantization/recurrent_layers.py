"""Recurrent layers: their weight matrices become INT8, with one scale per row; activations stay in floating point.

No runtime has a recurrent kernel with fixed activation scales. The exporter chooses the kernel for ``cpu`` and
``arm`` by the rule of :mod:`retort.core.dynamic_kernels`. TensorRT computes recurrent layers in floating point, so
nothing changes for it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import fx

from ...core.aten_names import RECURRENT, name_of
from ...core.cpu_targets import is_for_cpu
from ...core.dynamic_kernels import LEAST_HIDDEN, form_on, runs_in_integers
from ...core.options.stage_options import QuantizeOptions, Target
from ..graph.module_edit import Shapes, fetch, free_path, put
from ..program import Program
from .operator_classes import operand
from .scheme import WEIGHT_MAX, weight_scales

Facts = dict[str, dict[str, object]]
_qdq = torch.ops.retort.qdq.default
_MATRIX = 2


@dataclass(frozen=True)
class Recurrent:
    """A recurrent layer with constant weights.

    Attributes:
        node: the layer, with all its sublayers and directions.
        weights: ``get_attr`` nodes of its matrices, ``[gates · H, inputs]`` each.
        hidden: size of its hidden state.
        target: the target, which determines the kernel.
    """

    node: fx.Node
    weights: tuple[fx.Node, ...]
    hidden: int
    target: Target = "cpu"

    @property
    def kind(self) -> str:
        """``lstm``, ``gru`` …"""
        return name_of(self.node)

    @property
    def integer(self) -> bool:
        """Whether the exporter chooses an integer kernel for it."""
        return runs_in_integers(self.kind, self.hidden, form_on(self.target))


def recurrent(node: fx.Node, target: Target, shapes: Shapes) -> Recurrent | None:
    """``node`` as a recurrent layer whose weights can be INT8 on the target; None for other nodes."""
    if not is_for_cpu(target) or name_of(node) not in RECURRENT:
        return None
    weights = [item for item in operand(node, "params") if isinstance(item, fx.Node)]
    if projects(node):  # its recurrent matrix is a product of two matrices, which is computed at export
        return None
    if any(item.op != "get_attr" or shapes[item][1] != torch.float32 for item in weights):
        return None
    matrices = tuple(item for item in weights if len(shapes[item][0]) == _MATRIX)
    return Recurrent(node, matrices, int(shapes[matrices[1]][0][1]), target) if len(matrices) > 1 else None


def projects(node: fx.Node) -> bool:
    """Whether an LSTM's states are projected (``proj_size``)."""
    ways = int(operand(node, "num_layers")) * (2 if operand(node, "bidirectional") else 1)
    return len(operand(node, "params")) // ways > (4 if operand(node, "has_biases") else 2)


def module_of(node: fx.Node) -> str:
    """The name of a recurrent layer in the user's model; empty for other nodes."""
    if name_of(node) not in RECURRENT:
        return ""
    first: fx.Node = operand(node, "params")[0]
    while first.op != "get_attr" and first.all_input_nodes:
        first = first.all_input_nodes[0]
    return str(first.target).rpartition(".")[0] if first.op == "get_attr" else ""


def why_floating(layer: Recurrent) -> str:
    """The reason why a layer with INT8 weights computes in floating point."""
    if layer.kind not in LEAST_HIDDEN:
        return (
            "weights are INT8 in the file and FP32 at run time, because ONNX Runtime has no integer kernel for "
            f"{layer.kind}"
        )
    if layer.target == "arm":
        return (
            "weights are INT8 in the file and FP32 at run time, because the speed of integer kernels was not measured "
            "on Arm (to use them anyway: export.recurrent: integer)"
        )
    return (
        "weights are INT8 in the file and FP32 at run time, because integer kernels are slower at batch 1 below "
        f"{LEAST_HIDDEN[layer.kind]} hidden units (to use them anyway: export.recurrent: integer)"
    )


def quantize_recurrent(program: Program, layers: list[Recurrent], options: QuantizeOptions) -> Facts:
    """Put a fake-quantize on every weight matrix of the layers, in place.

    Returns:
        For each scale buffer, the parameter and its axis, as in ``meta["quantization"]["weights"]``.

    Raises:
        ModelError: a weight has NaN or infinite values.
    """
    limit, module = 2 ** (options.weight_bits - 1) - 1, program.module
    facts: Facts = {}
    made: dict[str, fx.Node] = {}
    for layer in layers:
        for weight in layer.weights:
            name = str(weight.target)
            if name not in made:
                made[name] = round_rows(module, layer.node, name, limit, facts)
            layer.node.replace_input_with(weight, made[name])
    module.recompile()
    return facts


def round_rows(
    module: fx.GraphModule, reader: fx.Node, name: str, limit: int, facts: Facts, suffix: str = ""
) -> fx.Node:
    """Insert a fake-quantize of a parameter, with one scale per row, before the node that reads it.

    Args:
        limit: largest code.
        facts: the scale buffer is added to it, with its parameter and axis.
        suffix: appended to the buffers' name if a parameter is quantized for several uses.
    """
    scales = weight_scales(fetch(module, name), 0, None, 1.0, name) * (WEIGHT_MAX / limit)
    path = free_path(module, f"quantization.{name.replace('.', '_')}{suffix}")
    put(module, f"{path}.scale", scales)
    put(module, f"{path}.zero_point", torch.zeros(scales.shape, dtype=torch.int64))
    facts[f"{path}.scale"] = {"parameter": name, "axis": 0}
    with module.graph.inserting_before(reader):
        source = module.graph.get_attr(name)
        scale, zero = module.graph.get_attr(f"{path}.scale"), module.graph.get_attr(f"{path}.zero_point")
        return module.graph.create_node("call_function", _qdq, (source, scale, zero, 0, -limit, limit))
