"""Mean average precision of boxes, as the COCO benchmark defines it (Lin et al., 2014), for any weights of the images.

Outputs are ``[N, D, 6]`` with ``x1, y1, x2, y2, score, label`` for each box, and targets ``[N, M, 5]`` with ``x1, y1,
x2, y2, label``, in pixels. A negative label fills up images with fewer boxes. pycocotools pairs boxes with targets.
"""

from __future__ import annotations

import contextlib
import importlib
import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...errors import DataError
from ...system.installation import needed
from ...tensors import Array
from ..intervals import Floats, Score
from .definition import Evidence, divided, in_chunks

OVERLAPS = np.linspace(0.5, 0.95, 10)
"""Least overlaps of a box with its target, as intersection over union."""
RECALLS = np.linspace(0.0, 1.0, 101)
MOST = 100
"""Number of boxes of each image that count, those of the highest scores."""


def joined_boxes(outputs: Mapping[str, Array]) -> Array:
    """The boxes of a detector in one array ``[N, D, 6]``.

    It returns them so, as an output of six columns, or as the outputs ``boxes`` ``[N, D, 4]``, ``scores`` and
    ``labels`` ``[N, D]`` with these words in their names.

    Raises:
        DataError: there are no such outputs.
    """
    whole = next((value for value in outputs.values() if value.ndim == 3 and value.shape[2] == 6), None)
    if whole is not None:
        return whole
    parts = [_named(outputs, words) for words in (("box",), ("score", "conf"), ("label", "class"))]
    if all(part is not None for part in parts):
        boxes, scores, labels = (part for part in parts if part is not None)
        if boxes.ndim == 3 and boxes.shape[2] == 4 and scores.shape == labels.shape == boxes.shape[:2]:
            return np.concatenate([boxes, scores[..., None], labels[..., None]], axis=2).astype(np.float64)
    shapes = ", ".join(f"{name} {list(value.shape)}" for name, value in outputs.items())
    raise DataError(
        f"the outputs {shapes} are no boxes",
        "return [batch, boxes, 6] with x1, y1, x2, y2, score, label, or outputs boxes, scores and labels",
    )


def _named(outputs: Mapping[str, Array], words: tuple[str, ...]) -> Array | None:
    return next((value for name, value in outputs.items() if any(word in name.lower() for word in words)), None)


def boxes_given(outputs: Array, targets: Array) -> Evidence:
    """Boxes and targets after a check.

    Raises:
        DataError: their shapes are others, or a target has no size.
    """
    if outputs.ndim != 3 or outputs.shape[2] != 6 or targets.ndim != 3 or targets.shape[2] != 5:
        raise DataError(
            f"outputs {list(outputs.shape)} and targets {list(targets.shape)} are no boxes",
            "give outputs [N, boxes, 6] with x1, y1, x2, y2, score, label, and targets [N, boxes, 5] with x1, y1, x2, "
            "y2, label, filled up with the label -1",
        )
    real = targets[..., 4] >= 0
    wrong = real & ((targets[..., 2] <= targets[..., 0]) | (targets[..., 3] <= targets[..., 1]))
    if wrong.any():
        raise DataError(
            f"a target box of sample {int(np.argwhere(wrong)[0][0])} has no width or no height",
            "give the corners x1, y1, x2, y2 with x1 < x2 and y1 < y2",
        )
    return outputs, targets


@dataclass(frozen=True)
class _Class:
    """The boxes of one class in order of their scores.

    Attributes:
        image: the image of each box.
        right: whether it is paired with a target at each overlap, ``[T, boxes]``.
        targets: number of targets in each image.
    """

    image: Array
    right: Array
    targets: Floats


def mean_average_precision(overlaps: Array, evidence: Evidence) -> Score:
    """The mean over classes and overlaps of the average precision, as a function of the images' weights.

    Raises:
        MachineError: pycocotools is not installed.
        DataError: there is no target.
    """
    classes = _paired(evidence[0], evidence[1], overlaps)
    most = max((one.right.size for one in classes), default=1)

    def _score(weights: Floats) -> Floats:
        found = np.stack([_average_precision(one, weights) for one in classes])
        known = ~np.isnan(found)
        return divided(np.where(known, found, 0.0).sum(axis=0), known.sum(axis=0).astype(np.float64))

    return in_chunks(_score, 4 * most)


