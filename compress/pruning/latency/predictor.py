"""What a cut saves on the clock: the time of every subgraph as a function of how many units each group loses."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ..coupling.groups import Grouping
from ..selection.cut_options import GroupCuts, least_cut, remove
from .latency_table import Request, Table
from .subgraphs import Subgraphs

State = dict[int, int]
"""Number of removed units, by place of the group."""

_POINTS = 12
_FASTER = 0.98


def grid(group_cut: GroupCuts) -> list[int]:
    """The widths of a group that are measured: about a dozen at most, as multiples of 8, 4 or 2 for wide groups."""
    per_unit = group_cut.group.channels / max(len(group_cut.group.units), 1)
    base = 8 if group_cut.group.channels >= 64 else 4 if group_cut.group.channels >= 32 else 2
    multiple = 1 if per_unit != 1 else base * max(1, round(group_cut.group.channels / _POINTS / base))
    total = len(group_cut.group.units)
    found = [count for count in group_cut.steps if (total - count) % multiple == 0 or count == group_cut.steps[0]]
    return [*found, group_cut.steps[-1]] if found[-1] != group_cut.steps[-1] and len(found) < 2 else found


@dataclass
class _Curve:
    """Time of a subgraph relative to its whole width, over the counts that a group may lose."""

    counts: list[int]
    ratios: list[float]

    def __call__(self, count: int) -> float:
        """The ratio at any count; between measured counts, that of the wider, because narrower is not always faster."""
        place = int(np.searchsorted(self.counts, count, side="right")) - 1
        return self.ratios[max(place, 0)]


class Curves:
    """The predicted time of a program under any cut.

    The time of a subgraph is its measured time at full width, times one measured ratio per group that it depends on.

    Attributes:
        group_cuts: the ways to cut each group, kept to counts that are measured and worth it.
        requests: how many different subgraphs the table had to know.
    """

    def __init__(self, grouping: Grouping, group_cuts: list[GroupCuts], subgraphs: Subgraphs, table: Table) -> None:
        self.group_cuts, self._subgraphs, self._table = group_cuts, subgraphs, table
        self._size = len(grouping.coupling.unions)
        self._base = least_cut(group_cuts)
        owner = np.full(self._size, -1)
        for place, group_cut in enumerate(group_cuts):
            owner[group_cut.group.units] = place
        touched = [sorted({int(owner[root]) for root in subgraphs.touched(item)} - {-1}) for item in subgraphs.all]
        self._touched = [[place for place in places if len(group_cuts[place].steps) > 1] for places in touched]
        self._grids = [grid(group_cut) for group_cut in group_cuts]
        self._measure()
        for place, group_cut in enumerate(group_cuts):
            group_cut.steps = self._worth(place)

    def _requests(self) -> Iterable[tuple[int, int, int, str, Request]]:
        """Subgraph, group (or -1 for full width), count, key and what to measure."""
        for index, subgraph in enumerate(self._subgraphs.all):
            states = [(-1, 0, self._base)]
            for place in self._touched[index]:
                states += [(place, count, {**self._base, place: count}) for count in self._grids[place][1:]]
            for place, count, state in states if self._touched[index] else ():
                mask = remove(self._size, self.group_cuts, state)
                yield index, place, count, self._subgraphs.key(subgraph, mask), (subgraph, mask)

    def _measure(self) -> None:
        listed = list(self._requests())
        requests = {key: request for *_, key, request in listed}
        self.requests = len(requests)
        self._table.fill(self._subgraphs, requests)
        self._full = [0.0] * len(self._subgraphs.all)
        self._curves: dict[tuple[int, int], _Curve] = {}
        for index, place, count, key, _ in listed:
            if place < 0:
                self._full[index] = self._table[key]
            elif self._full[index] > 0:
                curve = self._curves.setdefault((index, place), _Curve([self._base[place]], [1.0]))
                curve.counts.append(count)
                curve.ratios.append(self._table[key] / self._full[index])

    @cached_property
    def _of_group(self) -> dict[int, list[int]]:
        found: dict[int, list[int]] = {}
        for index, place in self._curves:
            found.setdefault(place, []).append(index)
        return found

    def subgraph_ms(self, index: int, state: State) -> float:
        """Time of one subgraph."""
        time = self._full[index]
        for place in self._touched[index]:
            curve = self._curves.get((index, place))
            time *= curve(state[place]) if curve else 1.0
        return time

    def total_ms(self, state: State) -> float:
        """Time of all subgraphs that depend on a group."""
        return sum(self.subgraph_ms(index, state) for index in range(len(self._full)) if self._touched[index])

    def saved_ms(self, state: State, place: int, count: int) -> float:
        """Predicted time saved by a further cut of one group."""
        after = {**state, place: count}
        return sum(self.subgraph_ms(i, state) - self.subgraph_ms(i, after) for i in self._of_group.get(place, ()))

    def _worth(self, place: int) -> list[int]:
        """The counts that are measurably faster than every smaller count."""
        kept = [self._base[place]]
        best = sum(self.subgraph_ms(i, self._base) for i in self._of_group.get(place, ()))
        for count in self._grids[place][1:]:
            time = sum(self.subgraph_ms(i, {**self._base, place: count}) for i in self._of_group.get(place, ()))
            if time < best * _FASTER:
                kept.append(count)
                best = time
        return kept


def path(curves: Curves, scope: str) -> list[State]:
    """States from no cut to the largest, each faster than the one before with the least loss of importance.

    Scope ``global``: the next move is the one that saves the most time per lost importance (a greedy solution of the
    knapsack problem). Scope ``layer``: all groups shrink by the same ratio.
    """
    state = least_cut(curves.group_cuts)
    states = [dict(state)]
    if scope == "layer":
        moves = [(c / len(x.group.units), i, c) for i, x in enumerate(curves.group_cuts) for c in x.steps[1:]]
        for _, place, count in sorted(moves):
            state[place] = count
            states.append(dict(state))
        return states
    while True:
        found = [(*_best_move(curves, state, place), place) for place in range(len(curves.group_cuts))]
        gain, count, place = max(found, default=(0.0, 0, 0))
        if gain <= 0:
            return states
        state[place] = count
        states.append(dict(state))


def _best_move(curves: Curves, state: State, place: int) -> tuple[float, int]:
    """The largest saving of time per lost importance by a further cut of one group, and its count.

    The score of a unit is divided by the number of units that are left, so the last units of a layer are expensive.
    """
    group_cut, now = curves.group_cuts[place], state[place]
    losses = group_cut.scores / (len(group_cut.group.units) - np.arange(len(group_cut.units)))
    best = (0.0, now)
    for count in group_cut.steps:
        if count > now:
            loss = max(float(losses[now:count].sum()), 1e-12)
            best = max(best, (curves.saved_ms(state, place, count) / loss, count))
    return best
