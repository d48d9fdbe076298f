"""Runs a quantized program and its FP32 form in parallel, node by node, so that each layer can be corrected."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import fx

from ....core.console import SILENT, Console
from ....core.data.splits import Split, batches
from ...graph.devices import as_tensor
from ...graph.module_edit import shapes_of
from ...program import Program, evaluating
from ..live_memory import all_bytes, live_bytes, with_ends
from ..operator_classes import rounds
from .layer_matrices import QuantizedLayer, quantized_layers

MEMORY_BYTES = 512 << 20
CHUNK = 8

Chunks = list[torch.Tensor]
Output = Callable[[], Chunks]
Visit = Callable[[QuantizedLayer, Chunks, Chunks, Output], None]
"""Receives a layer, its input in the quantized program, its output in the FP32 program, and a function that computes
the present output of the quantized layer; each has one tensor per chunk of samples."""


def feeds_of(program: Program, split: Split, most: int, room_bytes: int = MEMORY_BYTES) -> list[list[torch.Tensor]]:
    """Inputs of the first samples of a split, in chunks; as many as fit in memory with both forms' activations."""
    count = max(1, min(room_bytes, MEMORY_BYTES) // max(1, 2 * live_bytes(program)))
    return _chunks(program, split, min(most, count), CHUNK)


def small_feeds(program: Program, split: Split, most: int, room_bytes: int = MEMORY_BYTES) -> list[list[torch.Tensor]]:
    """Inputs of the first samples of a split, in chunks of which all activations of two forms fit in memory."""
    shapes = shapes_of(program)
    count = max(CHUNK, MEMORY_BYTES // max(1, 2 * live_bytes(program, shapes)))
    rows = max(1, min(CHUNK, room_bytes // max(1, 2 * all_bytes(program, shapes))))
    return _chunks(program, split, min(most, count), rows)


def _chunks(program: Program, split: Split, count: int, rows: int) -> list[list[torch.Tensor]]:
    return [
        [as_tensor(value, torch.device("cpu")) for value in program.signature.validate(inputs).values()]
        for inputs, _ in batches(split, rows, count)
    ]


class Form:
    """Runs one form of the program node by node and keeps the values that later nodes read.

    Args:
        program: the program, in evaluation mode.
        feeds: inputs by chunk.
        exact: treat fake-quantize nodes as the identity.
    """

    def __init__(self, program: Program, feeds: Sequence[Sequence[torch.Tensor]], exact: bool) -> None:
        self.module, self.exact, self.count = program.module, exact, len(feeds)
        self.values: dict[fx.Node, list[Any]] = {}
        holders = self.module.graph.find_nodes(op="placeholder")
        self.inputs = {node: [feed[index] for feed in feeds] for index, node in enumerate(holders)}

    def run(self, node: fx.Node) -> None:
        """Compute a node for every chunk; values that depend on no input are computed when they are read."""
        if node.op == "placeholder":
            self.values[node] = self.inputs[node]
        elif any(source in self.values for source in node.all_input_nodes):
            self.values[node] = self.compute(node)

    def compute(self, node: fx.Node) -> list[Any]:
        """A node's value for every chunk."""
        fixed: dict[fx.Node, Any] = {}
        return [self._call(node, chunk, fixed) for chunk in range(self.count)]

    def arguments(self, node: fx.Node, chunk: int) -> list[Any]:
        """The values of a node's positional arguments for one chunk."""
        fixed: dict[fx.Node, Any] = {}

        def _look(source: fx.Node) -> Any:
            return self.values[source][chunk] if source in self.values else self._fixed(source, fixed)

        values: Any = fx.map_arg(node.args, _look)
        return list(values)

    def _call(self, node: fx.Node, chunk: int, fixed: dict[fx.Node, Any]) -> Any:
        def _look(source: fx.Node) -> Any:
            return self.values[source][chunk] if source in self.values else self._fixed(source, fixed)

        if self.exact and rounds(node):
            return _look(node.args[0])  # type: ignore[arg-type]
        return _apply(node, _look)

    def _fixed(self, node: fx.Node, known: dict[fx.Node, Any]) -> Any:
        if node not in known:
            if node.op == "get_attr":
                value: Any = self.module
                for part in str(node.target).split("."):
                    value = getattr(value, part)
            elif self.exact and rounds(node):
                value = self._fixed(node.args[0], known)  # type: ignore[arg-type]
            else:
                value = _apply(node, lambda one: self._fixed(one, known))
            known[node] = value
        return known[node]


def _apply(node: fx.Node, look: Callable[[fx.Node], Any]) -> Any:
    args: Any = fx.map_arg(node.args, look)
    kwargs: Any = fx.map_arg(node.kwargs, look)
    return args if node.op == "output" else node.target(*args, **kwargs)  # type: ignore[operator]


def visit_layers(
    quantized: Program,
    reference: Program,
    feeds: Sequence[Sequence[torch.Tensor]],
    visit: Visit,
    label: str,
    console: Console = SILENT,
) -> None:
    """Call ``visit`` for every quantized layer, in graph order; it may change the layer's weight or bias.

    The input of a layer is computed with the already corrected layers before it, so later layers can compensate for
    the remaining error of earlier ones. Each form of the network runs once.

    Args:
        quantized: the program to correct.
        reference: the same graph with the FP32 weights; its fake-quantize nodes are treated as the identity.
        feeds: calibration inputs, see :func:`feeds_of`.
        visit: the correction of one layer.
        label: the label of the progress bar.
    """
    layers = {layer.node: layer for layer in quantized_layers(quantized.module)}
    with evaluating(quantized), evaluating(reference), torch.no_grad(), console.progress(label, len(layers)) as bar:
        forms = Form(quantized, feeds, exact=False), Form(reference, feeds, exact=True)
        pairs = zip(with_ends(quantized.module.graph), with_ends(reference.module.graph), strict=True)
        for (node, done), (counterpart, counterpart_done) in pairs:
            forms[1].run(counterpart)
            if node in layers and layers[node].data in forms[0].values:
                data, wanted = forms[0].values[layers[node].data], forms[1].values[counterpart]
                visit(layers[node], data, wanted, functools.partial(forms[0].compute, node))
                bar.advance(note=node.name)
            forms[0].run(node)
            for form, ended in zip(forms, (done, counterpart_done)):
                for item in ended:
                    form.values.pop(item, None)
