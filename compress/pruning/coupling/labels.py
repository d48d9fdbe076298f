"""Channel labels: which channel each index of a value belongs to, and which channels must go together.

A value has a short list of label arrays. Each has the value's shape, with stride 0 along every dimension in which it
does not vary. So an array over 64 channels of a ``[2, 64, 56, 56]`` activation stores 64 numbers, and a data movement
is one call of the same operator. An element is removed if any of its labels is removed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

FIXED = 0
"""The label of elements that can never be removed, such as padding."""

EMPTY = "without it, a value would have no channels left"

Ids = NDArray[np.int64]
Mask = NDArray[np.bool_]


@dataclass
class Value:
    """The labels of one tensor.

    Attributes:
        shape: its concrete sizes at the example's batch size.
        arrays: label arrays of that shape; dimensions along which none varies are fixed.
        why: why the other dimensions are fixed, for the report.
    """

    shape: tuple[int, ...]
    arrays: list[Tensor] = field(default_factory=list)
    why: str = ""


class Unions:
    """Union-find over labels; every class is free, or locked with the first reason given."""

    def __init__(self) -> None:
        self._parent: Ids = np.zeros(1, np.int64)
        self._reason: NDArray[np.int32] = np.zeros(1, np.int32)
        self._reasons: list[str] = [""]
        self._weak: Mask = np.zeros(1, bool)
        self._count = 1
        self.lock(torch.zeros(1, dtype=torch.int64), "made of constants")

    def __len__(self) -> int:
        return self._count

    def fresh(self, count: int, weak: bool = False) -> Tensor:
        """``count`` new labels, ``int64[count]``; weak labels are dropped if a dimension gets other labels too."""
        start, self._count = self._count, self._count + count
        if self._count > len(self._parent):
            room = max(2 * len(self._parent), self._count)
            self._parent = np.concatenate([self._parent, np.arange(len(self._parent), room)])
            self._reason = np.concatenate([self._reason, np.zeros(room - len(self._reason), np.int32)])
            self._weak = np.concatenate([self._weak, np.zeros(room - len(self._weak), bool)])
        self._weak[start : self._count] = weak
        return torch.arange(start, self._count)

    def find(self, ids: Ids) -> Ids:
        """The class of every label, represented by its smallest member."""
        roots: Ids = self._parent[ids]
        while True:
            above = self._parent[roots]
            if np.array_equal(above, roots):
                self._parent[ids] = roots
                return roots
            roots = above

    def unite(self, first: Tensor, second: Tensor) -> None:
        """Unite the classes of labels at equal places (after broadcasting)."""
        a, b = np.broadcast_arrays(self.find(core(first).numpy()), self.find(core(second).numpy()))
        differ = a != b
        if not differ.any():
            return
        for one, two in np.unique(np.stack([a[differ], b[differ]], 1), axis=0).tolist():
            self._link(one, two)

    def _link(self, one: int, two: int) -> None:
        one, two = self._root(one), self._root(two)
        if one == two:
            return
        low, high = min(one, two), max(one, two)
        self._parent[high] = low
        reasons = [int(reason) for reason in (self._reason[low], self._reason[high]) if reason]
        self._reason[low] = min(reasons, default=0)
        self._weak[low] &= self._weak[high]

    def _root(self, label: int) -> int:
        while self._parent[label] != label:
            self._parent[label] = label = int(self._parent[self._parent[label]])
        return label

    def lock(self, ids: Tensor, why: str) -> None:
        """Lock the classes of these labels; a class keeps its first reason."""
        roots = np.unique(self.find(core(ids).numpy()))
        free = roots[self._reason[roots] == 0]
        if len(free):
            self._reasons.append(why)
            self._reason[free] = len(self._reasons) - 1

    def locked(self, ids: Ids) -> Mask:
        """Whether the class of each label is locked."""
        result: Mask = self._reason[self.find(ids)] != 0
        return result

    def strength(self, ids: Ids) -> int:
        """Number of free, not weak classes in an array of labels."""
        roots = np.unique(self.find(ids))
        return int((~self._weak[roots] & (self._reason[roots] == 0)).sum())

    def why(self, ids: Ids) -> str:
        """The reason of the first locked class among ``ids``; empty if all are free."""
        reasons = self._reason[self.find(ids.reshape(-1))]
        return self._reasons[int(reasons[reasons != 0][0])] if reasons.any() else ""


def varying(array: Tensor) -> set[int]:
    """Dimensions along which a label array varies."""
    return {dim for dim, (size, stride) in enumerate(zip(array.shape, array.stride())) if size > 1 and stride != 0}


def core(array: Tensor) -> Tensor:
    """The array with size 1 along every dimension in which it does not vary."""
    along = varying(array)
    return array[tuple(slice(None) if dim in along else slice(0, 1) for dim in range(array.dim()))]


def compact(array: Tensor) -> Tensor:
    """The same array with stride 0 along every dimension in which it is constant."""
    small = core(array)
    for dim in sorted(varying(array)):
        first = small.narrow(dim, 0, 1)
        if bool((small == first).all()):
            small = first
    return small.expand(array.shape)


def along(ids: Tensor, shape: Sequence[int], dim: int) -> Tensor:
    """An array of ``shape`` that varies along ``dim`` alone."""
    return ids.reshape([-1 if place == dim else 1 for place in range(len(shape))]).expand(tuple(shape))


def settle(unions: Unions, value: Value) -> Value:
    """The value with every label replaced by its class, without arrays that are completely locked.

    If all elements of a value belong to one class, that class must stay, so it is locked.
    """
    arrays, why = [], value.why
    for array in value.arrays:
        roots = unions.find(core(array).numpy())
        if unions.locked(roots).all():
            why = why or unions.why(roots)
            continue
        array = compact(torch.from_numpy(np.ascontiguousarray(roots)).expand(value.shape))
        if varying(array):
            arrays.append(array)
        else:
            unions.lock(array, EMPTY)
            why = why or EMPTY
    return Value(value.shape, arrays, why)


def lock_all(unions: Unions, value: Value, why: str) -> None:
    """Lock every label of a value."""
    for array in value.arrays:
        unions.lock(array, why)
