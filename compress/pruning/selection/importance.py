"""Importance of channels, from all parameters or activations that a unit couples, comparable across groups.

Sources: weight norms (Li et al., 2017), group norm over all coupled parameters (Fang et al., 2023), BatchNorm scales
(Liu et al., 2017), first-order Taylor expansion (Molchanov et al., 2019), diagonal of the Hessian (LeCun et al., 1990).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from ....core.aten_names import CHANNEL_NORMS, TRAILING_NORMS, operator_name
from ....core.errors import UserError
from ....core.options.option_types import Importance, Normalization
from ...program import Program
from ..coupling.groups import Grouping, trainable
from ..coupling.shapes import bind

Scores = NDArray[np.float64]
Combine = Literal["relative", "sum", "root"]

NORMS = (*CHANNEL_NORMS, *TRAILING_NORMS, "group_norm", "native_layer_norm")
DATA_DRIVEN = ("taylor", "obd", "activation", "reconstruction")
_SLICE = 1 << 20
"""Number of values that are processed at once."""


@dataclass(frozen=True)
class Part:
    """The contribution of one dimension of a parameter or activation to the scores of the channels along it.

    Attributes:
        roots: class of every index, ``int64[n]``.
        values: its score, ``float64[n]``.
    """

    roots: NDArray[np.int64]
    values: Scores


Evidence = Callable[[Program, Grouping, Importance], list[Part]]
"""Computes the parts of every dimension from data, for a program, its groups and an importance."""


def score(
    program: Program,
    grouping: Grouping,
    criterion: Importance,
    seed: int,
    *,
    normalize: Normalization = "auto",
    evidence: Evidence | None = None,
) -> Scores:
    """One score per label class; higher is more important.

    A unit's score combines all its parts: for ``l1``, ``l2``, ``bn_scale`` and ``activation`` it is their mean, after
    each part is divided by its own mean; for ``group_norm`` the root of the sum of squares; for ``taylor`` and ``obd``
    the sum.

    Args:
        normalize: see :func:`normalized`; ``auto`` is the mean, and no normalisation for ``random``.
        evidence: computes data-driven criteria.

    Returns:
        An array over labels; only the entries of the groups' units are meaningful.

    Raises:
        UserError: the criterion needs data, or a normalisation layer, and there is none.
    """
    size = len(grouping.coupling.unions)
    how: Combine
    assert criterion != "auto", "the caller resolves auto, which depends on the evidence"
    if criterion == "random":
        scores: Scores = np.random.default_rng(seed).uniform(0.5, 1.5, size)
    elif criterion in DATA_DRIVEN:
        if evidence is None:
            raise UserError(f"importance '{criterion}' needs data, but no data are given", "give data, or use l2")
        how = "relative" if criterion == "activation" else "sum"
        scores = combine(evidence(program, grouping, criterion), size, how)
    elif criterion == "bn_scale":
        scores = _scales(program, grouping)
    else:
        how = "root" if criterion == "group_norm" else "relative"
        scores = combine(_norms(program, grouping, criterion), size, how)
    return normalized(scores, grouping, "mean" if normalize == "auto" and criterion != "random" else normalize)


def combine(parts: Iterable[Part], size: int, how: Combine) -> Scores:
    """Combine parts into one score per class.

    Args:
        how: ``relative``: the mean of the parts, each divided by its own mean; ``sum``; ``root``: the root of the sum.
    """
    total, count = np.zeros(size), np.zeros(size)
    for part in parts:
        mean = float(part.values.mean()) if len(part.values) else 0.0
        if how == "relative" and mean > 0:
            np.add.at(total, part.roots, part.values / mean)
            np.add.at(count, part.roots, 1.0)
        elif how != "relative":
            np.add.at(total, part.roots, part.values)
    if how == "relative":
        result: Scores = total / np.maximum(count, 1.0)
        return result
    return np.sqrt(total) if how == "root" else total


def normalized(scores: Scores, grouping: Grouping, how: Normalization, costs: Scores | None = None) -> Scores:
    """Make the scores of different groups comparable; all scores of a group whose divisor is 0 become 1.

    Args:
        how: the divisor of a group's scores: their mean, maximum or sum, the cost of one of its units or the root of
            that cost; ``standard`` subtracts the mean and divides by the standard deviation.
        costs: cost of every unit, as an array over labels; for ``cost`` and ``root_cost``.
    """
    if how in ("cost", "root_cost"):
        assert costs is not None, "the caller gives costs if the normalisation needs them"
        spent = np.maximum(costs, np.finfo(np.float64).tiny)
        result: Scores = scores / (spent if how == "cost" else np.sqrt(spent))
        return result
    scores = scores.copy()
    for group in grouping.free if how not in ("none", "auto") else ():
        own = scores[group.units]
        if how == "standard":
            spread = float(own.std())
            scores[group.units] = (own - own.mean()) / spread if spread > 0 else 0.0
            continue
        measure = float({"mean": own.mean(), "max": own.max(), "sum": own.sum()}[how])
        scores[group.units] = own / measure if measure > 0 else 1.0
    return scores


def parameter_dims(program: Program, grouping: Grouping) -> Iterable[tuple[str, torch.Tensor, int, NDArray[np.int64]]]:
    """Every parameter dimension with removable channels: name, tensor, dimension, and class of every index."""
    unions = grouping.coupling.unions
    for name, tensor in trainable(program, grouping.coupling).items():
        for dim, ids in enumerate(grouping.coupling.parameters[name]):
            roots = unions.find(ids.numpy())
            if len(roots) > 1 and not unions.locked(roots).all():
                yield name, tensor, dim, roots


def _norms(program: Program, grouping: Grouping, criterion: Importance) -> Iterable[Part]:
    for _, tensor, dim, roots in parameter_dims(program, grouping):
        measure = torch.Tensor.abs if criterion == "l1" else torch.Tensor.square
        values = along(dim, lambda part: measure(part.cpu().double()), tensor.detach())  # noqa: B023
        if criterion == "l2":
            values = values.sqrt()
        yield Part(roots, finite(values))


def along(dim: int, measure: Callable[..., torch.Tensor], *tensors: torch.Tensor) -> torch.Tensor:
    """Sums of an elementwise measure of tensors of equal shape over all dimensions except one, computed in slices.

    Args:
        measure: elementwise; returns ``float64``.

    Returns:
        ``float64[n]``, where n is the size of dimension ``dim``.
    """
    rows = len(tensors[0])
    size = max(1, _SLICE * rows // max(1, tensors[0].numel()))
    others = [item for item in range(tensors[0].dim()) if item != dim]
    found = []
    for start in range(0, rows, size):
        part = measure(*(tensor[start : start + size] for tensor in tensors))
        found.append(part.sum(others) if others else part)
    return torch.cat(found) if dim == 0 else torch.stack(found).sum(0)


def finite(values: torch.Tensor) -> Scores:
    """The values as an array, in which values that are not finite become the largest float."""
    result: Scores = torch.nan_to_num(values, nan=float(torch.finfo(torch.float32).max)).numpy()
    return result


def _scales(program: Program, grouping: Grouping) -> Scores:
    """Scales of normalisation layers; groups without such layers are ranked by the norms of their weights."""
    aliases, weights = grouping.coupling.aliases, set()
    for node in program.module.graph.nodes:
        weight = bind(node).get("weight") if operator_name(node) in NORMS else None
        if weight is not None and weight.op == "get_attr":
            weights.add(aliases.get(str(weight.target), str(weight.target)))
    parts = [
        Part(roots, finite(tensor.detach().cpu().to(torch.float64).abs()))
        for name, tensor, _, roots in parameter_dims(program, grouping)
        if name in weights and tensor.dim() == 1
    ]
    if not parts:
        raise UserError(
            "importance 'bn_scale' needs normalisation layers, and no layer that can be cut has one", "use l2"
        )
    size = len(grouping.coupling.unions)
    covered = np.zeros(size, bool)
    for part in parts:
        covered[part.roots] = True
    scores = normalized(combine(parts, size, "relative"), grouping, "mean")
    norms = normalized(combine(_norms(program, grouping, "l2"), size, "relative"), grouping, "mean")
    result: Scores = np.where(covered, scores, norms)
    return result
