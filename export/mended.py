"""Forms that a runtime gets wrong, written in another way that says the same."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from .edit import add_constant, constant, dims, every_node, is_op


def keep_padding(model: ir.Model) -> tuple[ir.Model, bool]:
    """Name the axes of a padding in front of a maximum pooling.

    ONNX Runtime 1.31 folds a ``Pad`` with zeros into the ``MaxPool`` behind it, which pads with minus infinity: where a
    window at the border holds negative values alone, it gives another maximum. It leaves a ``Pad`` with axes as it is.
    """
    changed = False
    for node in every_node(model):
        if not is_op(node, "Pad") or not any(is_op(use.node, "MaxPool") for use in node.outputs[0].uses()):
            continue
        shape, pads = dims(node.inputs[0]), constant(node.inputs[1])
        if shape is None or pads is None or len(pads) != 2 * len(shape) or len(node.inputs) > 3:
            continue
        axes = add_constant(model, f"{node.outputs[0].name}_axes", np.arange(len(shape), dtype=np.int64))
        node.resize_inputs(4)
        node.replace_input_with(3, axes)
        changed = True
    return model, changed
