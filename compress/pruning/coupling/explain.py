"""Description of the coupled groups of a program: their kind, layers, step, cost, and why they are locked."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from torch import fx

from ....core.aten_names import ATTENTION, RECURRENT, operator_name
from ...program import Program, evaluating, macs_by_node
from .coupler import made_of_parameters
from .groups import Group, Grouping, exclude, find_groups
from .labels import Ids, Mask, Value, core, varying
from .propagate import couple

_ADDS = ("add", "sub")
_FUSED = (ATTENTION,)
_PRODUCTS = ("matmul", "bmm", "baddbmm", "einsum", *_FUSED)


@dataclass(frozen=True)
class Row:
    """One line of ``retort prune --explain``.

    Attributes:
        layers: names of the layers whose channels are coupled; the first is the name of the group.
        kind: what is coupled: ``channels``, ``features``, ``heads``, ``head dimension``, ``hidden state``,
            ``residual stream``.
        channels: size of the leading layer.
        units: number of units that can be removed one at a time; 0 if the group is locked.
        step: number of channels of the leading layer that are removed with one unit, the smallest and the largest.
        macs: share of the program's multiply-accumulates that decreases when units are removed.
        reason: why it is locked.
    """

    layers: tuple[str, ...]
    kind: str
    channels: int
    units: int
    step: tuple[int, int]
    macs: float
    reason: str


def explain(program: Program, excluded: Iterable[str] = ()) -> list[Row]:
    """All coupled groups: first those that can be cut, then the locked ones with the reason.

    Args:
        excluded: patterns of parameter names whose channels are kept.

    Raises:
        UserError: a pattern matches nothing.
    """
    with evaluating(program):
        coupling = couple(program)
        exclude(program, coupling, excluded)
        grouping = find_groups(coupling)
        words = _Words(program, grouping)
        return [words.row(group) for group in (*grouping.free, *grouping.locked)]


class _Words:
    """Builds the rows of one program."""

    def __init__(self, program: Program, grouping: Grouping) -> None:
        self._nodes = {node.name: node for node in program.module.graph.nodes}
        self._coupling = grouping.coupling
        self._macs = macs_by_node(program)
        self._total = max(1, sum(self._macs.values()))
        self._unions = grouping.coupling.unions
        self._spaces = [(term, self._roots(term.space)) for term in grouping.coupling.terms]
        self._factors = list(self._activations())
        self._sums = [(node, self._carried(node)) for node in self._nodes.values() if operator_name(node) in _ADDS]

    def row(self, group: Group) -> Row:
        """The row of a group."""
        mask = np.zeros(len(self._unions), bool)
        mask[group.units] = True
        return Row(
            tuple(group.layers),
            self._kind(group, mask),
            group.channels,
            len(group.units),
            self._step(group),
            self._share(mask),
            group.reason,
        )

    def _roots(self, value: Value) -> list[Ids]:
        return [self._unions.find(core(array).numpy().reshape(-1)) for array in value.arrays]

    def _carried(self, node: fx.Node) -> list[list[Ids]]:
        """Classes of every operand of a sum that is not made of parameters."""
        operands = [item for item in node.all_input_nodes if not made_of_parameters(item)]
        values = [self._coupling.values.get(item.name) for item in operands]
        return [self._roots(value) for value in values if isinstance(value, Value)]

    def _share(self, mask: Mask) -> float:
        touched = sum(
            self._macs.get(term.node, 0) * term.share for term, axes in self._spaces if any(mask[a].any() for a in axes)
        )
        return touched / self._total

    def _step(self, group: Group) -> tuple[int, int]:
        """Smallest and largest number of channels of the leading layer per unit, of the units that it has."""
        if not len(group.units):
            return 0, 0
        made = np.bincount(self._unions.find(group.producers[0].ids.numpy()), minlength=len(self._unions))[group.units]
        return (int(made[made > 0].min()), int(made.max())) if made.any() else (1, 1)

    def _kind(self, group: Group, mask: Mask) -> str:
        names = [
            operator_name(self._nodes[producer.node]) for producer in group.producers if producer.node in self._nodes
        ]
        if any(name in RECURRENT for name in names):
            return "hidden state"
        heads = self._in_attention(mask)
        if heads:
            return heads
        if any(len(sides) > 1 and all(_any(mask, side) for side in sides) for _, sides in self._sums):
            return "residual stream"
        return "channels" if any("conv" in name for name in names) else "features"

    def _in_attention(self, mask: Mask) -> str:
        """Heads are a batch dimension of a product of two activations; the head dimension is one of the matrices."""
        for rank, dim, ids in self._factors:
            if mask[ids].any():
                return "head dimension" if dim >= rank - 2 else "heads"
        return ""

    def _activations(self) -> Iterator[tuple[int, int, Ids]]:
        """Rank, dimension and classes of every factor of a product in which no factor is made of parameters."""
        for node in self._nodes.values():
            if operator_name(node) not in _PRODUCTS:
                continue
            factors = node.all_input_nodes[:3] if operator_name(node) in _FUSED else node.all_input_nodes[:2]
            values = [self._coupling.values.get(item.name) for item in factors]
            if any(made_of_parameters(item) for item in factors):
                continue
            for value in values:
                if isinstance(value, Value):
                    yield from (
                        (len(value.shape), dim, self._unions.find(core(array).numpy().reshape(-1)))
                        for array in value.arrays
                        for dim in varying(array)
                    )


def _any(mask: Mask, axes: Sequence[Ids]) -> bool:
    return any(bool(mask[ids].any()) for ids in axes)


__all__ = ["Row", "explain"]
