"""Prevents ONNX Runtime from quantizing the layers that stay in floating point.

Its WeightBiasQuantization pass converts every convolution, transposed convolution and Gemm with an FP32 weight between
a DequantizeLinear and a QuantizeLinear (a Relu or Clip may follow it) to INT8 with one scale for the whole weight. An
excluded layer would silently lose accuracy, and a transposed convolution, which has no integer kernel, would dequantize
its weight on every run. The pass does not match if a Max is in between, and no pass removes a Max.
"""

from __future__ import annotations

import torch
from torch import fx

from ....core.aten_names import CONVOLUTIONS, TRANSPOSED, name_of
from ...graph.module_edit import call_after, put
from ..operator_classes import is_qdq
from ..points import Placement, source_of

_TOUCHED = (*CONVOLUTIONS, *TRANSPOSED, "linear", "addmm")
_maximum = torch.ops.aten.maximum.default
LOWEST = "quantization.lowest"
ZERO = "quantization.zero"


def guard_floats(module: fx.GraphModule, placement: Placement) -> None:
    """Insert a maximum after each floating-point layer between two fake-quantize nodes; it replaces a ReLU there."""
    for node in placement.floating:
        if name_of(node) not in _TOUCHED or not is_qdq(source_of(node.all_input_nodes[0])):
            continue
        readers = list(node.users)
        if len(readers) != 1:
            continue
        rectified = name_of(readers[0]) == "relu"
        end = list(readers[0].users) if name_of(readers[0]) in ("relu", "relu6", "hardtanh", "clamp") else readers
        if len(end) != 1 or not is_qdq(end[0]):
            continue
        _guard(module, node, readers[0] if rectified else None)


def _guard(module: fx.GraphModule, node: fx.Node, relu: fx.Node | None) -> None:
    path = ZERO if relu is not None else LOWEST
    put(module, path, torch.tensor(0.0 if relu is not None else torch.finfo(torch.float32).min))
    with module.graph.inserting_before(node):
        floor = module.graph.get_attr(path)
    replaced = node if relu is None else relu
    readers = set(replaced.users)
    limited = call_after(module.graph, node, _maximum, (node, floor))
    replaced.replace_all_uses_with(limited, lambda user: user in readers)
    if relu is not None:
        module.graph.erase_node(relu)
