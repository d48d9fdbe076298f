"""Data-driven importance of channels: gradients and activations, summed per channel in one pass and constant memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from ....core.console import SILENT, Console
from ....core.data.splits import Split, batches
from ....core.errors import DataError
from ....core.faults import first_line
from ....core.options.option_types import Importance
from ....core.options.stage_options import Task
from ...graph.devices import as_tensor
from ...program import Program, evaluating
from ...training.losses import Tensors, classes_second, first, has_classes
from ...training.targets import as_targets
from ...training.task_losses import plain_loss
from ..coupling.groups import Grouping
from ..coupling.labels import Ids, Value, core, varying
from .importance import Part, along, finite, parameter_dims
from .reconstruction_loss import reconstruction_losses

_WHERE = "the calibration split"


@dataclass(frozen=True)
class Samples:
    """The samples from which data-driven importance is computed; an
    :data:`retort.compress.pruning.selection.importance.Evidence`.

    Attributes:
        batch: samples per gradient. The Hessian's diagonal is approximated by the empirical Fisher information, the
            mean of squared gradients; smaller batches approximate it better.
        limit: largest number of samples.
        seed: seed of the classes that are drawn if samples have no targets.
    """

    split: Split
    task: Task
    batch: int = 16
    limit: int = 256
    seed: int = 0
    console: Console = SILENT

    def __call__(self, program: Program, grouping: Grouping, criterion: Importance) -> list[Part]:
        """Compute the importance in one pass over the samples.

        Raises:
            DataError: there are no samples, or their targets do not fit the task.
        """
        with evaluating(program):
            if criterion == "activation":
                return self._activations(program, grouping)
            if criterion == "reconstruction":
                total = -(-min(len(self.split), self.limit) // self.batch)
                inputs = (feeds for feeds, _ in self._batches(program))
                return reconstruction_losses(program, grouping, inputs, total, self.task, self.seed)
            return self._gradients(program, grouping, criterion)

    def _batches(self, program: Program) -> Iterator[tuple[Tensors, Tensor | None]]:
        total = min(len(self.split), self.limit)
        with self.console.progress("importance", -(-total // self.batch)) as bar:
            for raw, values in batches(self.split, self.batch, self.limit):
                feeds = program.signature.validate(raw)
                targets = as_targets(values, program, self.task, _WHERE)
                yield {name: as_tensor(value, torch.device("cpu")) for name, value in feeds.items()}, targets
                bar.advance()

    def _gradients(self, program: Program, grouping: Grouping, criterion: Importance) -> list[Part]:
        """``|Σ w · g|`` per batch and channel (taylor), or ``½ Σ (w · g)²`` (obd), averaged over batches.

        The gradient of a parameter is used and freed as soon as it is computed.
        """
        generator, count = torch.Generator().manual_seed(self.seed), 0
        dims = list(parameter_dims(program, grouping))
        sums = [torch.zeros(len(roots), dtype=torch.float64) for *_, roots in dims]
        places: dict[Tensor, list[int]] = {}
        for place, (_, tensor, _, _) in enumerate(dims):
            places.setdefault(tensor, []).append(place)

        def _accumulate(tensor: Tensor) -> None:
            for place in places.get(tensor, ()):
                sums[place] += _contribution(tensor, dims[place][2], criterion)
            tensor.grad = None

        with _differentiable(program, _accumulate), torch.enable_grad():
            for inputs, targets in self._batches(program):
                self._backward(program, inputs, targets, generator, criterion)
                count += 1
        return [Part(roots, finite(item / count)) for item, (*_, roots) in zip(sums, dims)]

    def _backward(
        self,
        program: Program,
        inputs: Tensors,
        targets: Tensor | None,
        generator: torch.Generator,
        criterion: Importance,
    ) -> None:
        """Compute the gradients of one batch.

        Raises:
            DataError: PyTorch cannot compute them, because an operator has no gradient or no loss fits the outputs.
        """
        try:
            loss = self._loss(_outputs(program, inputs), inputs, targets, generator)
            loss.backward()
        except RuntimeError as error:  # PyTorch's error about this model; defects of Retort have other classes
            raise DataError(
                f"importance '{criterion}' cannot be computed for this model: {first_line(error)}",
                "use an importance without gradients, such as group_norm or activation",
            ) from error

    def _loss(self, outputs: Tensors, inputs: Tensors, targets: Tensor | None, generator: torch.Generator) -> Tensor:
        """The task's loss; without targets, on classes (or values) drawn from the model's own prediction."""
        task: Task = self.task
        if targets is None or task == "detection":
            prediction = first(outputs).detach()
            task = "classification" if task == "classification" and has_classes(prediction) else "regression"
            targets = _sampled_targets(prediction.float(), task, generator)
        return plain_loss(task)(outputs, inputs, targets)

    def _activations(self, program: Program, grouping: Grouping) -> list[Part]:
        """Mean magnitude per channel of the inputs of contractions; for channels that none reads, of the producers."""
        watched = _watched(program, grouping)
        watcher = _Watcher(program.module, watched)
        count = 0
        with torch.no_grad():
            for inputs, _ in self._batches(program):
                watcher.run(*inputs.values())
                count += 1
        return [Part(roots, finite(watcher.sums[node.name, dim] / count)) for node, dim, roots in watched]


def _contribution(tensor: Tensor, dim: int, criterion: Importance) -> Tensor:
    """The contribution of one batch's gradient to the score of every index along a dimension, ``float64[n]``."""
    assert tensor.grad is not None, "the hook runs only after the gradient is computed"
    if criterion == "taylor":
        return along(dim, lambda weight, slope: (weight * slope).double(), tensor.detach(), tensor.grad).abs()
    return 0.5 * along(dim, lambda weight, slope: (weight * slope).double().square(), tensor.detach(), tensor.grad)


