"""Metrics of embeddings that are searched by their cosine: recall@k, and how many neighbours two models share.

Every sample is a query among all others, which stay the same when the queries are resampled.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ...counts import counted
from ...errors import DataError
from ...tensors import Array
from ..intervals import Floats
from .classification import share_right
from .definition import Evidence, Statistic, rows_of

_QUERIES = 512
"""Number of queries whose similarities are in memory at a time."""


def recall_at(k: int, evidence: Evidence) -> Statistic:
    """The share of samples that have what they look for among their ``k`` nearest.

    With classes ``[N]`` as targets, a sample looks for another one of its class; one that is alone in its class does
    not count. With embeddings ``[N, D]`` as targets, it looks for its own target among all targets.

    Raises:
        DataError: the targets are neither, or there are too few samples.
    """
    outputs, targets = evidence
    found = rows_of(outputs)
    if targets.ndim > 1 and targets[0].size > 1:
        if rows_of(targets).shape != found.shape:
            raise DataError(
                f"outputs {list(outputs.shape)} and targets {list(targets.shape)} are no pairs of embeddings",
                "give targets of the output's shape, or one class per sample",
            )
        hits = np.concatenate([_own_place(near, start) < k for start, near in _near(found, rows_of(targets))])
        return hits.astype(np.float64)
    classes = targets.reshape(len(targets))
    _require(k, len(found), "recall")
    ahead = np.concatenate([_ahead(near, start, classes) for start, near in _near(found, found)])
    return share_right(((ahead >= 0) & (ahead < k), (ahead >= 0).astype(np.int64)))


def shared_neighbours(k: int, evidence: Evidence) -> Statistic:
    """The share of the ``k`` nearest samples of each that are the same for two models, ``[N]``.

    Raises:
        DataError: there are too few samples.
    """
    first, second = (rows_of(part) for part in evidence)
    _require(k, len(first), "overlap")
    shares = []
    for (start, one), (_, two) in zip(_near(first, first), _near(second, second), strict=True):
        shares.append((_nearest(one, start, k) & _nearest(two, start, k)).sum(axis=1) / k)
    return np.asarray(np.concatenate(shares), np.float64)


def _require(k: int, samples: int, name: str) -> None:
    if samples <= k:
        raise DataError(
            f"{name}@{k} needs more than {counted(k, 'sample')}, and there {'is' if samples == 1 else 'are'} {samples}",
            "give more samples, or a smaller number",
        )


def _near(queries: Floats, among: Floats) -> Iterator[tuple[int, Floats]]:
    """Cosines of some queries to all rows, with the index of the first query."""
    one, two = _unit(queries), _unit(among)
    for start in range(0, len(one), _QUERIES):
        yield start, one[start : start + _QUERIES] @ two.T


def _unit(rows: Floats) -> Floats:
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(np.divide(rows, length, out=np.zeros_like(rows), where=length > 0), np.float64)


def _own_place(near: Floats, start: int) -> Floats:
    """How many rows are nearer to each query than the row of its own number."""
    own = near[np.arange(len(near)), start + np.arange(len(near))][:, None]
    earlier = np.arange(near.shape[1]) < start + np.arange(len(near))[:, None]
    return np.asarray(((near > own) | ((near == own) & earlier)).sum(axis=1))


def _ahead(near: Floats, start: int, classes: Array) -> Array:
    """How many rows of other classes are nearer than the nearest of the query's class; -1 if it is alone."""
    rows = start + np.arange(len(near))
    same = classes[rows][:, None] == classes[None, :]
    same[np.arange(len(near)), rows] = False
    best = np.where(same, near, -np.inf)
    place = best.argmax(axis=1)[:, None]
    own = np.take_along_axis(best, place, axis=1)
    others = classes[rows][:, None] != classes[None, :]
    nearer = others & ((near > own) | ((near == own) & (np.arange(near.shape[1]) < place)))
    return np.asarray(np.where(same.any(axis=1), nearer.sum(axis=1), -1))


def _nearest(near: Floats, start: int, k: int) -> Array:
    """Whether each row is among the ``k`` nearest of each query, which is not its own neighbour."""
    near = near.copy()
    near[np.arange(len(near)), start + np.arange(len(near))] = -np.inf
    chosen = np.zeros(near.shape, bool)
    np.put_along_axis(chosen, np.argpartition(-near, k - 1, axis=1)[:, :k], True, axis=1)
    return chosen
