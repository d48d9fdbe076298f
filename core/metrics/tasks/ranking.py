"""Metrics of the order in which scores put the samples: area under the ROC curve, and average precision.

With several classes, each is ranked against all others by its probability; with several labels per sample, each label
is ranked by its own score. The value is the mean over the classes or labels of which there are samples of both kinds.
Equal scores count half in the area, and as one threshold in the precision, as in scikit-learn.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np

from ...errors import DataError
from ...tensors import Array
from ..intervals import Floats, Score
from .classification import IGNORED, label_indicators, true_classes
from .definition import Evidence, divided, in_chunks
from .probabilities import probabilities_of

Kind = Literal["area", "precision"]


def ranked_scores(outputs: Array, targets: Array) -> Evidence:
    """Scores and truth, ``[N, L]`` each, a column per class or label; the truth is 1, 0, or -1 where it is not known.

    Raises:
        DataError: the targets are not classes of whole samples, and not labels.
    """
    if label_indicators(outputs, targets) is not None:
        return outputs.astype(np.float64), np.where(targets == IGNORED, -1, targets).astype(np.int8)
    labels = targets.reshape(len(targets)) if targets.ndim == 2 and targets.shape[1] == 1 else targets
    if labels.ndim != 1 or outputs.ndim > 2:
        raise DataError(
            f"outputs {list(outputs.shape)} with targets {list(targets.shape)} are not ranked",
            "give one class per sample, or 0 or 1 for each label",
        )
    scores = outputs.reshape(len(outputs), -1)
    classes = max(2, scores.shape[1])
    truth = true_classes(labels, classes)
    if scores.shape[1] <= 2:
        column = scores[:, -1].astype(np.float64) - (scores[:, 0] if scores.shape[1] == 2 else 0)
        return column[:, None], (truth == 1).astype(np.int8)[:, None]
    return probabilities_of(scores), (truth[:, None] == np.arange(classes)).astype(np.int8)


def mean_of_columns(kind: Kind, evidence: Evidence) -> Score:
    """The mean over the columns with samples of both kinds, as a function of sample weights.

    Raises:
        DataError: no column has both.
    """
    scores, truth = evidence
    usable = [i for i in range(truth.shape[1]) if (truth[:, i] == 1).any() and (truth[:, i] == 0).any()]
    if not usable:
        raise DataError(
            "all targets are of the same class, so that there is no order to judge", "give samples of both kinds"
        )
    made = [_column(kind, scores[:, i], truth[:, i]) for i in usable]

    def _score(weights: Floats) -> Floats:
        found = np.stack([one(weights) for one in made])
        known = ~np.isnan(found)
        return divided(np.where(known, found, 0.0).sum(axis=0), known.sum(axis=0).astype(np.float64))

    return in_chunks(_score, 3 * len(scores))


def rarest_kind(evidence: Evidence) -> float:
    """How much one sample can change the mean: ``N`` by the size of the smaller kind and the number of columns."""
    truth = evidence[1]
    sizes = np.minimum((truth == 1).sum(axis=0), (truth == 0).sum(axis=0))
    sizes = sizes[sizes > 0]
    return float(len(truth) / (len(sizes) * sizes.min())) if len(sizes) else 1.0


def _column(kind: Kind, scores: Array, truth: Array) -> Callable[[Floats], Floats]:
    known = np.flatnonzero(truth >= 0)
    order = known[np.argsort(-scores[known], kind="stable")]
    starts = np.flatnonzero(np.diff(scores[order], prepend=np.nan) != 0)
    right = (truth[order] == 1).astype(np.float64)

    def _value(weights: Floats) -> Floats:
        mine = weights[:, order]
        hits = np.add.reduceat(mine * right, starts, axis=1)
        all_ = np.add.reduceat(mine, starts, axis=1)
        total, every = hits.sum(axis=1), all_.sum(axis=1)
        if kind == "precision":
            above, seen = np.cumsum(hits, axis=1), np.cumsum(all_, axis=1)
            shares = np.divide(above, seen, out=np.zeros_like(above), where=seen > 0)
            return divided((hits * shares).sum(axis=1), np.where(every > total, total, 0.0))
        misses = all_ - hits
        below = (every - total)[:, None] - np.cumsum(misses, axis=1) + misses / 2
        return divided((hits * below).sum(axis=1), total * (every - total))

    return _value
