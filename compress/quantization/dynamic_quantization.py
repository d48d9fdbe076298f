"""Matrix products whose input is quantized while the model runs: one grid per tensor and call, from its extremes.

Nothing has to be calibrated, and no outlier of another sample costs a code; but the extremes are searched on every
call, and they are those of the whole batch, so that a row's result depends on the rows beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import fx

from ...core.errors import UserError
from ...core.options.stage_options import QuantizeOptions, Target
from ..program import Program
from .module_edit import call_after
from .operator_classes import Weighted

_dynamic = torch.ops.retort.dynamic_qdq.default


def is_wanted(options: QuantizeOptions, target: Target) -> bool:
    """Whether the options ask for the dynamic form.

    Raises:
        UserError: the target does not run it.
    """
    if options.form == "dynamic" and target != "cpu":
        raise UserError(
            f"{target} runs no activations that are quantized while the model runs", "set `quantize.form: static`"
        )
    return options.form == "dynamic"


def quantize_inputs(program: Program, layers: Sequence[Weighted]) -> None:
    """Round what goes into the layers to the grid of its own extremes, in place; the signature says what follows."""
    graph = program.module.graph
    made: dict[fx.Node, fx.Node] = {}
    for layer in layers:
        if layer.data not in made:
            last = graph.find_nodes(op="placeholder")[-1] if layer.data.op == "placeholder" else layer.data
            made[layer.data] = call_after(graph, last, _dynamic, (layer.data,))
        layer.node.replace_input_with(layer.data, made[layer.data])
    if layers:
        program.signature = replace(program.signature, batch_invariant=False)
