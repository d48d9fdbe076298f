"""Matrix products whose input is quantized at run time: each call computes one scale from the tensor's extremes.

This needs no calibration, and outliers in other samples cost no precision. But the extremes are computed on every call
and over the whole batch, so the result of a row depends on the other rows of the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import fx

from ...core.cpu_targets import is_for_cpu
from ...core.errors import UserError
from ...core.options.stage_options import QuantizeOptions, Target
from ..graph.module_edit import call_after
from ..program import Program
from .operator_classes import Weighted

_dynamic = torch.ops.retort.dynamic_qdq.default


def is_wanted(options: QuantizeOptions, target: Target) -> bool:
    """Whether the options select the dynamic form.

    Raises:
        UserError: the target does not support it.
    """
    if options.form == "dynamic" and not is_for_cpu(target):
        raise UserError(
            f"{target} does not support activations that are quantized at run time", "set `quantize.form: static`"
        )
    return options.form == "dynamic"


def quantize_inputs(program: Program, layers: Sequence[Weighted]) -> None:
    """Quantize the inputs of the layers at run time, in place; the signature then states that rows are dependent."""
    graph = program.module.graph
    made: dict[fx.Node, fx.Node] = {}
    for layer in layers:
        if layer.data not in made:
            last = graph.find_nodes(op="placeholder")[-1] if layer.data.op == "placeholder" else layer.data
            made[layer.data] = call_after(graph, last, _dynamic, (layer.data,))
        layer.node.replace_input_with(layer.data, made[layer.data])
    if layers:
        program.signature = replace(program.signature, batch_invariant=False)
