"""Images moved by affine maps: exact where pixels only change their places, bilinear elsewhere."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ...tensors import Array

Maps = NDArray[np.float64]
"""``[N, 3, 3]``: where each pixel of a result comes from, in (x, y, 1) with the image's middle at (0, 0), in pixels."""
_CHUNK = 1 << 16
"""Pixels that are interpolated at once: their indices and weights fit into a core's cache."""


def identity(count: int) -> Maps:
    """Maps that move nothing."""
    return np.broadcast_to(np.eye(3), (count, 3, 3)).copy()


def moved(images: Array, maps: Maps, fill: Array | None, nearest: bool = False) -> Array:
    """Images after a map each.

    Args:
        images: ``[N, C, H, W]``.
        fill: ``[C, 1, 1]``, the value of places without pixels; None repeats the edge.
        nearest: whether values are copied instead of interpolated, as the numbers of classes need it.
    """
    height, width = images.shape[2:]
    exact = _whole(maps, height, width)
    if exact.all() and np.array_equal(maps, identity(len(maps))):
        return images
    result = np.empty_like(images)
    for row in np.flatnonzero(exact):
        _copied(images[row], maps[row], fill, result[row])
    rest = np.flatnonzero(~exact)
    size = max(1, _CHUNK // (height * width))
    for start in range(0, len(rest), size):
        rows = rest[start : start + size]
        x, y = _places(maps[rows], height, width)
        result[rows] = (_nearest if nearest else _bilinear)(images[rows], x, y, fill)
    return result


def _whole(maps: Maps, height: int, width: int) -> NDArray[np.bool_]:
    """Which maps only mirror and move by whole pixels."""
    turns, moves = maps[:, [0, 1], [0, 1]], maps[:, :2, 2]
    straight = (np.abs(turns) == 1).all(axis=1) & (maps[:, 0, 1] == 0) & (maps[:, 1, 0] == 0)
    found: NDArray[np.bool_] = straight & (np.abs(moves - np.rint(moves)) < 1e-9).all(axis=1)
    return found


def _copied(image: Array, one: Maps, fill: Array | None, result: Array) -> None:
    height, width = image.shape[1:]
    image = image[:, :: int(one[1, 1]), :: int(one[0, 0])]
    down, right = int(np.rint(one[1, 1] * one[1, 2])), int(np.rint(one[0, 0] * one[0, 2]))
    if fill is None:
        rows, columns = (np.clip(np.arange(n) + m, 0, n - 1) for n, m in ((height, down), (width, right)))
        result[:] = image[:, rows[:, None], columns]
        return
    result[:] = fill
    to, source = zip(*(_overlap(n, m) for n, m in ((height, down), (width, right))), strict=True)
    result[:, to[0], to[1]] = image[:, source[0], source[1]]


def _overlap(size: int, move: int) -> tuple[slice, slice]:
    """Places of a result and of its source along an axis, where place ``i`` comes from ``i + move``."""
    begin, end = max(0, -move), max(0, -move, min(size, size - move))
    return slice(begin, end), slice(begin + move, end + move)


def _places(maps: Maps, height: int, width: int) -> tuple[Array, Array]:
    """Columns and rows that the pixels of results come from, ``float32[N, H, W]``."""
    x = (np.arange(width) - (width - 1) / 2).astype(np.float32)
    y = (np.arange(height) - (height - 1) / 2)[:, None]
    found = []
    for axis, size in ((0, width), (1, height)):
        turn, step, move = (maps[:, axis, place, None, None] for place in range(3))
        found.append(turn.astype(np.float32) * x + (step * y + move + (size - 1) / 2).astype(np.float32))
    return found[0], found[1]


def _bilinear(images: Array, x: Array, y: Array, fill: Array | None) -> Array:
    if fill is not None:  # a border, into which values fade
        count, channels, height, width = images.shape
        framed = np.empty((count, channels, height + 2, width + 2), images.dtype)
        framed[:] = fill
        framed[:, :, 1:-1, 1:-1] = images
        images, x, y = framed, x + 1, y + 1
    count, channels, height, width = images.shape
    left, x = _split(x, width)
    top, y = _split(y, height)
    plane, right, below = height * width, min(1, width - 1), width * min(1, height - 1)
    first = top.astype(np.intp) * width + left + (np.arange(count) * channels * plane)[:, None, None]
    flat = images.reshape(-1)
    result = np.empty((count, channels, *x.shape[1:]), images.dtype)
    for channel in range(channels):
        upper, lower = (_row(flat[channel * plane + down :], first, right, x) for down in (0, below))
        result[:, channel] = _between(upper, lower, y)
    return result


def _row(values: Array, first: NDArray[np.intp], right: int, share: Array) -> Array:
    """Values between those at ``first`` and their right neighbours."""
    return _between(values.take(first, mode="clip"), values[right:].take(first, mode="clip"), share)


def _split(places: Array, size: int) -> tuple[NDArray[np.int32], Array]:
    """Places on an axis as the whole number before each, which has a neighbour behind, and the rest."""
    places = np.clip(places, 0, size - 1)
    whole = np.minimum(places.astype(np.int32), max(0, size - 2))
    return whole, places - whole.astype(np.float32)


def _between(one: Array, other: Array, share: Array) -> Array:
    """``one + share · (other - one)``, in the memory of ``other``."""
    other -= one
    other *= share
    other += one
    return other


def _nearest(images: Array, x: Array, y: Array, fill: Array | None) -> Array:
    height, width = images.shape[2:]
    columns, rows = np.rint(x).astype(np.intp), np.rint(y).astype(np.intp)
    outside = (columns < 0) | (columns >= width) | (rows < 0) | (rows >= height)
    at = np.clip(rows, 0, height - 1) * width + np.clip(columns, 0, width - 1)
    flat = images.reshape(*images.shape[:2], -1)
    result = np.take_along_axis(flat, at.reshape(len(at), 1, -1), axis=2).reshape(*images.shape[:2], *x.shape[1:])
    return result if fill is None else np.where(outside[:, None], fill, result)
