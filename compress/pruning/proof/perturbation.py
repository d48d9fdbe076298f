"""Random noise on parameters for a proof: the same noise in the original and, cut, in the pruned program."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ...graph.module_edit import fetch
from ...program import Program
from ..coupling.labels import Ids, Mask
from ..coupling.propagate import Coupling
from ..surgery.slice_parameters import kept_of, sliced

_NOISE = 0.25
_SLICE = 1 << 18


@dataclass(frozen=True)
class Noise:
    """Adds noise to the parameters of one side of a proof, in slices, so that no second set of parameters is in memory.

    Attributes:
        before: the program before the cut.
        coupling: its labels.
        removed: the removed classes, as a mask over labels.
        cut: whether the side is the pruned program, whose parameters are parts of the original ones.
    """

    before: Program
    coupling: Coupling
    removed: Mask
    cut: bool

    def perturbed(self, name: str, tensor: Tensor) -> Tensor:
        """A parameter with its noise; unchanged if it is not a parameter of the original."""
        leader = self.coupling.aliases.get(name)
        if leader is None:
            return tensor
        moved, place = tensor.detach().clone(), 0
        first, *others = self._kept(leader)
        for start, noise in self._slices(leader):
            inside = None if first is None else first[(first >= start) & (first < start + len(noise))] - start
            part = sliced(noise, [inside, *others])
            _rows(moved)[place : place + len(part)] += part
            place += len(part)
        return moved

    def looked_up(self, name: str, indices: Tensor, rows: Tensor) -> Tensor:
        """Rows of an embedding table with their noise.

        Args:
            name: name of the table, of which no row was removed.
            indices: indices of the rows, of any shape.
            rows: the selected rows, with the shape of ``indices`` and the table's width.
        """
        leader = self.coupling.aliases.get(name)
        if leader is None:
            return rows
        result, others = rows.clone(), self._kept(leader)[1:]
        for start, noise in self._slices(leader):
            inside = (indices >= start) & (indices < start + len(noise))
            if bool(inside.any()):
                result[inside] += sliced(noise, [None, *others])[indices[inside] - start].to(result.dtype)
        return result

    def _kept(self, leader: str) -> list[Ids | None]:
        return (kept_of(self.coupling, leader, self.removed) if self.cut else []) or [None]

    def _slices(self, leader: str) -> Iterator[tuple[int, Tensor]]:
        """The noise of a parameter in slices of rows, each with the index of its first row."""
        tensor = _rows(fetch(self.before.module, leader).detach())
        generator = torch.Generator().manual_seed(list(self.coupling.parameters).index(leader))
        spread = float(tensor.float().std()) if tensor.numel() > 1 else 0.0
        size = max(1, _SLICE * len(tensor) // max(1, tensor.numel()))
        for start in range(0, len(tensor), size):
            part = tensor[start : start + size]
            noise = torch.randn(part.shape, generator=generator).mul_(_NOISE * (spread if spread > 0 else 0.5))
            yield start, noise.to(tensor)


def _rows(tensor: Tensor) -> Tensor:
    """The tensor; a scalar becomes one row."""
    return tensor if tensor.dim() else tensor.unsqueeze(0)


__all__ = ["Noise"]
