"""Choice of the units to remove so that a budget of multiply-accumulates, parameters or bytes is met."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np

from ....core.errors import UserError
from ...program import Program
from ..coupling.groups import Grouping
from ..coupling.labels import Mask
from .cost_model import NAMES, CostModel, Measure
from .cut_options import GroupCuts, build_group_cuts, least_cut, most_cut, remove
from .importance import Scores

AUTO_ALIGN = (8, 4, 2, 1)
"""Steps of channel counts that ``align: auto`` tries: coarse ones suit vector units, narrow networks need fine ones."""
AUTO_MISS = 0.02
_SHOWN = 3
"""Number of reasons, and of layers per reason, in the message of a budget that cannot be reached."""
_MILD = "lower min_channels or align, or exclude fewer layers"

Fits = Callable[[dict[int, int]], bool]


def choose(
    program: Program,
    grouping: Grouping,
    scores: Scores,
    *,
    measure: Measure,
    target: float,
    scope: Literal["global", "layer"] = "global",
    min_channels: int = 1,
    align: int | Literal["auto"] = 1,
    fixed: dict[int, float] | None = None,
) -> Mask:
    """The classes to remove, as a mask over labels, so that at most ``target`` of the cost is left.

    Args:
        target: cost to keep, in the unit of ``measure``.
        scope: rank units across all groups, or cut every group by the same ratio.
        min_channels: smallest number of channels of every layer, and of every part into which a layer is split.
        align: kept channels of a cut layer are a multiple of this; ``auto`` takes the coarsest of 8, 4, 2 and 1 that
            misses the target by no more than 2 % of the whole.
        fixed: share of channels to keep, by place of the group, regardless of the budget.

    Raises:
        UserError: locked channels and minimum widths do not allow the target; the message gives the smallest share.
    """
    model = CostModel(program, grouping, measure)
    whole = model(np.zeros(len(grouping.coupling.unions), bool))
    for step in AUTO_ALIGN if align == "auto" else (align,):
        group_cuts = build_group_cuts(grouping, scores, min_channels, step, fixed)
        last = align != "auto" or step == AUTO_ALIGN[-1]
        found = _fit(model, group_cuts, target, whole, scope, measure, last)
        if found is not None and (last or model(found) >= target - AUTO_MISS * whole):
            return found
    raise AssertionError("the last step returns or raises")


def _fit(
    model: CostModel, group_cuts: list[GroupCuts], target: float, whole: float, scope: str, measure: Measure, last: bool
) -> Mask | None:
    """The smallest cut that meets the target; if there is none, None or, with the last step, an error."""
    size = model.size

    def _fits(state: dict[int, int]) -> bool:
        return model(remove(size, group_cuts, state)) <= target

    least = model(remove(size, group_cuts, most_cut(group_cuts)))
    if least > target:
        if last:
            raise _unreachable(model.grouping, group_cuts, target / whole, least / whole, NAMES[measure])
        return None
    counts = _search(group_cuts, scope, _fits)
    _refill(group_cuts, counts, _fits)
    return remove(size, group_cuts, counts)


def _unreachable(grouping: Grouping, group_cuts: list[GroupCuts], asked: float, least: float, name: str) -> UserError:
    """The error of a budget that no cut meets, with the reasons of the channels that are locked."""
    reasons: dict[str, list[str]] = {}
    for item in group_cuts:
        if len(item.steps) == 1:
            reasons.setdefault("has no more channels than min_channels and align allow", []).append(item.group.name)
    for group in grouping.locked:
        reasons.setdefault(group.reason, []).append(group.name)
    kept = "; ".join(
        f"{', '.join(names[:_SHOWN])}{', …' if len(names) > _SHOWN else ''}: {reason}"
        for reason, names in sorted(reasons.items(), key=lambda item: -len(item[1]))[:_SHOWN]
    )
    if least >= 1:
        return UserError(
            f"prune: no channel that costs {name} can be removed from this model ({kept or 'no layer has weights'})",
            f"`retort prune --explain` lists every group; quantize the model instead, or {_MILD}",
            least=least,
        )
    return UserError(
        f"prune: {asked:.1%} of the {name} cannot be reached; the smallest possible share is {least:.1%}"
        + (f" ({kept})" if kept else ""),
        f"set the budget to at least {least + 0.0005:.3f}, or {_MILD}",
        least=least,
    )


def _search(group_cuts: list[GroupCuts], scope: str, fits: Fits) -> dict[int, int]:
    """The smallest cut that meets the target, by bisection over a threshold of the scores or over one ratio."""
    if scope == "global":
        points = np.unique(np.concatenate([group_cut.scores for group_cut in group_cuts] or [np.zeros(0)])).tolist()

        def _state(point: float) -> dict[int, int]:
            return {i: x.at_most(int(np.searchsorted(x.scores, point, side="right"))) for i, x in enumerate(group_cuts)}
    else:
        points = sorted({count / len(x.group.units) for x in group_cuts for count in x.steps if count})

        def _state(point: float) -> dict[int, int]:
            return {i: x.at_most(int(point * len(x.group.units) + 1e-9)) for i, x in enumerate(group_cuts)}

    if fits(least_cut(group_cuts)):
        return least_cut(group_cuts)
    low, high = 0, len(points) - 1
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if fits(_state(points[middle])) else (middle + 1, high)
    return _state(points[low])


def _refill(group_cuts: list[GroupCuts], counts: dict[int, int], fits: Fits) -> None:
    """Restore units as long as the target is still met, the most important first."""
    open_places = {place for place, count in counts.items() if count > group_cuts[place].steps[0]}
    while open_places:
        place = max(open_places, key=lambda item: (group_cuts[item].scores[counts[item] - 1], -item))
        before = counts[place]
        counts[place] = group_cuts[place].at_most(before - 1)
        if not fits(counts):
            counts[place] = before
            open_places.discard(place)
        elif counts[place] == group_cuts[place].steps[0]:
            open_places.discard(place)
