"""Mean average precision of boxes, against pycocotools and by hand."""

from __future__ import annotations

import contextlib
import io
from typing import Any

import numpy as np
import pytest

from retort.core.errors import DataError
from retort.core.metrics.task_metrics import evaluate, metric_interval, paired_difference, scorer
from retort.core.metrics.tasks.detection import joined_boxes
from retort.core.tensors import Array

coco: Any = pytest.importorskip("pycocotools.coco")
cocoeval: Any = pytest.importorskip("pycocotools.cocoeval")


def boxes(seed: int, images: int, noise: float, classes: int = 3) -> tuple[Array, Array]:
    """Detections near the targets, with false ones, and the targets."""
    rng = np.random.default_rng(seed)
    targets = np.full((images, 5, 5), -1.0)
    found = np.full((images, 8, 6), -1.0)
    for image in range(images):
        count = rng.integers(1, 6)
        corner, size = rng.uniform(0, 50, (count, 2)), rng.uniform(10, 40, (count, 2))
        own = np.concatenate([corner, corner + size], axis=1)
        labels = rng.integers(0, classes, count)
        targets[image, :count] = np.column_stack([own, labels])
        moved = own + rng.normal(0, noise, own.shape)
        moved[:, 2:] = np.maximum(moved[:, 2:], moved[:, :2] + 1)
        found[image, :count] = np.column_stack([moved, rng.uniform(0.2, 1, count), labels])
        found[image, count : count + 2] = [[0, 0, 20, 20, rng.uniform(0.1, 0.9), rng.integers(0, classes)]] * 2
    return found, targets


def theirs(found: Array, targets: Array) -> tuple[float, float]:
    """mAP@50:95 and mAP@50 of pycocotools' own accumulation."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth, given = coco.COCO(), coco.COCO()
        for dataset, samples, column in ((truth, targets, 4), (given, found, 5)):
            made: list[dict[str, Any]] = []
            for image, rows in enumerate(samples):
                for row in rows[rows[:, column] >= 0]:
                    width, height = row[2] - row[0], row[3] - row[1]
                    box = [row[0], row[1], width, height]
                    one = {"id": len(made) + 1, "image_id": image, "category_id": int(row[column]), "bbox": box}
                    made.append({**one, "area": width * height, "iscrowd": 0, "score": float(row[4])})
            labels = sorted({int(label) for label in targets[..., 4].ravel() if label >= 0})
            dataset.dataset = {
                "images": [{"id": index} for index in range(len(samples))],
                "categories": [{"id": label} for label in labels],
                "annotations": made,
            }
            dataset.createIndex()
        judged = cocoeval.COCOeval(truth, given, "bbox")
        judged.evaluate()
        judged.accumulate()
        judged.summarize()
    return float(judged.stats[0]), float(judged.stats[1])


@pytest.mark.parametrize(("seed", "noise"), [(0, 0.5), (1, 2.0), (2, 5.0), (3, 20.0)])
def test_it_equals_pycocotools(seed: int, noise: float) -> None:
    """Both values are those that pycocotools accumulates itself."""
    found, targets = boxes(seed, 12, noise)
    whole, half = theirs(found, targets)
    assert evaluate("map", found, targets) == pytest.approx(whole)
    assert evaluate("map50", found, targets) == pytest.approx(half)


def test_by_hand() -> None:
    """One of two targets is found with an overlap of one: average precision 51 / 101, as recall ends at one half."""
    targets = np.array([[[0.0, 0, 10, 10, 0], [20, 20, 30, 30, 0]]])
    found = np.array([[[0.0, 0, 10, 10, 0.9, 0]]])
    assert evaluate("map", found, targets) == pytest.approx(51 / 101)
    assert evaluate("map", np.full((1, 1, 6), -1.0), targets) == 0.0


def test_weights_are_repetitions_and_order_does_not_matter() -> None:
    """With weights, the value is that of pycocotools on images which are repeated so often."""
    found, targets = boxes(5, 10, 3.0)
    weights = np.random.default_rng(0).integers(0, 3, 10)
    chosen = np.random.default_rng(1).permutation(np.repeat(np.arange(10), weights))
    weighted = scorer("map", found, targets)(weights[None].astype(float))[0]
    assert weighted == pytest.approx(theirs(found[chosen], targets[chosen])[0])


def test_intervals_and_pairs() -> None:
    """A detector whose boxes are off is worse on the same images, and perfect boxes are no certainty."""
    (good, targets), (bad, _) = boxes(6, 20, 0.5), boxes(6, 20, 6.0)
    assert paired_difference("map", good, bad, targets).low > 0
    perfect = np.concatenate([targets[..., :4], np.ones((20, 5, 1)), targets[..., 4:]], axis=2)
    interval = metric_interval("map", perfect, targets)
    assert interval.value == interval.high == pytest.approx(1.0)
    assert interval.low < 0.95


def test_three_outputs_become_one() -> None:
    """boxes, scores and labels are joined; other outputs are refused with the shapes that they have."""
    found, _ = boxes(0, 3, 1.0)
    parts = {"pred_boxes": found[..., :4], "scores": found[..., 4], "labels": found[..., 5].astype(np.int64)}
    assert np.array_equal(joined_boxes(parts), found)
    assert joined_boxes({"detections": found}) is found
    with pytest.raises(DataError, match=r"the outputs logits \[2, 3\] are no boxes"):
        joined_boxes({"logits": np.zeros((2, 3))})


def test_bad_targets_are_told() -> None:
    """Targets without size or of another shape, and a set without a box, are refused."""
    found, targets = boxes(0, 3, 1.0)
    wrong = targets.copy()
    wrong[1, 0] = [5, 5, 5, 9, 0]
    with pytest.raises(DataError, match="a target box of sample 1 has no width"):
        evaluate("map", found, wrong)
    with pytest.raises(DataError, match="are no boxes"):
        evaluate("map", found, targets[..., :4])
    with pytest.raises(DataError, match="no target has a box"):
        evaluate("map", found, np.full_like(targets, -1.0))
