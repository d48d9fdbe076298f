"""Coupled groups: the units that can be removed, the layers each group spans, and why the others are locked."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from ...program import Program
from .coupler import Producer
from .labels import Ids
from .layer_patterns import matching
from .propagate import Coupling


@dataclass
class Group:
    """Layers whose channels go together.

    Attributes:
        producers: parameter dimensions that produce these channels, in graph order.
        units: classes that can be removed, in channel order; each is one channel, or several that go together.
        channels: size of the leading layer's dimension.
        reason: why no unit can be removed; empty if ``units`` is not.
    """

    producers: list[Producer]
    units: Ids
    channels: int
    reason: str = ""

    @property
    def name(self) -> str:
        """The name of the leading layer."""
        return layer_name(self.producers[0])

    @property
    def layers(self) -> list[str]:
        """The names of all its layers, without repetition."""
        return list(dict.fromkeys(layer_name(producer) for producer in self.producers))


@dataclass
class Grouping:
    """All groups of a program: ``free`` can be cut, ``locked`` cannot."""

    coupling: Coupling
    free: list[Group] = field(default_factory=list)
    locked: list[Group] = field(default_factory=list)


def layer_name(producer: Producer) -> str:
    """The name of a producer's layer: ``layer1.0.conv1`` for the parameter ``layer1.0.conv1.weight``."""
    return producer.parameter.rpartition(".")[0] or producer.parameter


def find_groups(coupling: Coupling) -> Grouping:
    """Collect the producers that share classes into groups."""
    grouping = Grouping(coupling)
    owner: dict[int, Group] = {}
    for producer in coupling.producers:
        ids = producer.ids.numpy()
        roots = coupling.unions.find(ids)
        free = roots[~coupling.unions.locked(ids)]
        if len(free) == 0:
            _add_locked(grouping, producer, coupling.unions.why(ids))
            continue
        found = list({id(owner[root]): owner[root] for root in free.tolist() if root in owner}.values())
        group = _merge(grouping, found) if found else Group([], np.empty(0, np.int64), len(ids))
        if not found:
            grouping.free.append(group)
        group.producers.append(producer)
        group.units = _in_order(np.concatenate([group.units, free]))
        owner.update(dict.fromkeys(group.units.tolist(), group))
    return grouping


def _add_locked(grouping: Grouping, producer: Producer, reason: str) -> None:
    known = next((group for group in grouping.locked if group.producers[0].parameter == producer.parameter), None)
    if known is None:
        grouping.locked.append(Group([producer], np.empty(0, np.int64), len(producer.ids), reason))


def _merge(grouping: Grouping, groups: Sequence[Group]) -> Group:
    first = groups[0]
    for other in groups[1:]:
        first.producers += other.producers
        first.units = np.concatenate([first.units, other.units])
        grouping.free.remove(other)
    return first


def _in_order(roots: Ids) -> Ids:
    _, places = np.unique(roots, return_index=True)
    result: Ids = roots[np.sort(places)]
    return result


def exclude(program: Program, coupling: Coupling, patterns: Iterable[str]) -> None:
    """Lock the channels that the parameters or layers with these names produce.

    Raises:
        UserError: a pattern matches nothing.
    """
    names = [name for name, _ in program.module.named_parameters(remove_duplicate=False)]
    for pattern in patterns:
        for name in matching(pattern, names, "exclude"):
            _lock_made(coupling, coupling.aliases.get(name, name), f"excluded by '{pattern}'")


def _lock_made(coupling: Coupling, name: str, why: str) -> None:
    made = [producer.ids for producer in coupling.producers if producer.parameter == name]
    for ids in made or coupling.parameters.get(name, []):
        if len(ids):
            coupling.unions.lock(ids, why)


def trainable(program: Program, coupling: Coupling) -> dict[str, torch.Tensor]:
    """The parameters (not buffers) that the graph uses, each once under its first name."""
    names = dict(program.module.named_parameters(remove_duplicate=False))
    return {name: names[name] for name in coupling.parameters if name in names}
