"""Cost of a program as a function of the removed channels: multiply-accumulates, parameters or bytes."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ...program import Cost, Program, macs_by_node
from ..coupling.groups import Grouping, trainable
from ..coupling.labels import Ids, Mask, Value, core, varying

Measure = Literal["macs", "parameters", "bytes"]
NAMES: dict[Measure, str] = {"macs": "multiply-accumulates", "parameters": "parameters", "bytes": "bytes"}


def counted(spent: Cost, measure: Measure) -> int:
    """The number that a budget of this measure counts."""
    return {"macs": spent.macs, "parameters": spent.parameters, "bytes": spent.parameter_bytes}[measure]


def unit_costs(program: Program, grouping: Grouping, measure: Measure) -> NDArray[np.float64]:
    """Cost of a unit of every group, as a share of the whole; an array over labels (measured on the first unit)."""
    model = CostModel(program, grouping, measure)
    removed = np.zeros(model.size, bool)
    whole, result = model(removed), np.ones(model.size)
    for group in grouping.free:
        removed[group.units[:1]] = True
        result[group.units] = (whole - model(removed)) / max(whole, 1.0)
        removed[group.units[:1]] = False
    return result


class CostModel:
    """Cost of a program as a function of the removed classes; exact for operators with a coupling rule.

    Args:
        measure: what to count.

    Attributes:
        size: length of a mask.
    """

    def __init__(self, program: Program, grouping: Grouping, measure: Measure) -> None:
        self.grouping = grouping
        self._coupling = grouping.coupling
        self.size = len(grouping.coupling.unions)
        self._axes: dict[bytes, int] = {}
        self._roots: list[Ids] = []
        self._products: list[tuple[float, list[tuple[int, int]]]] = []
        self._constant = 0.0
        if measure == "macs":
            self._add_macs(program)
        else:
            self._add_parameters(program, grouping, measure)
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
        base = macs_by_node(program)
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

    def _add_parameters(self, program: Program, grouping: Grouping, measure: Measure) -> None:
        def _weight(tensor: Tensor) -> float:
            return float(tensor.numel() * (tensor.element_size() if measure == "bytes" else 1))

        used = trainable(program, grouping.coupling)
        for name, tensor in used.items():
            ids = grouping.coupling.parameters[name]
            axes = [(self._axis(item.numpy()), size) for item, size in zip(ids, tensor.shape) if size > 1]
            self._products.append((_weight(tensor), axes))
        known = {id(tensor) for tensor in used.values()}
        self._constant = sum(_weight(item) for item in program.module.parameters() if id(item) not in known)

    def __call__(self, removed: Mask) -> float:
        """The cost if the classes in the mask (over labels) are removed."""
        kept = np.zeros(0)
        if len(self._flat):
            kept = np.add.reduceat(~removed[self._flat], self._starts, dtype=np.float64)
        total = self._constant
        for base, axes in self._products:
            for axis, size in axes:
                base *= kept[axis] / size
            total += base
        return total
