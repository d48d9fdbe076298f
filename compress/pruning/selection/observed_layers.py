"""Second moments of the inputs of layers, and squared gradients of their outputs, summed over samples in one pass."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from ....core.errors import DataError
from ....core.options.stage_options import Task
from ...program import Program
from ...training.losses import Tensors, classes_second, has_classes
from ..coupling.groups import Grouping
from ..coupling.labels import Ids, Value, core, varying
from ..reconstruction.fitted_layers import FittedLayer, fitted_layers

LARGEST = 2304
"""Largest number of channels of which second moments are computed; channels of wider layers replace none."""
_ROWS_PER_CHANNEL = 12
_FEWEST_ROWS = 2048
_HELD_OUT_EVERY = 4


@dataclass
class ObservedLayer:
    """What is summed for a layer: second moments of its inputs (fitted, held out), and of the gradients.

    Attributes:
        layer: the layer.
        roots: class of every input channel.
        slopes: sum of the squared gradient of every output over all positions.
        own: the same of the gradient times the output.
        moments: ``[K, K]`` or, for wide layers, ``[K]``, twice: to fit, and held out.
        rows: number of rows in each.
    """

    layer: FittedLayer
    roots: Ids
    slopes: Tensor | float = 0.0
    own: Tensor | float = 0.0
    moments: list[Tensor] = field(default_factory=lambda: [torch.zeros(()), torch.zeros(())])
    rows: list[int] = field(default_factory=lambda: [0, 0])

    @property
    def wide(self) -> bool:
        """Whether the layer has too many channels for a square matrix."""
        return len(self.roots) > LARGEST

    def add(self, source: Tensor, place: int, most: int, draw: torch.Generator) -> None:
        """Add the rows of one batch."""
        flat = source.detach().movedim(self.layer.axis, -1)
        rows = flat.reshape(-1, flat.shape[-1])
        if len(rows) > most:
            rows = rows[torch.randperm(len(rows), generator=draw)[:most]]
        rows = rows.double() if self.wide else rows.float()
        found = rows.square().sum(0) if self.wide else (rows.T @ rows).double()
        self.moments[place] = self.moments[place] + found
        self.rows[place] += len(rows)


def observe(
    program: Program, grouping: Grouping, inputs: Iterable[Tensors], total: int, task: Task, seed: int
) -> dict[str, ObservedLayer]:
    """Second moments of inputs and gradients of every layer, in one pass.

    Raises:
        DataError: the outputs have no gradient, or there are no samples.
    """
    layers = [
        ObservedLayer(layer, roots) for layer in fitted_layers(program.module) for roots in _channels(layer, grouping)
    ]
    watcher = _Watcher(program.module, layers)
    draw = torch.Generator().manual_seed(seed)
    samples = 0
    with _frozen(program):
        for place, feeds in enumerate(inputs):
            held = int(place % _HELD_OUT_EVERY == _HELD_OUT_EVERY - 1)
            with torch.enable_grad():
                outputs = watcher.run(*feeds.values())
                loss = _loss(outputs, task, draw)
            if not loss.requires_grad:
                raise DataError(
                    "importance 'reconstruction' cannot be computed for this model: its outputs have no gradient",
                    "use an importance without gradients, such as group_norm or activation",
                )
            loss.backward()
            samples += len(next(iter(feeds.values())))
            for item, source, output in watcher.taken():
                columns = 1 if item.wide else len(item.roots)
                most = max(_FEWEST_ROWS, _ROWS_PER_CHANNEL * columns) // max(total, 1) + 1
                item.add(source, held, most, draw)
                _add_slopes(item, output)
    if not samples:
        raise DataError("the calibration split is empty", "give at least one sample")
    for item in layers:
        item.slopes, item.own = item.slopes / samples, item.own / samples
    return {item.layer.node.name: item for item in layers}


def _channels(layer: FittedLayer, grouping: Grouping) -> Iterator[Ids]:
    """The class of every input channel, for a layer without groups."""
    value = grouping.coupling.values.get(layer.data)
    if layer.groups > 1 or not isinstance(value, Value):
        return
    dim = layer.axis % len(value.shape)
    labels = [array for array in value.arrays if varying(array) == {dim}]
    roots = [grouping.coupling.unions.find(core(array).numpy().reshape(-1)) for array in labels]
    yield roots[0] if roots else np.zeros(value.shape[dim], np.int64)


def _add_slopes(item: ObservedLayer, output: Tensor) -> None:
    slope = output.grad
    if slope is None:
        return
    dims = [dim for dim in range(output.dim()) if dim != item.layer.axis % output.dim()]
    item.slopes = item.slopes + slope.double().square().sum(dims)
    item.own = item.own + (slope * output.detach()).double().square().sum(dims)


def _loss(outputs: Sequence[Tensor], task: Task, draw: torch.Generator) -> Tensor:
    """A scalar whose squared gradient is the Fisher information: of drawn classes, or of noise on other outputs."""
    total = torch.zeros(())
    for place, output in enumerate(item for item in outputs if item.is_floating_point()):
        if task == "classification" and place == 0 and has_classes(output):
            chances = (
                classes_second(output.float())
                .movedim(1, -1)
                .log_softmax(-1)
                .reshape(-1, classes_second(output).shape[1])
            )
            drawn = torch.multinomial(chances.detach().exp(), 1, generator=draw)
            total = total - chances.gather(1, drawn).sum()
        elif output.requires_grad:
            noise = torch.randn(output.shape, generator=draw)
            total = total + (output.float() * noise).sum() / output.detach().float().std().clamp(min=1e-6)
    return total


class _Watcher(fx.Interpreter):
    """Runs a graph and keeps the inputs and outputs of the watched layers, with the gradient of the outputs."""

    def __init__(self, module: fx.GraphModule, layers: Sequence[ObservedLayer]) -> None:
        super().__init__(module)
        self._layers = {item.layer.node.name: item for item in layers}
        self._seen: list[tuple[ObservedLayer, Tensor, Tensor]] = []

    def run_node(self, n: fx.Node) -> Any:
        """Run a node; the output of a watched layer gets a gradient."""
        item = self._layers.get(n.name)
        source = (
            next((self.env[node] for node in n.all_input_nodes if node.name == item.layer.data), None) if item else None
        )
        result = super().run_node(n)
        if item is not None and source is not None:
            if not result.requires_grad:
                result.requires_grad_(True)
            result.retain_grad()
            self._seen.append((item, source, result))
        return result

    def taken(self) -> list[tuple[ObservedLayer, Tensor, Tensor]]:
        """What was kept since the last call."""
        seen, self._seen = self._seen, []
        return seen


@contextmanager
def _frozen(program: Program) -> Iterator[None]:
    """Compute no gradients of parameters within this context."""
    wanted = [item for item in program.module.parameters() if item.requires_grad]
    for item in wanted:
        item.requires_grad_(False)
    try:
        yield
    finally:
        for item in wanted:
            item.requires_grad_(True)
