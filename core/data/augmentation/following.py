"""Targets that move with their images: dense ones, pixel by pixel, and boxes."""

from __future__ import annotations

from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from ...metrics.tasks.classification import IGNORED, VOID
from ...tensors import Array
from .warping import Maps, moved

Follows = Literal["nothing", "mask", "boxes"]
"""What moves with the images of a data set."""
KEPT = 0.1
"""Share of its area that a box keeps within the image, below which it is left out."""
LEFT_OUT = -1
"""Label of a box that is left out, as of the boxes that fill up an image with fewer."""


class Following(Protocol):
    """Targets of a batch that move with its images."""

    def move(self, maps: Maps, rows: NDArray[np.bool_]) -> None:
        """Move the targets at some rows by a map each."""
        ...

    def result(self) -> Array:
        """The targets in their own layout."""
        ...


class Mask:
    """Dense targets ``[N, H, W]`` or ``[N, K, H, W]``: classes are copied, and values interpolated.

    Free places do not count: -100, or 255 of bytes. They are 0 for values, which have no such number.
    """

    def __init__(self, targets: Array) -> None:
        self._flat = targets.ndim == 3
        self._values = targets[:, None].copy() if self._flat else targets.copy()

    def move(self, maps: Maps, rows: NDArray[np.bool_]) -> None:
        """See :meth:`Following.move`."""
        part = self._values[rows]
        fill = {"f": 0, "u": VOID}.get(part.dtype.kind, IGNORED)
        nothing = np.full((part.shape[1], 1, 1), fill, part.dtype)
        self._values[rows] = moved(part, maps, nothing, nearest=part.dtype.kind != "f")

    def result(self) -> Array:
        """See :meth:`Following.result`."""
        return self._values[:, 0] if self._flat else self._values


class Boxes:
    """Boxes ``[N, M, 5]`` of ``x1, y1, x2, y2, label`` in pixels; a moved box is the smallest around its corners.

    Args:
        size: height and width of the images.
    """

    def __init__(self, targets: Array, size: tuple[int, int]) -> None:
        self._values, self._size = targets.astype(np.float64), size
        self._dtype = targets.dtype

    def move(self, maps: Maps, rows: NDArray[np.bool_]) -> None:
        """See :meth:`Following.move`."""
        height, width = self._size
        boxes = self._values[rows]
        forward = np.linalg.inv(maps)[:, None]
        x, y = boxes[..., [0, 2, 0, 2]] - width / 2, boxes[..., [1, 1, 3, 3]] - height / 2
        across, down = (forward[..., i, :1] * x + forward[..., i, 1:2] * y + forward[..., i, 2:] for i in (0, 1))
        whole = [
            across.min(-1) + width / 2,
            down.min(-1) + height / 2,
            across.max(-1) + width / 2,
            down.max(-1) + height / 2,
        ]
        shown = [np.clip(edge, 0, size) for edge, size in zip(whole, (width, height, width, height), strict=True)]
        lost = _area(*shown) < KEPT * np.maximum(_area(*whole), 1e-9)
        boxes[..., :4] = np.where(boxes[..., 4:] < 0, boxes[..., :4], np.stack(shown, axis=-1))
        boxes[..., 4] = np.where(lost, np.minimum(boxes[..., 4], LEFT_OUT), boxes[..., 4])
        self._values[rows] = boxes

    def result(self) -> Array:
        """See :meth:`Following.result`."""
        return self._values.astype(self._dtype)


def _area(left: Array, top: Array, right: Array, bottom: Array) -> Array:
    area: Array = (right - left) * (bottom - top)
    return area
