"""Importance of a channel: the loss that stays when the layers that read it are fitted again without it.

A layer that reads ``x`` can replace a removed channel by the others as far as they predict it. With the second moments
``G`` of ``x``, the error of the best replacement is the Schur complement ``1 / (G⁻¹)cc`` (optimal brain surgeon,
Hassibi and Stork, 1993), multiplied by the layer's weights for that channel. The error of every output is weighted by
the square of the gradient there (Fisher information), so that layers are comparable. Channels are removed in turn, the
cheapest first, and ``G⁻¹`` is reduced each time; so the last of several similar channels is important.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ....core.errors import DataError
from ....core.options.stage_options import Task
from ...graph.module_edit import fetch
from ...program import Program
from ...training.losses import Tensors
from ..coupling.groups import Group, Grouping
from ..coupling.labels import Ids
from ..reconstruction.fitted_layers import as_groups
from .importance import Part
from .observed_layers import ObservedLayer, observe

_RIDGES = (1e-3, 1e-2, 1e-1, 1.0)
_ROUNDS = 48


def reconstruction_losses(
    program: Program, grouping: Grouping, inputs: Iterable[Tensors], total: int, task: Task, seed: int
) -> list[Part]:
    """The loss of removing every unit after those that are removed before it.

    Args:
        inputs: batches of samples, ``total`` of them.
        seed: of the classes that are drawn from the program's own prediction, and of the rows.

    Raises:
        DataError: no layer reads a channel that can be removed.
    """
    found = observe(program, grouping, inputs, total, task, seed)
    readers = [item for item in found.values() if not set(item.roots.tolist()).isdisjoint(_units(grouping))]
    if not readers:
        raise DataError("no layer that can be fitted again reads a channel that can be removed", "use taylor or l2")
    read = [_Reader.of(program, item) for item in readers]
    return [part for group in grouping.free for part in _removed_in_turn(group, read, found, grouping)]


def _units(grouping: Grouping) -> set[int]:
    return {int(unit) for group in grouping.free for unit in group.units}


@dataclass
class _Reader:
    """A layer that reads channels: its weighted weights, and the inverse of the second moments of its inputs.

    Attributes:
        roots: class of every channel.
        weight: ``[O, K]``, in which an output's row is multiplied by the root of half of its squared gradient; the
            positions of a kernel are rows.
        inverse: ``[K, K]``, or ``[K]`` if channels replace none.
        factor: error on held-out samples, as a share of the error on the samples used to fit.
    """

    roots: Ids
    weight: Tensor
    inverse: Tensor
    factor: float

    @staticmethod
    def of(program: Program, item: ObservedLayer) -> _Reader:
        """The reader of an observed layer."""
        weight = as_groups(item.layer, fetch(program.module, item.layer.weight))[0]
        weight = weight * torch.as_tensor(item.slopes / 2).sqrt().reshape(-1, 1)
        weight = weight.reshape(len(weight), len(item.roots), -1).movedim(2, 0).reshape(-1, len(item.roots))
        fit, held = (found / max(rows, 1) for found, rows in zip(item.moments, item.rows))
        if item.wide:
            return _Reader(item.roots, weight, fit.clamp(min=1e-30).reciprocal(), 1.0)
        energy, tried = weight.square().sum(0), []
        parts = (fit, held) if item.rows[1] else (fit,)  # with few batches of samples none is held out
        for ridge in _RIDGES:
            inverse = _inverse(fit, ridge)
            scale = inverse.diagonal().square()
            errors = [float((energy * ((inverse @ part) * inverse).sum(1) / scale).sum()) for part in parts]
            tried.append((errors[-1], errors[0], inverse))
        wanted, known, inverse = min(tried, key=lambda one: one[0])
        return _Reader(item.roots, weight, inverse, max(1.0, wanted / max(known, 1e-30)))

    def losses(self, places: Tensor) -> Tensor:
        """The loss of removing each of the channels at these places."""
        schur = self.inverse[places] if self.inverse.dim() == 1 else self.inverse.diagonal()[places]
        losses: Tensor = self.factor * self.weight[:, places].square().sum(0) / schur
        return losses

    def remove(self, places: Tensor) -> None:
        """Remove channels, and adapt the weights of the others to replace them."""
        if self.inverse.dim() == 1:
            self.weight[:, places] = 0
            return
        block = torch.linalg.solve(self.inverse[places][:, places], self.inverse[places])
        self.weight -= self.weight[:, places] @ block
        self.inverse -= self.inverse[:, places] @ block
        self.weight[:, places] = 0
        self.inverse[places] = self.inverse[:, places] = 0


def _inverse(moments: Tensor, ridge: float) -> Tensor:
    energy = moments.diagonal()
    least = 1e-6 * float(energy.mean()) + 1e-20
    inverse: Tensor = torch.linalg.inv(moments + torch.diag(ridge * energy + least))
    return inverse


def _removed_in_turn(
    group: Group, readers: Sequence[_Reader], found: dict[str, ObservedLayer], grouping: Grouping
) -> Iterator[Part]:
    """The scores of a group's units, removed in turn; of units that no layer reads, the gradient times their output."""
    order = {int(unit): place for place, unit in enumerate(group.units)}
    uses = []
    for reader in readers:
        channels = [(place, order[root]) for place, root in enumerate(reader.roots.tolist()) if root in order]
        if channels:
            own = replace(reader, weight=reader.weight.clone(), inverse=reader.inverse.clone())
            uses.append((own, *torch.tensor(channels).T))
    if not uses:
        yield from _own_losses(group, found, grouping)
        return
    gone = torch.zeros(len(group.units), dtype=torch.bool)
    scores, last = torch.zeros(len(group.units), dtype=torch.float64), 0.0
    while not gone.all():
        losses = torch.zeros(len(gone), dtype=torch.float64)
        for reader, channels, units in uses:
            left = ~gone[units]
            losses.index_add_(0, units[left], reader.losses(channels[left]))
        count = min(max(1, len(gone) // _ROUNDS), int((~gone).sum()))
        losses[gone] = torch.inf
        chosen = losses.topk(count, largest=False).indices
        for unit in chosen.tolist():
            last = max(last, float(losses[unit]))
            scores[unit] = last
        gone[chosen] = True
        if not gone.all():
            for reader, channels, units in uses:
                reader.remove(channels[torch.isin(units, chosen)])
    yield Part(group.units, np.nan_to_num(scores.numpy(), posinf=float(np.finfo(np.float32).max)))


def _own_losses(group: Group, found: dict[str, ObservedLayer], grouping: Grouping) -> Iterator[Part]:
    """Half the squared gradient times output of the layers that compute the units, averaged over these layers."""
    known = [(producer, found[producer.node]) for producer in group.producers if producer.node in found]
    for producer, item in known:
        roots = grouping.coupling.unions.find(producer.ids.numpy())
        own = torch.as_tensor(item.own, dtype=torch.float64).expand(len(roots)) / (2 * len(known))
        inside = np.isin(roots, group.units)
        yield Part(roots[inside], own.numpy()[inside])
    if not known:
        yield Part(group.units, np.full(len(group.units), float(np.finfo(np.float32).max)))
