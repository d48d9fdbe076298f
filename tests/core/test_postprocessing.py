"""What outputs say: labels, tokens, masks, boxes, and arrays whose samples lie along any axis."""

from __future__ import annotations

import numpy as np
import pytest

from retort.core.postprocessing import Reading, guessed_reading, guessed_scores, read_outputs
from retort.core.preprocessing.sample_reader import Samples
from retort.core.preprocessing.specs import ImageInput
from retort.core.signature import Signature
from retort.core.tensors import TensorSpec

PICTURES = (ImageInput("image", (4, 4)),)


def signature(*outputs: TensorSpec, classes: tuple[str, ...] = ()) -> Signature:
    """A model of pictures with these outputs."""
    return Signature(
        (TensorSpec("image", "float32", ("batch", 3, 4, 4)),), outputs, classes=classes, preprocessing=PICTURES
    )


def test_labels_are_the_best_with_their_scores_and_nan_has_none() -> None:
    """Logits become shares that sum to 1; a row of NaN has no label."""
    model = signature(TensorSpec("y", "float32", ("batch", 3)), classes=("a", "b", "c"))
    logits = np.array([[0, 2, 1], [np.nan, 0, 0]], np.float32)
    first, second = read_outputs({"y": logits}, model, Samples(), Reading("softmax", 2))
    assert [one["label"] for one in first["labels"]] == ["b", "c"]
    assert first["score"] == pytest.approx(np.exp(2) / (1 + np.exp(1) + np.exp(2)))
    assert second == {"label": None, "score": None, "labels": []}
    assert guessed_reading(model, {"y": logits[:1]}) == "softmax"
    assert guessed_scores(np.array([[0.25, 0.75]], np.float32)) == "raw"


def test_samples_may_lie_along_any_axis_of_an_output() -> None:
    """An output with time first is given sample by sample, and one that all samples share with each of them."""
    model = signature(TensorSpec("states", "float32", (5, "batch", 2)), TensorSpec("table", "float32", (3,)))
    states, table = np.arange(20, dtype=np.float32).reshape(5, 2, 2), np.arange(3, dtype=np.float32)
    found = read_outputs({"states": states, "table": table}, model, Samples(), Reading())
    assert len(found) == 2
    for row, said in enumerate(found):
        np.testing.assert_array_equal(said["states"], states[:, row])
        np.testing.assert_array_equal(said["table"], table)


def test_boxes_are_in_pixels_of_the_picture_that_was_sent() -> None:
    """Centre, width and height become corners; boxes of low score, of no object and of NaN are left out."""
    outputs = (TensorSpec("logits", "float32", ("batch", 4, 3)), TensorSpec("pred_boxes", "float32", ("batch", 4, 4)))
    model = signature(*outputs, classes=("cat", "dog"))
    logits = np.array([[[9, 0, 0], [0, 0, 9], [0.1, 0, 0], [np.nan, 0, 0]]], np.float32)
    boxes = np.tile(np.array([0.5, 0.5, 0.2, 0.4], np.float32), (1, 4, 1))
    found = read_outputs({"logits": logits, "pred_boxes": boxes}, model, Samples(pictures=[(100, 50)]), Reading())
    ((box,),) = [said["boxes"] for said in found]
    assert (box["label"], box["box"]) == ("cat", [40.0, 15.0, 60.0, 35.0])
