"""A program that learned nothing is told from one that did, for classes and for values."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from retort.compress.capture.capture_program import capture
from retort.compress.program import Program
from retort.compress.training.chance import doubt_of
from retort.core.data.splits import ArraySplit, Splits
from retort.core.tensors import Array


def linear(weight: Array, bias: Array | None = None) -> Program:
    """A linear program with the given weights ``[C, F]`` and bias ``[C]``."""
    layer = nn.Linear(weight.shape[1], weight.shape[0])
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(weight))
        layer.bias.copy_(torch.from_numpy(np.zeros(len(weight), np.float32) if bias is None else bias))
    return capture(layer, {"x": torch.zeros(2, weight.shape[1])})


def splits(targets: Array | None, classes: Array | None = None) -> Splits:
    """300 samples of 3 values: one-hot of a class, which by default is ``i % 3``."""
    values = np.eye(3, dtype=np.float32)[np.arange(300) % 3 if classes is None else classes]
    part = ArraySplit({"x": values}, targets)
    return Splits(part, part, part, part, ("ant", "bee", "cat"))


EYE = np.eye(3, dtype=np.float32)
CONSTANT = linear(np.zeros((3, 3), np.float32), np.array([0, 1, 0], np.float32))
GOOD = linear(EYE)
SHIFTED = linear(EYE[[1, 2, 0]])
NO_CATS = linear(np.array([[1, 0, 0], [0, 1, 1], [0, 0, 0]], np.float32))
CLASSES = np.arange(300) % 3


def test_a_constant_class_and_chance_are_named() -> None:
    """One class for all samples is named with its name; wrong classes are at chance; a sound program has no doubt."""
    assert doubt_of(GOOD, splits(CLASSES), "classification") == ""
    assert "every sample the class bee, and is right in 33.3%" in doubt_of(CONSTANT, splits(CLASSES), "classification")
    assert "at chance" in doubt_of(SHIFTED, splits(CLASSES), "classification")


@pytest.mark.parametrize("labelled", [True, False])
def test_a_student_is_compared_with_its_teacher(labelled: bool) -> None:
    """A student with most of its teacher's skill is sound, one that lost most of it is not, also without labels."""
    many, few = np.repeat([0, 1, 2], [130, 130, 40]), np.repeat([0, 1, 2], [40, 130, 130])
    for classes, wanted in (
        (many, ""),
        (few, "far below its teacher: right in 56.7% of the samples, the teacher in 100"),
    ):
        doubt = doubt_of(NO_CATS, splits(classes if labelled else None, classes), "classification", GOOD)
        assert (wanted in doubt) if wanted else not doubt
        assert "every sample the class bee" in doubt_of(
            CONSTANT, splits(classes if labelled else None, classes), "classification", GOOD
        )


def test_few_samples_are_no_evidence() -> None:
    """What a sound program can do with a few samples is no doubt, and the same share of many samples is one."""
    for count, doubted in ((6, False), (12, False), (240, True)):
        inputs = np.arange(count) % 2
        labels = np.where(np.arange(count) % 4 < 2, inputs, 1 - inputs)  # half of them are those that GOOD gives
        part = ArraySplit({"x": EYE[inputs]}, labels)
        doubt = doubt_of(GOOD, Splits(part, part, part, part), "classification")
        assert ("at chance: right in 50.0% of 240 samples" in doubt) if doubted else doubt == ""
    for count, doubted in ((3, False), (30, True)):
        part = ArraySplit({"x": EYE[np.arange(count) % 3]}, np.array([1, 1, 0])[np.arange(count) % 3])
        assert bool(doubt_of(CONSTANT, Splits(part, part, part, part), "classification")) == doubted
    opposite = linear(np.array([[1, 1, 2]], np.float32))
    for count, doubted in ((3, False), (300, True)):
        part = ArraySplit({"x": EYE[np.arange(count) % 3]}, np.array([[1], [3], [1]], np.float32)[np.arange(count) % 3])
        assert bool(doubt_of(opposite, Splits(part, part, part, part), "regression")) == doubted


def test_values_are_compared_with_their_mean() -> None:
    """A regression that explains nothing of the variance is named, and so is a student that explains little."""
    wanted = (np.arange(300) % 3).astype(np.float32)[:, None]
    exact, mean = linear(np.array([[0, 1, 2]], np.float32)), linear(np.array([[1, 1, 1]], np.float32))
    weak = linear(np.array([[0.9, 1, 1.1]], np.float32))
    assert doubt_of(exact, splits(wanted), "regression") == ""
    assert "no better than the mean" in doubt_of(mean, splits(wanted), "regression")
    assert "far below its teacher" in doubt_of(weak, splits(wanted), "regression", exact)
    assert doubt_of(weak, splits(wanted), "regression") == ""
