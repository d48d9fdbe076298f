"""Possible cuts of each group: the order of its units, how many can be removed, and what the user fixed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from ....core.errors import UserError
from ...program import Program
from ..coupling.groups import Group, Grouping
from ..coupling.labels import Ids, Mask, core
from ..coupling.layer_patterns import matching
from .importance import Scores


@dataclass
class GroupCuts:
    """The possible cuts of one group: its removable units, least important first, and how many can be removed.

    Attributes:
        steps: allowed numbers of removed units, ascending; the first is 0 unless the user fixed the width.
    """

    group: Group
    units: Ids
    scores: Scores
    steps: list[int]

    def at_most(self, count: int) -> int:
        """The largest allowed number of removed units up to ``count``; the smallest allowed number if there is none."""
        return self.steps[max(int(np.searchsorted(self.steps, count, side="right")) - 1, 0)]


def build_group_cuts(
    grouping: Grouping, scores: Scores, min_channels: int, align: int, fixed: Mapping[int, float] | None = None
) -> list[GroupCuts]:
    """The possible cuts of every group that is not locked.

    Args:
        min_channels: smallest number of channels of every layer, and of every part into which a layer is split.
        align: kept channels of a cut layer are a multiple of this.
        fixed: share of the channels to keep, by place of the group; such a group has one possible cut.
    """
    protected = _protected(grouping, scores, min_channels)
    group_cuts = []
    for place, group in enumerate(grouping.free):
        units = group.units[~protected[group.units]]
        units = units[np.argsort(scores[units], kind="stable")]
        steps = _steps(grouping, group, units, align)
        if fixed and place in fixed:
            steps = [_fixed(group, units, fixed[place], min_channels)]
        group_cuts.append(GroupCuts(group, units, scores[units], steps))
    return group_cuts


def fixed_widths(program: Program, grouping: Grouping, layers: Mapping[str, float]) -> dict[int, float]:
    """The share of channels to keep that the user fixed, by place of the group; later patterns have priority.

    Raises:
        UserError: a pattern matches nothing, or only layers whose channels cannot be removed.
    """
    names = [name for name, _ in program.module.named_parameters(remove_duplicate=False)]
    found: dict[int, float] = {}
    for pattern, share in layers.items():
        wanted = {grouping.coupling.aliases.get(name, name) for name in matching(pattern, names, "layers")}
        places = [i for i, group in enumerate(grouping.free) if any(m.parameter in wanted for m in group.producers)]
        if not places:
            locked = [group for group in grouping.locked if any(m.parameter in wanted for m in group.producers)]
            reason = f": {locked[0].name} {locked[0].reason}" if locked else ", because it produces no channels"
            raise UserError(
                f"prune.layers: no layer that '{pattern}' matches can be cut{reason}",
                "`retort prune --explain` lists the layers that can be cut",
                pattern=pattern,
            )
        found |= dict.fromkeys(places, share)
    return found


def restrict(program: Program, grouping: Grouping, patterns: Iterable[str]) -> None:
    """Lock every group that contains a layer which no pattern matches.

    Raises:
        UserError: a pattern matches nothing.
    """
    names = [name for name, _ in program.module.named_parameters(remove_duplicate=False)]
    found = [name for pattern in patterns for name in matching(pattern, names, "only")]
    wanted = {grouping.coupling.aliases.get(name, name) for name in found}
    for group in list(grouping.free) if found else ():
        outside = [producer.parameter for producer in group.producers if producer.parameter not in wanted]
        if outside:
            grouping.free.remove(group)
            group.reason = f"is coupled with {outside[0]}, which `only` does not match"
            group.units = group.units[:0]
            grouping.locked.append(group)


def remove(size: int, group_cuts: list[GroupCuts], counts: Mapping[int, int]) -> Mask:
    """The mask over ``size`` labels that removes the given number of units of every group."""
    mask = np.zeros(size, bool)
    for place, count in counts.items():
        mask[group_cuts[place].units[:count]] = True
    return mask


def least_cut(group_cuts: list[GroupCuts]) -> dict[int, int]:
    """The smallest cut: what the user fixed, and nothing else."""
    return {place: group_cut.steps[0] for place, group_cut in enumerate(group_cuts)}


def most_cut(group_cuts: list[GroupCuts]) -> dict[int, int]:
    """The largest cut: all units that can be removed."""
    return {place: group_cut.steps[-1] for place, group_cut in enumerate(group_cuts)}


def _fixed(group: Group, units: Ids, share: float, min_channels: int) -> int:
    """Number of units to remove so that about this share of the group is left.

    Raises:
        UserError: fewer channels would be left than every layer must keep.
    """
    per_unit = group.channels / max(len(group.units), 1)
    kept = max(round(share * group.channels / per_unit), 0)
    gone = len(group.units) - kept
    if gone > len(units):
        least = (len(group.units) - len(units)) * per_unit
        raise UserError(
            f"prune.layers: {share:.1%} of {group.name} are {share * group.channels:.3g} of {group.channels} "
            f"channels, but at least {least:.0f} must be kept (min_channels is {min_channels})",
            f"set the share to {least / group.channels + 0.0005:.3f} or more, or lower min_channels",
            least=least / group.channels,
        )
    return gone


def _steps(grouping: Grouping, group: Group, units: Ids, align: int) -> list[int]:
    rank = np.full(len(grouping.coupling.unions), len(units))
    rank[units] = np.arange(len(units))
    steps = set(range(len(units) + 1))
    if align > 1:
        for producer in group.producers:
            ranks = np.sort(rank[grouping.coupling.unions.find(producer.ids.numpy())])
            kept = len(ranks) - np.searchsorted(ranks, np.arange(len(units) + 1))
            steps &= {count for count, left in enumerate(kept.tolist()) if left == len(ranks) or left % align == 0}
    return sorted(steps | {0})


def _protected(grouping: Grouping, scores: Scores, least: int) -> Mask:
    """The most important units, so that no dimension of a value or parameter has fewer than ``least`` channels."""
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