def _average_precision(one: _Class, weights: Floats) -> Floats:
    """The precision at 101 recalls, averaged over the overlaps, ``[B]``; NaN where no image has the class."""
    total = weights @ one.targets
    mine = weights[:, one.image]
    if not len(one.image):
        return np.where(total > 0, 0.0, np.nan)
    seen = np.cumsum(mine, axis=1)
    values = []
    for right in one.right:
        hits = np.cumsum(mine * right, axis=1)
        precision = np.divide(hits, seen, out=np.zeros_like(hits), where=seen > 0)
        best = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        recall = np.divide(hits, total[:, None], out=np.zeros_like(hits), where=total[:, None] > 0)
        values.append(_at_recalls(recall, best))
    return np.where(total > 0, np.mean(values, axis=0), np.nan)


def _at_recalls(recall: Floats, precision: Floats) -> Floats:
    """The mean over 101 recalls of the precision at the first box with at least that recall; 0 without one."""
    padded = np.concatenate([precision, np.zeros((len(precision), 1))], axis=1)
    found = np.empty(len(recall))
    for row in range(len(recall)):
        found[row] = padded[row, np.searchsorted(recall[row], RECALLS, side="left")].mean()
    return found


def _paired(outputs: Array, targets: Array, overlaps: Array) -> list[_Class]:
    """The boxes of each class that has targets."""
    wanted = [sample[sample[:, 4] >= 0].astype(np.float64) for sample in targets]
    found = [sample[(sample[:, 5] >= 0) & (sample[:, 4] > 0)].astype(np.float64) for sample in outputs]
    labels = sorted({int(label) for sample in wanted for label in sample[:, 4]})
    if not labels:
        raise DataError("no target has a box", "give samples with boxes")
    images = _evaluated(found, wanted, labels, overlaps)
    return [_class_of(images[index * len(wanted) : (index + 1) * len(wanted)]) for index in range(len(labels))]


def _class_of(images: list[dict[str, Any] | None]) -> _Class:
    known = [(index, one) for index, one in enumerate(images) if one is not None]
    targets = np.zeros(len(images))
    for index, one in known:
        targets[index] = len(one["gtIds"])
    with_boxes = [(index, one) for index, one in known if len(one["dtScores"])]
    if not with_boxes:
        return _Class(np.zeros(0, np.int64), np.zeros((1, 0)), targets)
    scores = np.concatenate([one["dtScores"] for _, one in with_boxes])
    order = np.argsort(-scores, kind="mergesort")
    image = np.repeat([index for index, _ in with_boxes], [len(one["dtScores"]) for _, one in with_boxes])
    right = np.concatenate([one["dtMatches"] > 0 for _, one in with_boxes], axis=1)
    return _Class(image[order], right[:, order].astype(np.float64), targets)


def _evaluated(
    found: list[Array], wanted: list[Array], labels: list[int], overlaps: Array
) -> list[dict[str, Any] | None]:
    """What pycocotools says of each class and image."""
    with needed("pycocotools", "mean average precision of boxes"):
        coco = importlib.import_module("pycocotools.coco")
        judge = importlib.import_module("pycocotools.cocoeval")
    with contextlib.redirect_stdout(io.StringIO()):
        truth, given = coco.COCO(), coco.COCO()
        for dataset, samples, column in ((truth, wanted, 4), (given, found, 5)):
            dataset.dataset = {
                "images": [{"id": index} for index in range(len(samples))],
                "categories": [{"id": label} for label in labels],
                "annotations": _annotations(samples, column),
            }
            dataset.createIndex()
        judged = judge.COCOeval(truth, given, "bbox")
        judged.params.iouThrs = np.asarray(overlaps, np.float64)
        judged.params.areaRng, judged.params.areaRngLbl = [[0.0, 1e10]], ["all"]
        judged.params.maxDets = [MOST]
        judged.evaluate()
    images: list[dict[str, Any] | None] = judged.evalImgs
    return images


def _annotations(samples: list[Array], column: int) -> list[dict[str, Any]]:
    made: list[dict[str, Any]] = []
    for image, boxes in enumerate(samples):
        for box in boxes:
            width, height = max(box[2] - box[0], 0.0), max(box[3] - box[1], 0.0)
            one = {"image_id": image, "category_id": int(box[column]), "bbox": [box[0], box[1], width, height]}
            more = {"id": len(made) + 1, "area": width * height, "iscrowd": 0, "score": float(box[4])}
            made.append({**one, **more})
    return made
