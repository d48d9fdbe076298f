"""The rows of a layer's inputs and wanted outputs, from which its weights are fitted."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ...graph.train_eval_mode import argument
from .fitted_layers import FittedLayer

_Pairs = list[tuple[int, int]]


class Rows:
    """Chooses rows of a layer's inputs and outputs: all, or as many at random positions as are needed.

    Args:
        most: largest number of rows of one chunk.
        seed: of the positions.
    """

    def __init__(self, layer: FittedLayer, weight: Tensor, most: int, seed: int = 0) -> None:
        self.layer, self.most = layer, most
        self.kernel = list(weight.shape[2:])
        self._draw = torch.Generator().manual_seed(seed)

    def choose(self, source: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
        """Rows of inputs ``[R, G, K]`` and of outputs ``[R, G, O]``."""
        groups = self.layer.groups
        outputs = wanted.movedim(self.layer.axis, -1)
        flat = outputs.reshape(-1, outputs.shape[-1])
        index = None if len(flat) <= self.most else torch.randperm(len(flat), generator=self._draw)[: self.most]
        y = flat if index is None else flat[index]
        x = self._windows(source, index) if self.kernel else source.reshape(-1, source.shape[-1])
        x = x if index is None or self.kernel else x[index]
        return x.reshape(len(x), groups, -1).float(), y.reshape(len(y), groups, -1).float()

    def _windows(self, source: Tensor, index: Tensor | None) -> Tensor:
        """The inputs of the chosen positions of a convolution, ``[R, C * kernel]``, as views until they are chosen."""
        stride, padding, dilation = (self._sizes(name) for name in ("stride", "padding", "dilation"))
        if self.layer.transposed:
            source, stride, padding = self._spread(source, stride, padding, dilation)
        ends = [side for before, after in reversed(padding) for side in (before, after)]
        value = functional.pad(source, ends) if any(ends) else source
        for dim, size in enumerate(self.kernel):
            reach = (size - 1) * dilation[dim][0] + 1
            value = value.unfold(2 + dim, reach, stride[dim][0])[..., :: dilation[dim][0]]
        rank = len(self.kernel)
        value = value.movedim(1, 1 + rank)  # [N, positions..., C, kernel...]
        if index is None:
            return value.reshape(-1, value[(0,) * (1 + rank)].numel())
        places = torch.unravel_index(index, value.shape[: 1 + rank])
        return value[places].reshape(len(index), -1)

    def _spread(
        self, source: Tensor, stride: _Pairs, padding: _Pairs, dilation: _Pairs
    ) -> tuple[Tensor, _Pairs, _Pairs]:
        """The input, stride and padding of the ordinary convolution that equals a transposed one."""
        sizes = [(size - 1) * step + 1 for size, (step, _) in zip(source.shape[2:], stride)]
        spread = source.new_zeros(*source.shape[:2], *sizes)
        places: tuple[slice, ...] = tuple(slice(None, None, step) for step, _ in stride)
        spread[(slice(None), slice(None), *places)] = source
        reaches = [(size - 1) * step for size, (step, _) in zip(self.kernel, dilation)]
        more = [extra for extra, _ in self._sizes("output_padding")]
        ends = [(reach - side, reach - side + extra) for reach, (side, _), extra in zip(reaches, padding, more)]
        return spread, [(1, 1)] * len(sizes), ends

    def _sizes(self, name: str) -> _Pairs:
        given: Any = argument(self.layer.node, name)
        rank = len(self.kernel)
        if isinstance(given, str):
            dilation = [one for one, _ in self._sizes("dilation")]
            total = [0 if given == "valid" else (size - 1) * step for size, step in zip(self.kernel, dilation)]
            return [(item // 2, item - item // 2) for item in total]
        listed = [int(item) for item in (given if isinstance(given, list | tuple) else [given])]
        return [(item, item) for item in (listed * rank if len(listed) == 1 else listed)]