def _sampled_targets(scores: Tensor, task: Task, generator: torch.Generator) -> Tensor:
    if task == "regression":
        return scores + torch.randn(scores.shape, generator=generator)
    chances = classes_second(scores).movedim(1, -1).softmax(-1)
    drawn = torch.multinomial(chances.reshape(-1, chances.shape[-1]), 1, generator=generator)
    return drawn.reshape(chances.shape[:-1])


def _outputs(program: Program, inputs: Tensors) -> Tensors:
    values = program.module(*inputs.values())
    return {spec.name: value for spec, value in zip(program.signature.outputs, values, strict=True)}


@contextmanager
def _differentiable(program: Program, accumulate: Callable[[Tensor], None]) -> Iterator[None]:
    """Compute gradients of all floating-point parameters, also of frozen ones, and pass them to ``accumulate``."""
    program.module.zero_grad(set_to_none=True)  # a training can leave gradients behind
    frozen = [item for item in program.module.parameters() if not item.requires_grad and item.is_floating_point()]
    for item in frozen:
        item.requires_grad_(True)
    wanted = [item for item in program.module.parameters() if item.requires_grad]
    hooks = [item.register_post_accumulate_grad_hook(accumulate) for item in wanted]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        program.module.zero_grad(set_to_none=True)
        for item in frozen:
            item.requires_grad_(False)


def _watched(program: Program, grouping: Grouping) -> list[tuple[fx.Node, int, Ids]]:
    """Values to observe: node, dimension and the class of every index along it."""
    coupling, nodes = grouping.coupling, {node.name: node for node in program.module.graph.nodes}
    readers = dict.fromkeys(term.node for term in coupling.terms)
    read = [item for name in readers for item in nodes[name].all_input_nodes if item.op == "call_function"]
    found = [entry for node in dict.fromkeys(read) for entry in _channel_dims(node, grouping)]
    seen = {int(root) for _, _, roots in found for root in roots}
    producers = dict.fromkeys(nodes[producer.node] for group in grouping.free for producer in group.producers)
    users = [item for node in producers for item in (node, *node.users)]
    late = [entry for node in users for entry in _channel_dims(node, grouping)]
    result = [*found, *(entry for entry in late if not seen.issuperset(entry[2].tolist()))]
    if not result:
        raise DataError("no activation has a channel that can be removed", "use another importance, such as l2")
    return result


def _channel_dims(node: fx.Node, grouping: Grouping) -> Iterator[tuple[fx.Node, int, Ids]]:
    value, unions = grouping.coupling.values.get(node.name), grouping.coupling.unions
    for array in value.arrays if isinstance(value, Value) else ():
        dims = varying(array)
        roots = unions.find(core(array).numpy()).reshape(-1)
        if len(dims) == 1 and not unions.locked(roots).all():
            yield node, next(iter(dims)), roots


class _Watcher(fx.Interpreter):
    """Runs a graph and sums magnitudes along the watched dimensions."""

    def __init__(self, module: fx.GraphModule, watched: list[tuple[fx.Node, int, Ids]]) -> None:
        super().__init__(module)
        self.sums: dict[tuple[str, int], Tensor] = {}
        self._dims: dict[str, list[int]] = {}
        for node, dim, _ in watched:
            self._dims.setdefault(node.name, []).append(dim)

    def run_node(self, n: fx.Node) -> Any:
        """Run a node and add the magnitudes of its value."""
        result = super().run_node(n)
        for dim in self._dims.get(n.name, ()):
            rows = result.detach().double().abs().movedim(dim, 0).reshape(result.shape[dim], -1).mean(1)
            key = (n.name, dim)
            self.sums[key] = self.sums[key] + rows if key in self.sums else rows
        return result
