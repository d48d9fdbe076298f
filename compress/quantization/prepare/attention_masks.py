"""Attention masks that CPUs compute fast: masked scores are lowered by a moderate number, not by the largest one.

A masked score of -3.4e38 becomes a weight of about 1e-39 in ONNX Runtime's softmax. Such a denormal number slows down
the softmax and the following product: by a factor of six with 64 tokens of which a third is padding. A masked score 40
to 60 below the largest of its row becomes a weight between 1e-26 and 1e-18, which is negligible and fast, also in
products with small values; at 84 below, an encoder took twice as long. Calibration measures the range of the scores,
from which the amount is computed. That masked scores stay 40 below the largest has priority over speed.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import fx

from ....core.aten_names import ATTENTION, name_of
from ....core.console import SILENT, Console
from ....core.data.splits import Split, batches
from ....core.options.stage_options import QuantizeOptions
from ...graph.devices import as_tensor
from ...graph.module_edit import call_after, shapes_of
from ...program import Program, device_of, evaluating
from ..operator_classes import operand
from .batch_norm_folding import finish

_aten = torch.ops.aten
SAMPLES = 32
NORMAL = 60.0
"""Largest fast distance: exp(-87) is the smallest normal number, and products with the values must be normal too."""
MARGIN = 40.0
"""Smallest distance of a masked score from the largest score of its row, by the scores seen in calibration."""


def soften_masks(
    program: Program, split: Split, options: QuantizeOptions, console: Console = SILENT
) -> dict[str, float]:
    """Replace boolean attention masks by numbers that are added to the scores, in place.

    Args:
        program: FP32, in evaluation mode.
        split: calibration samples, of which at most 32 are read.
        options: number of samples and batch size.
        console: shows progress.

    Returns:
        For each mask, the amount by which masked scores are lowered.
    """
    shapes = shapes_of(program)
    masked: dict[fx.Node, list[fx.Node]] = {}
    for node in program.module.graph.nodes:
        mask = operand(node, "attn_mask") if name_of(node) == ATTENTION else None
        if isinstance(mask, fx.Node) and shapes[mask][1] == torch.bool and shapes[node][1] == torch.float32:
            masked.setdefault(mask, []).append(node)
    if not masked:
        return {}
    gaps = _measured(program, split, options, console)
    done = {}
    for mask, nodes in masked.items():
        safe = max(gaps[node].above for node in nodes) + MARGIN
        fast = NORMAL - max(gaps[node].below for node in nodes)
        done[mask.name] = round(max(safe, fast), 2)
        _write(program.module, mask, nodes, done[mask.name])
    finish(program)
    return done


class _Gap:
    """Largest distance of masked scores above and below the largest unmasked score of their row."""

    def __init__(self) -> None:
        self.above = self.below = 0.0

    def update(self, scores: torch.Tensor, mask: torch.Tensor) -> None:
        """Record scores ``[..., L, S]``; rows that are completely masked, or not masked at all, are ignored."""
        mask = mask.expand(scores.shape)
        largest = scores.masked_fill(~mask, -math.inf).amax(-1, keepdim=True)
        distance = torch.where(mask | ~torch.isfinite(largest), 0.0, scores - largest)
        self.above = max(self.above, float(distance.max()))
        self.below = max(self.below, -float(distance.min()))


class _Scores(fx.Interpreter):
    def __init__(self, module: fx.GraphModule, gaps: dict[fx.Node, _Gap]) -> None:
        super().__init__(module)
        self._gaps = gaps

    def run_node(self, n: fx.Node) -> Any:
        """Run a node; for a masked attention, record its scores before."""
        if name_of(n) == ATTENTION and isinstance(operand(n, "attn_mask"), fx.Node):
            query, key, mask = (self.env[operand(n, name)] for name in ("query", "key", "attn_mask"))
            if mask.dtype == torch.bool and query.shape[1] % key.shape[1] == 0:
                key = key.repeat_interleave(query.shape[1] // key.shape[1], 1) if query.dim() == 4 else key
                factor = operand(n, "scale") or query.shape[-1] ** -0.5
                self._gaps.setdefault(n, _Gap()).update(query @ key.transpose(-2, -1) * factor, mask)
        return super().run_node(n)


def _measured(program: Program, split: Split, options: QuantizeOptions, console: Console) -> dict[fx.Node, _Gap]:
    gaps: dict[fx.Node, _Gap] = {}
    device, total = device_of(program), min(len(split), options.samples, SAMPLES)
    with evaluating(program), torch.inference_mode(), console.progress("masks", total) as bar:
        for inputs, _ in batches(split, options.batch_size, total):
            feeds = program.signature.validate(inputs)
            _Scores(program.module, gaps).run(*(as_tensor(value, device) for value in feeds.values()))
            bar.advance(program.signature.batch_size(feeds))
    return gaps


def _write(module: fx.GraphModule, mask: fx.Node, nodes: list[fx.Node], amount: float) -> None:
    """Make the attentions read ``0`` where the mask is true and ``-amount`` where it is false.

    Minus infinity throughout a row that attends to nothing keeps its result at zero, as a boolean mask does.
    """
    graph = module.graph
    inverse = call_after(graph, mask, _aten.logical_not.default, (mask,))
    numbers = call_after(graph, inverse, _aten._to_copy.default, (inverse,))
    numbers.kwargs = {"dtype": torch.float32}
    lowered = call_after(graph, numbers, _aten.mul.Scalar, (numbers, -amount))
    attends = call_after(graph, lowered, _aten.any.dim, (mask, -1, True))
    nothing = call_after(graph, attends, _aten.logical_not.default, (attends,))
    added = call_after(graph, nothing, _aten.masked_fill.Scalar, (lowered, nothing, -math.inf))
    for node in nodes:
        node.replace_input_with(mask, added)
