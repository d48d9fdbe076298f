"""Ridge regression from sums over rows, so that memory does not grow with the number of samples.

For inputs ``x`` and wanted outputs ``y`` of a layer, the sums of ``x``, ``y``, ``x xᵀ``, ``x yᵀ`` and ``y²`` are enough
to find the weights with the least squared error, and to compute the error of any weights.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_PART = 1 << 24
"""Number of values of ``x`` that are multiplied at once."""


@dataclass
class Moments:
    """Sums over rows, for each group of a layer by itself. All are about a fixed point near the mean.

    Attributes:
        point_x: that point of the inputs, ``[G, K]``.
        point_y: that point of the outputs, ``[G, O]``.
        xx: ``[G, K, K]``.
        xy: ``[G, K, O]``.
        yy: ``[G, O]``.
        x: ``[G, K]``.
        y: ``[G, O]``.
        count: number of rows.
    """

    point_x: Tensor
    point_y: Tensor
    xx: Tensor
    xy: Tensor
    yy: Tensor
    x: Tensor
    y: Tensor
    count: int = 0

    @staticmethod
    def about(x: Tensor, y: Tensor, like: Moments | None = None) -> Moments:
        """Empty sums about the mean of some rows, ``[R, G, K]`` and ``[R, G, O]``, or about the point of others."""
        (_, groups, width), outputs = x.shape, y.shape[2]
        point_x = like.point_x if like is not None else x.mean(0)
        point_y = like.point_y if like is not None else y.mean(0)
        sizes = (
            (groups, width, width),
            (groups, width, outputs),
            (groups, outputs),
            (groups, width),
            (groups, outputs),
        )
        xx, xy, yy, sum_x, sum_y = (torch.zeros(size, dtype=torch.float64) for size in sizes)
        return Moments(point_x, point_y, xx, xy, yy, sum_x, sum_y)

    def add(self, x: Tensor, y: Tensor) -> None:
        """Add rows, ``[R, G, K]`` and ``[R, G, O]``."""
        rows = max(1, _PART // max(1, x[0].numel()))
        for start in range(0, len(x), rows):
            a = (x[start : start + rows] - self.point_x).transpose(0, 1)
            b = (y[start : start + rows] - self.point_y).transpose(0, 1)
            self.xx += a.transpose(1, 2) @ a
            self.xy += a.transpose(1, 2) @ b
            self.yy += b.square().sum(1)
            self.x += a.sum(1)
            self.y += b.sum(1)
        self.count += len(x)

    def solve(self, weight: Tensor, ridge: float, intercept: bool) -> tuple[Tensor, Tensor]:
        """The weights ``[G, O, K]`` and the intercept ``[G, O]`` with the least error, near to given weights.

        Args:
            weight: the weights that the ridge pulls to.
            ridge: strength of that pull, as a share of each input's own energy.
            intercept: whether the layer has an intercept; otherwise it is zero.
        """
        xx, xy = (self._centred if intercept else self._raw)()
        weight = weight.double()
        energy = xx.diagonal(dim1=1, dim2=2)
        least = energy.mean(1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny) * 1e-6
        damped = xx + torch.diag_embed(ridge * energy + least)
        change = torch.linalg.solve(damped, xy - xx @ weight.transpose(1, 2)).transpose(1, 2)
        fitted = weight + change
        return fitted, self.intercept(fitted) if intercept else torch.zeros_like(self.y)

    def intercept(self, weight: Tensor) -> Tensor:
        """The intercept ``[G, O]`` with which the mean error of given weights is zero."""
        mean_x = self.point_x + self.x / self.count
        mean_y = self.point_y + self.y / self.count
        return mean_y - torch.einsum("gok,gk->go", weight.double(), mean_x)

    def error(self, weight: Tensor, intercept: Tensor) -> Tensor:
        """Mean squared error of every output, ``[G, O]``."""
        weight = weight.double()
        shift = intercept + torch.einsum("gok,gk->go", weight, self.point_x.double()) - self.point_y
        products = torch.einsum("gok,gkl,gol->go", weight, self.xx, weight)
        crossed = torch.einsum("gok,gko->go", weight, self.xy)
        linear = torch.einsum("gok,gk->go", weight, self.x) - self.y
        total = self.yy - 2 * crossed + products + 2 * shift * linear + self.count * shift.square()
        return (total / self.count).clamp(min=0)

    def plus(self, other: Moments) -> Moments:
        """The sums over both sets of rows, which must be about the same point."""
        parts = [getattr(self, name) + getattr(other, name) for name in ("xx", "xy", "yy", "x", "y", "count")]
        return Moments(self.point_x, self.point_y, *parts)

    def energy(self) -> Tensor:
        """Variance of every wanted output, ``[G, O]``."""
        return (self.yy / self.count - (self.y / self.count).square()).clamp(min=0)

    def _centred(self) -> tuple[Tensor, Tensor]:
        mean_x = self.x / self.count
        return (
            self.xx - self.count * mean_x.unsqueeze(2) * mean_x.unsqueeze(1),
            self.xy - mean_x.unsqueeze(2) * self.y.unsqueeze(1),
        )

    def _raw(self) -> tuple[Tensor, Tensor]:
        """The sums about zero."""
        px, py, n = self.point_x.double(), self.point_y.double(), self.count
        outer = self.x.unsqueeze(2) * px.unsqueeze(1)
        xx = self.xx + outer + outer.transpose(1, 2) + n * px.unsqueeze(2) * px.unsqueeze(1)
        mixed = self.x.unsqueeze(2) * py.unsqueeze(1) + px.unsqueeze(2) * (self.y + n * py).unsqueeze(1)
        return xx, self.xy + mixed
