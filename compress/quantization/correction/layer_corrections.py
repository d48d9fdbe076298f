"""Corrections of single layers, which :func:`.layerwise.visit_layers` calls: rounding of weights, and biases."""

from __future__ import annotations

import numpy as np
import torch
from torch import fx

from ....core.console import Console
from ....core.counts import counted
from ...graph.module_edit import fetch, readers_of
from ...program import Program
from ..copy_on_write import replace
from ..memory_budget import why_left_out
from ..operator_classes import is_qdq
from .gram import Rows, statistics_of
from .layer_matrices import QuantizedLayer, channel_axis, is_matrix, quantized_layers
from .layerwise import Chunks, Output
from .rounding import improve


def _is_shared(graph: fx.Graph, path: str) -> bool:
    """Whether several nodes read a weight or its quantized form: layers, or a layer and an embedding."""
    readers = readers_of(graph, path)
    return len(readers) > 1 or any(is_qdq(node) and len(node.users) > 1 for node in readers)


class Rounding:
    """Improves the rounding of the weights, one layer after the other."""

    def __init__(self, program: Program, exact: Program, method: str, room_bytes: int, console: Console) -> None:
        self.module, self.exact, self.method = program.module, exact.module, method
        self.room_bytes, self.console = room_bytes, console
        self.without: dict[str, str] = {}
        paths = [layer.weight for layer in quantized_layers(program.module)]
        self.shared = {path for path in paths if _is_shared(program.module.graph, path)}
        self.shares: list[float] = []

    def __call__(self, layer: QuantizedLayer, data: Chunks, wanted: Chunks, output: Output) -> None:
        if layer.weight in self.shared or not is_matrix(layer):
            return
        name = layer.weight.rpartition(".")[0] or layer.node.name
        try:
            statistics = statistics_of(layer, self.module, data, wanted, self.room_bytes)
            if isinstance(statistics, str):
                self._leave_out(name, statistics)
            elif isinstance(statistics, Rows) and self.method == "adaround":
                self.without[name] = "too many inputs for AdaRound"
            else:
                share = improve(layer, self.module, fetch(self.exact, layer.weight), statistics, self.method)
                self.shares.append(share)
        except (MemoryError, RuntimeError) as error:
            self._leave_out(name, why_left_out(error))

    def _leave_out(self, layer: str, reason: str) -> None:
        self.without[layer] = reason
        self.console.warn(f"{self.method} leaves out {layer}: {reason}")

    @property
    def detail(self) -> str:
        """What was done."""
        share = 100 * float(np.mean(self.shares)) if self.shares else 0.0
        rest = "; ".join(f"without {layer}: {reason}" for layer, reason in self.without.items())
        return f"{counted(self.shares, 'layer')}, {share:.0f} % of the channels" + (f"; {rest}" if rest else "")


class Bias:
    """Corrects the bias by the mean error of each channel (Nagel et al., 2019, section 4.2, empirical form)."""

    def __init__(self, program: Program) -> None:
        self.module = program.module
        self.count = 0

    def __call__(self, layer: QuantizedLayer, data: Chunks, wanted: Chunks, output: Output) -> None:
        if layer.bias is None or fetch(self.module, layer.bias).dim() != 1:
            return
        shift, count = torch.zeros(()), 0
        for left, right in zip(output(), wanted):
            error = right - left
            axis = channel_axis(layer, error.dim())
            dims = [dim for dim in range(error.dim()) if dim != axis]
            shift = shift + error.sum(dims)
            count += error.numel() // error.shape[axis]
        bias = fetch(self.module, layer.bias)
        replace(self.module, layer.bias, bias + (shift / count).to(bias.dtype))
        self.count += 1

    @property
    def detail(self) -> str:
        """What was done."""
        return counted(self.count, "bias")
