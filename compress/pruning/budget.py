"""How much to cut: the units to remove so that the asked share of multiply-accumulates or parameters is left."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ...core.errors import UserError
from ..cost import node_macs
from ..program import Program, ordered
from .groups import Group, Grouping, trainable
from .importance import Scores
from .labels import Ids, Mask, Value, core, varying

Measure = Literal["macs", "parameters"]


class CostModel:
    """Cost of a program as a function of which classes are removed; exact for the operators with a coupling rule.

    Args:
        measure: what to count.
    """

    def __init__(self, program: Program, grouping: Grouping, measure: Measure) -> None:
        self._coupling = grouping.coupling
        self._axes: dict[bytes, int] = {}
        self._roots: list[Ids] = []
        self._products: list[tuple[float, list[tuple[int, int]]]] = []
        self._constant = 0.0
        if measure == "macs":
            self._add_macs(program)
        else:
            self._add_parameters(program, grouping)
        self._starts = np.cumsum([0, *map(len, self._roots)])[:-1]
        self._flat = np.concatenate(self._roots) if self._roots else np.empty(0, np.int64)

    def _axis(self, ids: Ids) -> int:
        roots = self._coupling.unions.find(ids.reshape(-1))
        key = roots.tobytes()
        if key not in self._axes:
            self._axes[key] = len(self._roots)
            self._roots.append(roots)
        return self._axes[key]

    def _add_macs(self, program: Program) -> None:
        base = node_macs(program.module, ordered(program))
        covered = dict.fromkeys(base, 0.0)
        for term in self._coupling.terms:
            count = base.get(term.node, 0)
            if count:
                covered[term.node] += term.share
                self._products.append((count * term.share, self._axes_of(term.space)))
        self._constant = sum(count * max(0.0, 1.0 - covered[node]) for node, count in base.items())

    def _axes_of(self, space: Value) -> list[tuple[int, int]]:
        axes = []
        for array in space.arrays:
            for dim in varying(array):
                axes.append((self._axis(core(array).numpy()), space.shape[dim]))
        return axes

    def _add_parameters(self, program: Program, grouping: Grouping) -> None:
        for name, tensor in trainable(program, grouping.coupling).items():
            ids = grouping.coupling.parameters[name]
            axes = [(self._axis(item.numpy()), size) for item, size in zip(ids, tensor.shape) if size > 1]
            self._products.append((float(tensor.numel()), axes))
        unused = {id(tensor) for tensor in trainable(program, grouping.coupling).values()}
        self._constant = float(sum(item.numel() for item in program.module.parameters() if id(item) not in unused))

    def __call__(self, removed: Mask) -> float:
        """The cost when the classes in the mask (over labels) are removed."""
        kept = np.zeros(0)
        if len(self._flat):
            kept = np.add.reduceat(~removed[self._flat], self._starts, dtype=np.float64)
        total = self._constant
        for base, axes in self._products:
            for axis, size in axes:
                base *= kept[axis] / size
            total += base
        return total


@dataclass
class Ladder:
    """The ways to cut one group: its removable units, least important first, and how many of them may go.

    Attributes:
        steps: allowed numbers of removed units, ascending from 0.
    """

    group: Group
    units: Ids
    scores: Scores
    steps: list[int]

    def at_most(self, count: int) -> int:
        """The largest allowed number of removed units up to ``count``."""
        return self.steps[int(np.searchsorted(self.steps, count, side="right")) - 1]


def choose(
    program: Program,
    grouping: Grouping,
    scores: Scores,
    *,
    measure: Measure,
    target: float,
    scope: Literal["global", "layer"] = "global",
    min_channels: int = 1,
    align: int = 1,
) -> Mask:
    """The classes to remove, as a mask over labels, so that at most ``target`` of the cost is left.

    Args:
        target: cost to keep, in the unit of ``measure``.
        scope: rank units across all groups, or cut every group by the same ratio.
        min_channels: channels that every layer, and every part that a layer is split into, keeps.
        align: kept channels of a cut layer are a multiple of this.

    Raises:
        UserError: locked channels and minimum widths do not allow it; says what is the least possible.
    """
    model = CostModel(program, grouping, measure)
    ladders = _ladders(grouping, scores, min_channels, align)
    size = len(grouping.coupling.unions)
    full, least = model(_mask(size, ladders, {})), model(_mask(size, ladders, _all(ladders)))
    if least > target:
        raise UserError(
            f"prune: {target / full:.1%} of the {_name(measure)} cannot be reached; with all that may be removed gone,"
            f" {least / full:.1%} are left",
            f"ask for at least {least / full + 0.0005:.3f}, or lower min_channels, align or the excluded layers",
            least=least / full,
        )
    counts = _search(ladders, scope, lambda state: model(_mask(size, ladders, state)) <= target)
    _refill(ladders, counts, lambda state: model(_mask(size, ladders, state)) <= target)
    return _mask(size, ladders, counts)


def _name(measure: Measure) -> str:
    return "multiply-accumulates" if measure == "macs" else "parameters"


def _ladders(grouping: Grouping, scores: Scores, min_channels: int, align: int) -> list[Ladder]:
    protected = _protected(grouping, scores, min_channels)
    ladders = []
    for group in grouping.free:
        units = group.units[~protected[group.units]]
        units = units[np.argsort(scores[units], kind="stable")]
        ladders.append(Ladder(group, units, scores[units], _steps(grouping, group, units, align)))
    return ladders


def _steps(grouping: Grouping, group: Group, units: Ids, align: int) -> list[int]:
    rank = np.full(len(grouping.coupling.unions), len(units))
    rank[units] = np.arange(len(units))
    steps = set(range(len(units) + 1))
    if align > 1:
        for maker in group.makers:
            ranks = rank[grouping.coupling.unions.find(maker.ids.numpy())]
            kept = [int((ranks >= count).sum()) for count in range(len(units) + 1)]
            steps &= {count for count, left in enumerate(kept) if left == len(ranks) or left % align == 0}
    return sorted(steps | {0})


def _protected(grouping: Grouping, scores: Scores, least: int) -> Mask:
    """The most important units of every set of channels that some value or parameter has along a dimension."""
    unions = grouping.coupling.unions
    removable = np.zeros(len(unions), bool)
    for group in grouping.free:
        removable[group.units] = True
    protected = np.zeros(len(unions), bool)
    for roots in axes(grouping):
        free, counts = np.unique(roots[removable[roots]], return_counts=True)
        have, wanted = len(roots) - int(counts.sum()), min(max(least, 1), len(roots))
        for place in np.argsort(-scores[free], kind="stable"):
            if have >= wanted:
                break
            protected[free[place]] = True
            have += int(counts[place])
    return protected


def axes(grouping: Grouping) -> Iterable[Ids]:
    """Every distinct sequence of classes along a dimension of a value or parameter."""
    found: dict[bytes, Ids] = {}
    unions = grouping.coupling.unions
    for value in grouping.coupling.values.values():
        for item in value if isinstance(value, tuple) else (value,):
            for array in item.arrays:
                roots = unions.find(core(array).numpy()).reshape(-1)
                found.setdefault(roots.tobytes(), roots)
    return found.values()


def _all(ladders: list[Ladder]) -> dict[int, int]:
    return {place: ladder.steps[-1] for place, ladder in enumerate(ladders)}


def _mask(size: int, ladders: list[Ladder], counts: dict[int, int]) -> Mask:
    mask = np.zeros(size, bool)
    for place, count in counts.items():
        mask[ladders[place].units[:count]] = True
    return mask


def _search(ladders: list[Ladder], scope: str, fits: Callable[[dict[int, int]], bool]) -> dict[int, int]:
    """The mildest cut that fits, by bisection over a threshold on the scores or over one ratio."""
    if scope == "global":
        points = np.unique(np.concatenate([ladder.scores for ladder in ladders] or [np.zeros(0)])).tolist()

        def _state(point: float) -> dict[int, int]:
            return {i: x.at_most(int(np.searchsorted(x.scores, point, side="right"))) for i, x in enumerate(ladders)}
    else:
        points = sorted({count / len(x.group.units) for x in ladders for count in x.steps if count})

        def _state(point: float) -> dict[int, int]:
            return {i: x.at_most(int(point * len(x.group.units) + 1e-9)) for i, x in enumerate(ladders)}

    if fits({}):
        return {}
    low, high = 0, len(points) - 1
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if fits(_state(points[middle])) else (middle + 1, high)
    return _state(points[low])


def _refill(ladders: list[Ladder], counts: dict[int, int], fits: Callable[[dict[int, int]], bool]) -> None:
    """Give back what still fits, the most important first."""
    open_places = {place for place, count in counts.items() if count}
    while open_places:
        place = max(open_places, key=lambda item: (ladders[item].scores[counts[item] - 1], -item))
        before = counts[place]
        counts[place] = ladders[place].at_most(before - 1)
        if not fits(counts):
            counts[place] = before
            open_places.discard(place)
        elif counts[place] == 0:
            open_places.discard(place)
