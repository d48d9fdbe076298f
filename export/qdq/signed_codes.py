"""Activations as INT8 for ``arm``: every UINT8 grid is written with codes and zero point that are 128 smaller.

The numbers are the same, bit for bit. ONNX Runtime's Arm kernels multiply INT8 by INT8 (docs/specs/compress.md, "Arm"):
with UINT8 codes they flip the highest bit of every code first, and convolutions have no product whose weights are
packed once.
"""

from __future__ import annotations

import onnx_ir as ir

from ..graph_edit import Numbers, add_constant, constant, every_node
from .write_qdq import is_qdq

SHIFT = 128
_WIDEST = 255
_ZERO_POINTS = (2, 4)
"""Inputs of a fake-quantize: its zero point, and the zero point by which its codes are read, if there is one."""


def store_signed(model: ir.Model) -> tuple[ir.Model, bool]:
    """Give every fake-quantize on ``[0, 255]`` the codes ``[-128, 127]``; runs before Q/DQ is written."""
    shifted: dict[ir.Value, ir.Value] = {}
    found = [node for node in every_node(model) if is_qdq(node) and _is_unsigned(node)]
    for node in found:
        node.attributes["qmin"] = ir.AttrInt64("qmin", -SHIFT)
        node.attributes["qmax"] = ir.AttrInt64("qmax", _WIDEST - SHIFT)
        for place in _ZERO_POINTS:
            zero = node.inputs[place] if place < len(node.inputs) else None
            numbers = constant(zero)
            if zero is not None and numbers is not None:
                node.replace_input_with(place, shifted.setdefault(zero, _less(model, zero, numbers)))
    return model, bool(found)


def _is_unsigned(node: ir.Node) -> bool:
    return (node.attributes["qmin"].as_int(), node.attributes["qmax"].as_int()) == (0, _WIDEST)


def _less(model: ir.Model, zero: ir.Value, numbers: Numbers) -> ir.Value:
    return add_constant(model, f"{zero.name or 'zero_point'}_signed", numbers.astype("int64") - SHIFT)
